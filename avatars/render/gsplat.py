"""gsplat (Apache-2.0, nerfstudio) on CUDA, an optional peer: `pip install 'head-avatars[cuda]'`."""

from __future__ import annotations

import importlib.util
import math

import torch
from torch import Tensor

from avatars.types import Cameras, Gaussians, Image


def available(device: torch.device) -> str | None:
    """None when gsplat is installed and the device is CUDA."""
    if importlib.util.find_spec("gsplat") is None:
        return "gsplat is not installed. Install it with pip install 'head-avatars[cuda]', or use the native renderer."
    if device.type != "cuda":
        return "gsplat needs Gaussians on a CUDA device. Move them there, or use the native renderer."
    return None


def render(gaussians: Gaussians, cameras: Cameras, backgrounds: Tensor) -> Image:
    """Rasterise [N] Gaussians for [C] cameras over backgrounds [C, 3]."""
    from gsplat import rasterization  # pyright: ignore[reportAttributeAccessIssue]

    g = gaussians
    color, alpha, _ = rasterization(
        g.means, g.quats, g.scales, g.opacities, g.sh, cameras.viewmats, cameras.Ks, cameras.width, cameras.height,
        sh_degree=math.isqrt(g.sh.shape[1]) - 1, eps2d=0.3, near_plane=0.01, render_mode="RGB+ED", packed=False,
    )  # fmt: skip
    # Composited here: gsplat adds its backgrounds to the depth channel too in some versions.
    rgb = color[..., :3] + (1 - alpha) * backgrounds[:, None, None]
    return Image(rgb, alpha, color[..., 3:])
