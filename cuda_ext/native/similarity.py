"""Calls of what pictures differ by."""

from __future__ import annotations

import torch
from torch import Tensor

from cuda_ext import abi, library
from cuda_ext.native.calls import launch_of, pointer, workspaces


class SsimFunction(torch.autograd.Function):
    """The gradients are made on the way forward, where the blurred pictures are at hand: on the way back they are only scaled.

    `factors`: of L1, of 1 - SSIM, of the mattes. `result`: "ssim" or "loss" per picture, or their "total". `graded`: whether anybody
    can ask for gradients, which a forward pass does not know of itself: ctx.needs_input_grad is true under no_grad too.
    """

    @staticmethod
    def forward(ctx, a, alpha, b, mattes, weights, lib, crop, factors, result, graded):
        a, b = a.detach().contiguous(), b.detach().contiguous()
        alpha, mattes, weights = (None if t is None else t.detach().contiguous() for t in (alpha, mattes, weights))
        B, height, width, _ = a.shape
        launch, (wants_a, wants_alpha) = launch_of(a.device), (graded and wanted for wanted in ctx.needs_input_grad[:2])
        v_a, v_alpha = torch.empty_like(a) if wants_a else None, torch.empty_like(alpha) if wants_alpha and alpha is not None else None
        scratch = workspaces.take(lib.av_ssim_scratch(B, height, width, launch.threads, wants_a), a.device)
        l1, similarity, loss = a.new_empty(B), a.new_empty(B), a.new_empty(B)
        args = abi.AvSsim(
            launch, B, height, width, crop, *factors, a.data_ptr(), b.data_ptr(), pointer(weights), pointer(alpha), pointer(mattes),
            l1.data_ptr(), similarity.data_ptr(), loss.data_ptr(), pointer(v_a), pointer(v_alpha), scratch.data_ptr(), scratch.numel(),
        )  # fmt: skip
        library.check(lib, lib.av_ssim(args), "ssim")
        workspaces.give(scratch)
        ctx.save_for_backward(v_a, v_alpha)
        if result == "total":
            return loss.view(()) if B == 1 else loss.sum()
        return similarity if result == "ssim" else loss

    @staticmethod
    def backward(ctx, v):
        v_a, v_alpha = ctx.saved_tensors
        if v.numel() != 1 or v.is_cuda or v.item() != 1:  # at the end of a loss it is 1
            v = v.detach().reshape(-1, 1, 1, 1)
            v_a, v_alpha = None if v_a is None else v_a * v, None if v_alpha is None else v_alpha * v
        return v_a, v_alpha, None, None, None, None, None, None, None, None


def ssim(lib, a: Tensor, b: Tensor, weights: Tensor | None, crop: int) -> Tensor:
    """Means of the similarity [B]."""
    return SsimFunction.apply(a, None, b, None, weights, lib, crop, (0.0, -1.0, 0.0), "ssim", torch.is_grad_enabled())


def l1_ssim(lib, a: Tensor, b: Tensor, weights: Tensor | None, crop: int, ssim_weight: float) -> Tensor:
    """Losses [B]."""
    factors = (1 - ssim_weight, ssim_weight, 0.0)
    return SsimFunction.apply(a, None, b, None, weights, lib, crop, factors, "loss", torch.is_grad_enabled())


def picture_loss(
    lib,
    color: Tensor,
    alpha: Tensor,
    target: Tensor,
    mattes: Tensor,
    weights: Tensor | None,
    ssim_weight: float,
    matte_weight: float,
) -> Tensor:
    """A scalar."""
    B = len(color)
    factors = ((1 - ssim_weight) / B, ssim_weight / B, matte_weight / B)
    return SsimFunction.apply(color, alpha, target, mattes, weights, lib, 0, factors, "total", torch.is_grad_enabled())
