"""What pictures differ by, in plain torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Mirrors of include/semantics.h; tests/cuda_ext/test_interface.py compares them.
SSIM_RADIUS = 5
SSIM_SIGMA = 1.5
SSIM_C1 = 0.01**2
SSIM_C2 = 0.03**2


def ssim_window(dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    """The normalised Gaussian window [11] of the structural similarity."""
    x = torch.arange(-SSIM_RADIUS, SSIM_RADIUS + 1, dtype=torch.float64)
    window = (-(x**2) / (2 * SSIM_SIGMA**2)).exp()
    return (window / window.sum()).to(dtype=dtype, device=device)


def ssim_map(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity [B,H,W,3] of images [B,H,W,3] in 0–1; outside of the images counts as black."""
    a, b = a.permute(0, 3, 1, 2), b.permute(0, 3, 1, 2)
    window = ssim_window(a.dtype, a.device)

    def blur(image: Tensor) -> Tensor:
        kernel = window.expand(image.shape[1], 1, 1, -1)
        image = F.conv2d(image, kernel, padding=(0, SSIM_RADIUS), groups=image.shape[1])
        return F.conv2d(image, kernel.transpose(2, 3), padding=(SSIM_RADIUS, 0), groups=image.shape[1])

    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b = blur(a * a) - mean_a * mean_a, blur(b * b) - mean_b * mean_b
    covariance = blur(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + SSIM_C1) / (mean_a * mean_a + mean_b * mean_b + SSIM_C1)
    structure = (2 * covariance + SSIM_C2) / (var_a + var_b + SSIM_C2)
    return (luminance * structure).permute(0, 2, 3, 1)


def l1_and_ssim(a: Tensor, b: Tensor, weights: Tensor | None = None, crop: int = 0) -> tuple[Tensor, Tensor]:
    """Per image [B]: mean of w|a-b| and mean of w·ssim over channels and the pixels inside the crop."""
    weight = 1 if weights is None else weights[..., None]
    inside = (slice(None), slice(crop, a.shape[1] - crop), slice(crop, a.shape[2] - crop))
    l1 = (weight * (a - b).abs())[inside].mean((1, 2, 3))
    return l1, (weight * ssim_map(a, b))[inside].mean((1, 2, 3))


def l1_ssim(a: Tensor, b: Tensor, ssim_weight: float, weights: Tensor | None = None, crop: int = 0) -> Tensor:
    """Losses [B]; see `ops.l1_ssim`."""
    l1, similarity = l1_and_ssim(a, b, weights, crop)
    inside = (slice(None), slice(crop, a.shape[1] - crop), slice(crop, a.shape[2] - crop))
    total = 1.0 if weights is None else weights[inside].mean((1, 2))
    return (1 - ssim_weight) * l1 + ssim_weight * (total - similarity)


def picture_loss(
    color: Tensor, alpha: Tensor, target: Tensor, mattes: Tensor, weights: Tensor | None, ssim_weight: float, matte_weight: float
) -> Tensor:
    """A scalar; see `ops.picture_loss`."""
    return l1_ssim(color, target, ssim_weight, weights).mean() + matte_weight * (alpha[..., 0] - mattes).abs().mean()
