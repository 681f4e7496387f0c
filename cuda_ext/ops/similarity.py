"""How alike pictures are: structural similarity, the loss of 3DGS, and all that a training step compares."""

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
    crop = _check(a, b, weights, valid)
    if torch.compiler.is_compiling():
        return torch.ops.avatars.ssim(a, b, weights, valid)[0]
    library = _pick(a, b, weights)
    if library is None:
        return reference.l1_and_ssim(a, b, weights, crop)[1]
    return native.ssim(library, a, b, weights, crop)


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
    crop = _check(a, b, weights, valid)
    if torch.compiler.is_compiling():
        return torch.ops.avatars.l1_ssim(a, b, weights, ssim_weight, valid)[0]
    library = _pick(a, b, weights)
    if library is None:
        return reference.l1_ssim(a, b, ssim_weight, weights, crop)
    return native.l1_ssim(library, a, b, weights, crop, ssim_weight)


def picture_loss(
    color: Tensor,  # [B, H, W, 3] rendered
    alpha: Tensor,  # [B, H, W, 1]
    target: Tensor,  # [B, H, W, 3]
    mattes: Tensor,  # [B, H, W]
    *,
    ssim_weight: float = 0.2,
    matte_weight: float = 0.0,
    weights: Tensor | None = None,  # [B, H, W]
) -> Tensor:
    """Mean over images of `l1_ssim` + matte_weight · mean|alpha - mattes|: a scalar; gradients to `color` and `alpha`."""
    _check(color, target, weights, False)
    expect("alpha", alpha, (*color.shape[:3], 1))
    expect("mattes", mattes, tuple(color.shape[:3]))
    same_device(color, alpha, mattes)
    if torch.compiler.is_compiling():
        return torch.ops.avatars.picture_loss(color, alpha, target, mattes, weights, ssim_weight, matte_weight)[0]
    library = _pick(color, target, weights, mattes)
    if library is None or alpha.dtype != torch.float32:
        return reference.picture_loss(color, alpha, target, mattes, weights, ssim_weight, matte_weight)
    return native.picture_loss(library, color, alpha, target, mattes, weights, ssim_weight, matte_weight)


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
    if torch.compiler.is_compiling() and _wants_gradients(b, weights):
        raise ValueError("ssim: under torch.compile the gradient goes to the first image only: detach the second and the weights")
    return crop


def _pick(a: Tensor, *others: Tensor | None):
    """The library, or None when the reference must run: also for gradients that no kernel has."""
    return None if _wants_gradients(*others) else native.pick("av_ssim", a, *(t for t in others if t is not None))


def _wants_gradients(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
