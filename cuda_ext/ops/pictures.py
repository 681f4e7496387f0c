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
    *,
    windows: Tensor | None = None,  # [C, W, 5] middle x, y and half-sizes x, y in focal lengths from the principal point, strength
    Ks: Tensor | None = None,  # [C, 3, 3] of what is made, with windows
    halve: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Pictures [C,H,W,3] over a background, mattes [C,H,W] in 0–1, and with `windows` weights [C,H,W] of the pixels; no gradients.

    picture = A·colours + b·matte + background·(1 - matte), matrices = [A | b], colours and matte divided by 255 (Porter & Duff 1984).
    `halve` takes means of 2×2 pixels first; an odd last row or column is dropped.

    weight = 1 + Σ strength·exp(-x⁴)·exp(-y⁴), x and y from a window's middle in half-sizes. A window is cut beyond 1.5 half-sizes, where it
    is below 1 %. One that is not finite or has no size adds nothing.
    """
    C, height, width = images.shape[:3]
    expect("images", images, (C, height, width, 4), torch.uint8)
    expect("matrices", matrices, (C, 3, 4))
    expect("backgrounds", backgrounds, (C, 3))
    check_size(width // 2 if halve else width, height // 2 if halve else height)
    given = [images, matrices, backgrounds]
    if windows is not None:
        if Ks is None:
            raise ValueError("windows are in focal lengths: give the Ks")
        expect("windows", windows, (C, windows.shape[1], 5))
        expect("Ks", Ks, (C, 3, 3))
        given += [windows, Ks]
    same_device(*given)
    if torch.compiler.is_compiling():
        pictures, mattes, *weights = torch.ops.avatars.compose(images, matrices, backgrounds, windows, Ks, halve)
        return pictures, mattes, weights[0] if weights else None
    library = native.pick("av_compose", *given[1:])
    if library is None:
        windows, Ks = (None if t is None else t.detach() for t in (windows, Ks))
        return reference.compose(images, matrices.detach(), backgrounds.detach(), windows, Ks, halve)
    return native.compose(library, images, matrices, backgrounds, windows, Ks, halve)
