"""How alike two images are: structural similarity, and the loss of 3DGS."""

from __future__ import annotations

import torch
from torch import Tensor

from cuda_ext import native, reference
from cuda_ext.ops.checks import expect, same_device


def ssim(
    a: Tensor,  # [B, H, W, 3]
    b: Tensor,  # [B, H, W, 3]
    *,
    weights: Tensor | None = None,  # [B, H, W]
    valid: bool = False,
) -> Tensor:
    """Mean structural similarity per image [B] (Wang et al. 2004: window 11, σ 1.5, images in 0–1); gradient to `a`.

    Outside of the image counts as black, as in 3DGS; `valid` leaves the border that sees it (5 pixels) out of the mean.
    `weights` multiply the map before the mean, which still divides by the number of pixels.
    """
    if torch.compiler.is_compiling():
        _check(a, b, weights, valid)
        return torch.ops.avatars.ssim(a, b, weights, valid)[0]
    return _l1_and_ssim(a, b, weights, valid)[1]


def l1_ssim(
    a: Tensor,  # [B, H, W, 3]
    b: Tensor,  # [B, H, W, 3]
    *,
    ssim_weight: float = 0.2,
    weights: Tensor | None = None,  # [B, H, W]
    valid: bool = False,
) -> Tensor:
    """(1-λ)·mean|a-b| + λ·(1 - mean SSIM) per image [B], the loss of 3DGS, in one pass; gradient to `a`.

    With `weights` w: (1-λ)·mean(w|a-b|) + λ·mean(w·(1 - ssim)).
    """
    if torch.compiler.is_compiling():
        _check(a, b, weights, valid)
        return torch.ops.avatars.l1_ssim(a, b, weights, ssim_weight, valid)[0]
    l1, similarity = _l1_and_ssim(a, b, weights, valid)
    total: Tensor | float = 1.0
    if weights is not None:
        crop = reference.SSIM_RADIUS if valid else 0
        total = weights[:, crop : weights.shape[1] - crop, crop : weights.shape[2] - crop].mean((1, 2))
    return (1 - ssim_weight) * l1 + ssim_weight * (total - similarity)


def _check(a: Tensor, b: Tensor, weights: Tensor | None, valid: bool) -> int:
    """The pixels to leave out at each border."""
    if a.dim() != 4 or a.shape[-1] != 3 or a.shape != b.shape or 0 in a.shape:
        raise ValueError(f"images must be two non-empty [B,H,W,3], got {tuple(a.shape)} and {tuple(b.shape)}")
    if weights is not None:
        expect("weights", weights, tuple(a.shape[:3]))
        same_device(a, weights)
    same_device(a, b)
    crop = reference.SSIM_RADIUS if valid else 0
    if min(a.shape[1:3]) <= 2 * crop:
        raise ValueError(f"valid=True needs images larger than {2 * crop} pixels, got {tuple(a.shape)}")
    if torch.compiler.is_compiling() and (b.requires_grad or (weights is not None and weights.requires_grad)):
        raise ValueError("ssim: under torch.compile the gradient goes to the first image only: detach the second and the weights")
    return crop


def _l1_and_ssim(a: Tensor, b: Tensor, weights: Tensor | None, valid: bool) -> tuple[Tensor, Tensor]:
    crop = _check(a, b, weights, valid)
    library = native.pick("av_ssim_forward", *((a, b) if weights is None else (a, b, weights)))
    if library is None or b.requires_grad or (weights is not None and weights.requires_grad):
        return reference.l1_and_ssim(a, b, weights, crop)
    return native.l1_and_ssim(library, a, b, weights, crop)
