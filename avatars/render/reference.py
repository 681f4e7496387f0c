"""The plain-torch reference of `cuda_ext`, in the dtype of its inputs: slow, and correct by definition."""

from __future__ import annotations

import torch
from torch import Tensor

from avatars.types import Cameras, Gaussians, Image
from cuda_ext import reference


def available(device: torch.device) -> str | None:
    """Everywhere."""
    return None


def render(gaussians: Gaussians, cameras: Cameras, backgrounds: Tensor) -> Image:
    """Projection and compositing of [N] Gaussians for [C] cameras over backgrounds [C, 3]."""
    g = gaussians
    projected = reference.project(
        g.means, g.quats, g.scales, g.opacities, g.sh, cameras.viewmats, cameras.Ks, cameras.width, cameras.height
    )
    color, alpha, depth = reference.rasterize(*projected, cameras.width, cameras.height, backgrounds)[:3]
    return Image(color, alpha, depth)
