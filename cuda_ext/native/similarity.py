"""Calls of the structural similarity."""

from __future__ import annotations

import ctypes

import torch

from cuda_ext import abi, library
from cuda_ext.native.calls import Saved, launch_of, pointer, workspaces


class SsimFunction(torch.autograd.Function):
    """v_l1[b] and v_ssim[b] are folded into one pass over the image on the way back."""

    @staticmethod
    def forward(ctx, a, b, weights, lib, crop):
        a, b = a.detach().contiguous(), b.detach().contiguous()
        weights = None if weights is None else weights.detach().contiguous()
        B, height, width, _ = a.shape
        launch = launch_of(a.device)
        saved_bytes, scratch_bytes = ctypes.c_int64(), ctypes.c_int64()
        library.check(lib, lib.av_ssim_sizes(B, height, width, launch.threads, saved_bytes, scratch_bytes), "ssim")
        scratch = workspaces.take(scratch_bytes.value, a.device)
        saved = Saved(workspaces.take(saved_bytes.value, a.device), 0) if ctx.needs_input_grad[0] else None
        l1, ssim = a.new_empty(B), a.new_empty(B)
        args = abi.AvSsim(
            launch, B, height, width, crop, 0, a.data_ptr(), b.data_ptr(), pointer(weights), l1.data_ptr(), ssim.data_ptr(),
            saved and saved.tensor.data_ptr(), saved.tensor.numel() if saved else 0, scratch.data_ptr(), scratch.numel(),
        )  # fmt: skip
        library.check(lib, lib.av_ssim_forward(args), "ssim")
        workspaces.give(scratch)
        ctx.save_for_backward(a, b, weights)
        ctx.lib, ctx.crop, ctx.saved = lib, crop, saved
        return l1, ssim

    @staticmethod
    def backward(ctx, v_l1, v_ssim):
        a, b, weights = ctx.saved_tensors
        B, height, width, _ = a.shape
        launch = launch_of(a.device)
        saved_bytes, scratch_bytes = ctypes.c_int64(), ctypes.c_int64()
        library.check(ctx.lib, ctx.lib.av_ssim_sizes(B, height, width, launch.threads, saved_bytes, scratch_bytes), "ssim")
        scratch = workspaces.take(scratch_bytes.value, a.device)
        v_l1, v_ssim, v_a = v_l1.contiguous(), v_ssim.contiguous(), torch.empty_like(a)
        args = abi.AvSsimBackward(
            launch, B, height, width, ctx.crop, 0, a.data_ptr(), b.data_ptr(), pointer(weights), ctx.saved.tensor.data_ptr(),
            ctx.saved.tensor.numel(), v_l1.data_ptr(), v_ssim.data_ptr(), v_a.data_ptr(), scratch.data_ptr(), scratch.numel(),
        )  # fmt: skip
        library.check(ctx.lib, ctx.lib.av_ssim_backward(args), "ssim backward")
        workspaces.give(scratch)
        return v_a, None, None, None, None


def l1_and_ssim(lib, a, b, weights, crop):
    """l1 [B], ssim [B]."""
    return SsimFunction.apply(a, b, weights, lib, crop)
