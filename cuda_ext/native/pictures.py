"""Calls of composed pictures, soft windows and distances."""

from __future__ import annotations

import torch
from torch import Tensor

from cuda_ext import abi, library
from cuda_ext.native.calls import contiguous, launch_of, pointer, workspaces


def compose(lib, images: Tensor, matrices: Tensor, backgrounds: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures [C,H,W,3], mattes [C,H,W]."""
    images, matrices, backgrounds = contiguous((images, matrices, backgrounds))
    C, height, width, _ = images.shape
    pictures, mattes = matrices.new_empty(C, height, width, 3), matrices.new_empty(C, height, width)
    args = abi.AvCompose(
        launch_of(images.device), C, height, width, images.data_ptr(), matrices.data_ptr(), backgrounds.data_ptr(), pictures.data_ptr(),
        mattes.data_ptr(),
    )  # fmt: skip
    library.check(lib, lib.av_compose(args), "compose")
    return pictures, mattes


def soft_windows(lib, windows: Tensor, width: int, height: int) -> Tensor:
    """Weights [C, H, W]."""
    (windows,) = contiguous((windows,))
    C, W, _ = windows.shape
    weights = windows.new_empty(C, height, width)
    args = abi.AvWindows(launch_of(windows.device), C, W, height, width, windows.data_ptr(), weights.data_ptr())
    library.check(lib, lib.av_soft_windows(args), "soft_windows")
    return weights


class DistanceFunction(torch.autograd.Function):
    """The gradient is made on the way forward, where both pictures pass by anyway."""

    @staticmethod
    def forward(ctx, a, b, lib):
        a, b = contiguous((a, b))
        distance = a.new_empty(())
        v_a = torch.empty_like(a) if ctx.needs_input_grad[0] else None
        scratch = workspaces.take(8 * (a.numel() // 4096 + 1), a.device)
        args = abi.AvDistance(
            launch_of(a.device), a.numel(), a.data_ptr(), b.data_ptr(), distance.data_ptr(), pointer(v_a), scratch.data_ptr(), scratch.numel()
        )
        library.check(lib, lib.av_mean_distance(args), "mean_distance")
        workspaces.give(scratch)
        ctx.v_a = v_a
        return distance

    @staticmethod
    def backward(ctx, v_distance):
        return ctx.v_a * v_distance, None, None


def mean_distance(lib, a: Tensor, b: Tensor) -> Tensor:
    """A scalar."""
    return DistanceFunction.apply(a, b, lib)
