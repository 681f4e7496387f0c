"""Training losses. Pictures are [C, H, W, 3] in 0–1; every function returns a scalar and is differentiable in its first argument."""

from __future__ import annotations

import torch
from torch import Tensor

from avatars.gaussians import CanonicalGaussians
from avatars.head import HeadModel
from avatars.transforms import project_points
from avatars.types import Cameras
from cuda_ext import ops

EYES = ("eyelids", "eyeball_left", "eyeball_right", "iris_left", "iris_right", "pupil_left", "pupil_right")
MOUTH = ("lips", "mouth_bag", "tongue", "teeth_upper", "teeth_lower", "gums_upper", "gums_lower")


def photometric(rendered: Tensor, target: Tensor, ssim_weight: float, weights: Tensor | None = None) -> Tensor:
    """(1−λ)·L1 + λ·(1−SSIM) (Kerbl et al. 2023, eq. 7), averaged over pictures; weights [C, H, W] multiply both maps."""
    return ops.l1_ssim(rendered, target, ssim_weight=ssim_weight, weights=weights).mean()


def coverage(alpha: Tensor, masks: Tensor) -> Tensor:
    """Mean |alpha − mask|, both [C, H, W]: nothing floats outside of the foreground, nothing is see-through inside."""
    return (alpha - masks).abs().mean()


def regularise(gaussians: CanonicalGaussians, reach: Tensor, max_scale: float) -> tuple[Tensor, Tensor]:
    """Position and scale penalties in triangle units (Qian et al. 2024, eq. 6–7).

    Means may lie `reach` [N] from their triangle's centre without cost (hair reaches farther than skin); scales up to
    `max_scale` · max(1, reach) are free.
    """
    position = (gaussians.means.square().sum(-1).add(1e-12).sqrt() - reach).clamp_min(0).mean()
    scale = (gaussians.log_scales.exp() - max_scale * reach.clamp_min(1)[:, None]).clamp_min(0).mean()
    return position, scale


def attention(head: HeadModel, vertices: Tensor, cameras: Cameras, mouth: float, eyes: float) -> Tensor:
    """[C, H, W] loss weights: 1, plus `mouth` and `eyes` around them where the camera sees the face; vertices [V, 3].

    Soft windows around the projected lips and lids; a camera beyond about 80° of the face gets none.
    """
    x = torch.arange(cameras.width) + 0.5
    y = torch.arange(cameras.height) + 0.5
    total = torch.ones(len(cameras), cameras.height, cameras.width)
    for gain, groups in ((mouth, (("lips",),)), (eyes, (("iris_left", "pupil_left"), ("iris_right", "pupil_right")))):
        if gain <= 0:
            continue
        for group in groups:
            ids = head.region_vertices(*group)
            if not len(ids):
                continue
            points = vertices[ids]
            pixels, z = project_points(points, cameras.viewmats, cameras.Ks)
            low, high = pixels.amin(1), pixels.amax(1)  # [C, 2]
            centre, half = (low + high) / 2, (high - low) / 2
            metres = 0.012 if group == ("lips",) else 0.018
            half = half + metres * cameras.Ks[:, 0, 0, None] / z.mean(1, keepdim=True)
            inside = vertices[head.region_vertices("scalp", "neck")].mean(0) if len(head.region_vertices("scalp", "neck")) else vertices.mean(0)
            outward = torch.nn.functional.normalize(points.mean(0) - inside, dim=0)
            facing = (torch.nn.functional.normalize(cameras.centers - points.mean(0), dim=1) @ outward - 0.17).clamp(0, 0.2) / 0.2
            wx = torch.exp(-(((x - centre[:, :1]) / half[:, :1]) ** 4))  # [C, W]
            wy = torch.exp(-(((y - centre[:, 1:]) / half[:, 1:]) ** 4))  # [C, H]
            total += gain * facing[:, None, None] * wy[:, :, None] * wx[:, None]
    return total


def composite(images: Tensor, masks: Tensor, backgrounds: Tensor) -> tuple[Tensor, Tensor]:
    """uint8 pictures [C,H,W,3] and masks [C,H,W] over backgrounds [C, 3] → float pictures and masks in 0–1."""
    m = masks.to(backgrounds.dtype) / 255
    image = images.to(backgrounds.dtype) / 255
    return torch.lerp(backgrounds[:, None, None].expand_as(image), image, m[..., None]), m
