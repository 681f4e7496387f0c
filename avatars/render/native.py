"""The project's own kernels: C++ on a CPU, CUDA on a GPU, plain torch where neither was built."""

from __future__ import annotations

import torch
from torch import Tensor

from avatars.types import Cameras, Gaussians, Image
from cuda_ext import ops


def available(device: torch.device) -> str | None:
    """Always: `cuda_ext.ops` falls back to its reference with a warning."""
    return None


def render(gaussians: Gaussians, cameras: Cameras, backgrounds: Tensor) -> Image:
    """Fused projection and compositing of [N] Gaussians for [C] cameras over backgrounds [C, 3]."""
    g = gaussians
    splat = ops.splat(
        g.means, g.quats, g.scales, g.opacities, g.sh, cameras.viewmats, cameras.Ks, cameras.width, cameras.height, backgrounds=backgrounds
    )
    return Image(splat.color, splat.alpha, splat.depth)
