"""Composed pictures and soft windows in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor


def compose(images: Tensor, matrices: Tensor, backgrounds: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures [C,H,W,3] and mattes [C,H,W]; see `ops.compose`. Images may be floats in 0–255, computes in the dtype of `matrices`."""
    values = images.to(matrices.dtype) / 255
    matte = values[..., 3:]
    behind = backgrounds[:, None, None]
    colors = (matrices[:, None, None, :, :3] @ values[..., :3, None])[..., 0]
    return colors + matrices[:, None, None, :, 3] * matte + behind * (1 - matte), matte[..., 0]


def soft_windows(windows: Tensor, width: int, height: int) -> Tensor:
    """Weights [C, H, W] of windows [C, W, 5]; see `ops.soft_windows`."""
    counts = windows.isfinite().all(2) & (windows[..., 2:4] > 0).all(2)
    sides = []
    for axis, size in enumerate((width, height)):
        middle, half = (torch.where(counts, windows[..., i], 1)[..., None] for i in (axis, axis + 2))
        x = (torch.arange(size, dtype=windows.dtype, device=windows.device) + 0.5 - middle) / half
        sides.append(torch.where(x.abs() <= 1.5, torch.exp(-(x**4)), 0))
    strength = torch.where(counts, windows[..., 4], 0)[..., None]
    return 1 + (strength * sides[1]).transpose(1, 2) @ sides[0]
