"""Calls of composed pictures and soft windows."""

from __future__ import annotations

from torch import Tensor

from cuda_ext import abi, library
from cuda_ext.native.calls import contiguous, launch_of


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
