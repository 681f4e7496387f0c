"""The call that composes pictures."""

from __future__ import annotations

from torch import Tensor

from cuda_ext import abi, library
from cuda_ext.native.calls import contiguous, launch_of, pointer


def compose(
    lib, images: Tensor, matrices: Tensor, backgrounds: Tensor, windows: Tensor | None, Ks: Tensor | None, halve: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Pictures [C,H,W,3], mattes [C,H,W], and with windows the weights [C,H,W]."""
    images, matrices, backgrounds = contiguous((images, matrices, backgrounds))
    if windows is not None and Ks is not None:
        windows, Ks = contiguous((windows, Ks))
    C, height, width, _ = images.shape
    size = (height // 2, width // 2) if halve else (height, width)
    pictures, mattes = matrices.new_empty(C, *size, 3), matrices.new_empty(C, *size)
    weights = None if windows is None else matrices.new_empty(C, *size)
    args = abi.AvCompose(
        launch_of(images.device), C, 0 if windows is None else windows.shape[1], height, width, halve, 0, images.data_ptr(),
        matrices.data_ptr(), backgrounds.data_ptr(), pointer(windows), pointer(Ks), pictures.data_ptr(), mattes.data_ptr(), pointer(weights),
    )  # fmt: skip
    library.check(lib, lib.av_compose(args), "compose")
    return pictures, mattes, weights
