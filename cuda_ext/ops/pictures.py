"""Recorded pictures to what a loss compares with."""

from __future__ import annotations

import torch
from torch import Tensor

from cuda_ext import native, reference
from cuda_ext.ops.checks import check_size, expect, same_device


def compose(
    images: Tensor,  # [C, H, W, 4] uint8: colours times matte, matte
    matrices: Tensor,  # [C, 3, 4] per camera: what its colours become
    backgrounds: Tensor,  # [C, 3]
) -> tuple[Tensor, Tensor]:
    """Pictures [C,H,W,3] over a background, and mattes [C,H,W] in 0–1; no gradients. Float images (0–255) take the reference.

    picture = A·colours + b·matte + background·(1 - matte), matrices = [A | b], colours and matte divided by 255 (Porter & Duff 1984).
    """
    C, height, width = images.shape[:3]
    expect("images", images, (C, height, width, 4))
    expect("matrices", matrices, (C, 3, 4))
    expect("backgrounds", backgrounds, (C, 3))
    check_size(width, height)
    same_device(images, matrices, backgrounds)
    if torch.compiler.is_compiling():
        return tuple(torch.ops.avatars.compose(images, matrices, backgrounds))
    library = native.pick("av_compose", matrices, backgrounds) if images.dtype == torch.uint8 else None
    if library is None:
        return reference.compose(images, matrices.detach(), backgrounds.detach())
    return native.compose(library, images, matrices, backgrounds)


def soft_windows(
    windows: Tensor,  # [C, W, 5] middle x, y and half-sizes x, y in pixels, strength
    width: int,
    height: int,
) -> Tensor:
    """Weights [C, H, W] of pixels: 1 + Σ strength·exp(-x⁴)·exp(-y⁴), x and y from a window's middle in half-sizes; no gradients.

    A window is cut beyond 1.5 half-sizes, where it is below 1 %. One that is not finite or has no size adds nothing.
    """
    C, W = windows.shape[:2]
    expect("windows", windows, (C, W, 5))
    check_size(width, height)
    if torch.compiler.is_compiling():
        return torch.ops.avatars.soft_windows(windows, width, height)[0]
    library = native.pick("av_soft_windows", windows)
    if library is None:
        return reference.soft_windows(windows.detach(), width, height)
    return native.soft_windows(library, windows, width, height)
