"""Calls of the operators on bound Gaussians."""

from __future__ import annotations

import torch

from cuda_ext import abi, library
from cuda_ext.native.calls import Saved, contiguous, launch_of, pointer, workspaces
from cuda_ext.native.factors import outer_gradient, use_of


class BindFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, vertices, local_means, local_quats, local_scales, faces, face_ids, lib, log_scales):
        tensors = contiguous((vertices, faces, face_ids, local_means, local_quats, local_scales))
        out = [torch.empty_like(t) for t in tensors[3:]]
        scratch = workspaces.take(lib.av_bind_scratch(len(vertices), len(faces), len(face_ids)), vertices.device)
        args = _bind_args(tensors, out, log_scales)
        args.scratch, args.scratch_bytes = scratch.data_ptr(), scratch.numel()
        library.check(lib, lib.av_bind_forward(args), "bind")
        ctx.save_for_backward(*tensors)
        ctx.lib, ctx.log_scales, ctx.kept = lib, log_scales, Saved(scratch, 0)
        return tuple(out)

    @staticmethod
    def backward(ctx, *v_out):
        tensors = ctx.saved_tensors
        vertices, faces, face_ids = tensors[:3]
        v_out = [v.contiguous() for v in v_out]
        v_local = [torch.empty_like(t) for t in tensors[3:]]
        v_vertices = torch.empty_like(vertices) if ctx.needs_input_grad[0] else None
        scratch = ctx.kept.tensor
        args = abi.AvBindBackward(
            _bind_args(tensors, (None, None, None), ctx.log_scales), *(v.data_ptr() for v in v_out), pointer(v_vertices),
            *(v.data_ptr() for v in v_local), scratch.data_ptr(), scratch.numel(), 1,
        )  # fmt: skip
        library.check(ctx.lib, ctx.lib.av_bind_backward(args), "bind backward")
        return v_vertices, *v_local, None, None, None, None


def _bind_args(tensors, out, log_scales: bool) -> abi.AvBind:
    vertices, faces, face_ids, *local = tensors
    return abi.AvBind(
        launch_of(vertices.device), len(vertices), len(faces), len(face_ids), abi.LOG_SCALES * log_scales, 0, vertices.data_ptr(),
        faces.data_ptr(), face_ids.data_ptr(), *(t.data_ptr() for t in local), *(pointer(t) for t in out),
    )  # fmt: skip


def bind(lib, vertices, faces, face_ids, local_means, local_quats, local_scales, log_scales):
    """means [N,3], quats [N,4], scales [N,3]."""
    return BindFunction.apply(vertices, local_means, local_quats, local_scales, faces, face_ids, lib, log_scales)


class BlendFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, basis, weights, means, quats, sh, lib, with_size):
        tensors = contiguous((basis, weights, means, quats, sh))
        out = [torch.empty_like(t) for t in tensors[2:]]
        args = _blend_args(tensors)
        args.out[:] = [t.data_ptr() for t in out]
        delta = None
        if with_size:
            size, delta = means.new_empty(()), basis.new_empty(basis.shape[:2])
            scratch = workspaces.take(8 * (len(basis) // 1024 + 1), basis.device)
            args.size, args.delta = size.data_ptr(), delta.data_ptr()
            args.scratch, args.scratch_bytes = scratch.data_ptr(), scratch.numel()
            out.append(size)
        library.check(lib, lib.av_blend_forward(args), "blend")
        if with_size:
            workspaces.give(scratch)
        ctx.save_for_backward(*tensors, delta)
        ctx.lib, ctx.use = lib, use_of(basis)
        return tuple(out)

    @staticmethod
    def backward(ctx, *v_out):
        *tensors, delta = ctx.saved_tensors
        basis, weights = tensors[:2]
        v_out, v_size = [v.contiguous() for v in v_out[:3]], v_out[3] if delta is not None else None
        v_delta, v_weights = basis.new_empty(basis.shape[:2]), torch.empty_like(weights)
        scratch = workspaces.take(4 * basis.shape[2] * (len(basis) // 1024 + 1), basis.device)
        args = _blend_args(tensors)
        args.v_out[:] = [v.data_ptr() for v in v_out]
        args.delta, args.v_size = pointer(delta), pointer(v_size)
        args.v_delta, args.v_weights = v_delta.data_ptr(), v_weights.data_ptr()
        args.scratch, args.scratch_bytes = scratch.data_ptr(), scratch.numel()
        library.check(ctx.lib, ctx.lib.av_blend_backward(args), "blend backward")
        workspaces.give(scratch)
        v_basis = outer_gradient(ctx.use, v_delta, weights) if ctx.needs_input_grad[0] else None
        return v_basis, v_weights, *v_out, None, None


def _blend_args(tensors) -> abi.AvBlend:
    basis, weights, *local = tensors
    args = abi.AvBlend(launch_of(basis.device), len(basis), basis.shape[2], local[2].shape[1], basis.data_ptr(), weights.data_ptr())
    getattr(args, "in")[:] = [t.data_ptr() for t in local]
    return args


def blend(lib, basis, weights, means, quats, sh, with_size):
    """means [N,3], quats [N,4], sh [N,S,3], and the size of the corrections when asked for."""
    return BlendFunction.apply(basis, weights, means, quats, sh, lib, with_size)


class PenaltyFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, means, log_scales, logit_opacities, reach, weights, max_scale, lib):
        tensors = contiguous((means, log_scales, logit_opacities, reach))
        v = [torch.empty_like(t) for t in tensors[:3]] if any(ctx.needs_input_grad[:3]) else [None] * 3
        loss = means.new_empty(())
        scratch = workspaces.take(8 * (len(means) // 1024 + 1), means.device)
        args = abi.AvPenalty(
            launch_of(means.device), len(means), *weights, max_scale, *(t.data_ptr() for t in tensors), loss.data_ptr(),
            *(pointer(t) for t in v), scratch.data_ptr(), scratch.numel(),
        )  # fmt: skip
        library.check(lib, lib.av_penalty(args), "penalty")
        workspaces.give(scratch)
        ctx.v = v
        return loss

    @staticmethod
    def backward(ctx, v_loss):
        # on the CPU reading the scalar costs nothing; elsewhere it would wait for the device
        v = ctx.v if v_loss.device.type == "cpu" and float(v_loss) == 1.0 else [t * v_loss for t in ctx.v]
        return *v, None, None, None, None


def penalty(lib, means, log_scales, logit_opacities, reach, weights, max_scale):
    """The weighted sum, a scalar."""
    return PenaltyFunction.apply(means, log_scales, logit_opacities, reach, weights, max_scale, lib)
