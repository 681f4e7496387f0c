"""Composed pictures and the weights of their pixels in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor


def compose(
    images: Tensor, matrices: Tensor, backgrounds: Tensor, windows: Tensor | None = None, Ks: Tensor | None = None, halve: bool = False
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Pictures [C,H,W,3], mattes and weights [C,H,W]; see `ops.compose`. Computes in the dtype of `matrices`."""
    values = images.to(matrices.dtype) / 255
    if halve:
        h, w = images.shape[1] // 2, images.shape[2] // 2
        values = values[:, : 2 * h, : 2 * w].unflatten(2, (w, 2)).unflatten(1, (h, 2)).mean((2, 4))
    matte = values[..., 3:]
    behind = backgrounds[:, None, None]
    colors = (matrices[:, None, None, :, :3] @ values[..., :3, None])[..., 0]
    pictures = colors + matrices[:, None, None, :, 3] * matte + behind * (1 - matte)
    weights = None if windows is None or Ks is None else soft_windows(windows, Ks, values.shape[2], values.shape[1])
    return pictures, matte[..., 0], weights


def soft_windows(windows: Tensor, Ks: Tensor, width: int, height: int) -> Tensor:
    """Weights [C, H, W] of windows [C, W, 5]; see `ops.compose`."""
    middles = windows[..., :2] @ Ks[:, :2, :2].transpose(1, 2) + Ks[:, None, :2, 2]
    pixels = torch.cat([middles, Ks[:, None, (0, 1), (0, 1)] * windows[..., 2:4], windows[..., 4:]], 2)
    counts = windows.isfinite().all(2) & pixels.isfinite().all(2) & (pixels[..., 2:4] > 0).all(2)
    sides = []
    for axis, size in enumerate((width, height)):
        middle, half = (torch.where(counts, pixels[..., i], 1)[..., None] for i in (axis, axis + 2))
        x = (torch.arange(size, dtype=windows.dtype, device=windows.device) + 0.5 - middle) / half
        sides.append(torch.where(x.abs() <= 1.5, torch.exp(-(x**4)), 0))
    strength = torch.where(counts, windows[..., 4], 0)[..., None]
    return 1 + (strength * sides[1]).transpose(1, 2) @ sides[0]
