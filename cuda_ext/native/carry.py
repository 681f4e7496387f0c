"""The call that carries Gaussians: blendshapes, triangles and penalties in one."""

from __future__ import annotations

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor

from cuda_ext import abi, library
from cuda_ext.native.calls import Saved, contiguous, launch_of, pointer, workspaces
from cuda_ext.native.factors import outer_gradient, step_in_backward, use_of


class Penalties(NamedTuple):
    """Weights of what `carry` counts as cost: those of `penalty`, and of the size of the corrections (`blend` with `with_size`)."""

    position: float = 0.0
    scale: float = 0.0
    opacity: float = 0.0
    max_scale: float = 1.0
    size: float = 0.0


class CarryFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, vertices, basis, weights, means, quats, log_scales, sh, logit_opacities, reach, faces, face_ids, penalties, lib):
        tensors = contiguous((vertices, faces, face_ids, basis, weights, means, quats, log_scales, sh))
        costly = () if penalties is None else contiguous((logit_opacities, reach))
        out = [torch.empty_like(t) for t in tensors[5:]]
        if penalties is not None:
            out.append(means.new_empty(()))
        scratch = workspaces.take(lib.av_carry_scratch(len(vertices), len(faces), len(face_ids), len(weights)), vertices.device)
        args = _arguments(tensors, costly, penalties, scratch)
        args.out[:] = [t.data_ptr() for t in out[:4]]
        args.cost = pointer(out[4]) if penalties is not None else None
        library.check(lib, lib.av_carry_forward(args), "carry")
        ctx.save_for_backward(*tensors, *costly)
        ctx.lib, ctx.penalties, ctx.use, ctx.kept = lib, penalties, use_of(basis), Saved(scratch, 0)
        return tuple(out)

    @staticmethod
    def backward(ctx, *v_out):
        tensors, costly = ctx.saved_tensors[:9], ctx.saved_tensors[9:]
        vertices, basis, weights = tensors[0], tensors[3], tensors[4]
        v_out = [v.contiguous() for v in v_out]
        v_local = [torch.empty_like(t) for t in tensors[5:8]]
        v_weights = torch.empty_like(weights)
        v_logits = torch.empty_like(costly[0]) if costly else None
        v_vertices = torch.empty_like(vertices) if ctx.needs_input_grad[0] else None
        step = step_in_backward(ctx.use, weights) if ctx.needs_input_grad[1] else None
        v_delta = basis.new_empty(basis.shape[:2]) if step is None else None
        args = abi.AvCarryBackward(_arguments(tensors, costly, ctx.penalties, ctx.kept.tensor))
        args.v_out[:], args.v_in[:] = [v.data_ptr() for v in v_out[:4]], [v.data_ptr() for v in v_local]
        args.v_cost = pointer(v_out[4]) if costly else None
        args.v_vertices, args.v_weights, args.v_logit_opacities, args.v_delta = (
            pointer(t) for t in (v_vertices, v_weights, v_logits, v_delta)
        )
        args.move = ctypes.addressof(step) if step is not None else None
        library.check(ctx.lib, ctx.lib.av_carry_backward(args), "carry backward")
        v_basis = outer_gradient(ctx.use, v_delta, weights) if v_delta is not None and ctx.needs_input_grad[1] else None
        return v_vertices, v_basis, v_weights, *v_local, v_out[3], v_logits, None, None, None, None, None


def _arguments(tensors, costly, penalties: Penalties | None, scratch: Tensor) -> abi.AvCarry:
    vertices, faces, face_ids, basis, weights, *local = tensors
    args = abi.AvCarry(
        launch_of(vertices.device), len(vertices), len(faces), len(face_ids), len(weights), local[3].shape[1], *(penalties or Penalties()), 0,
        *(t.data_ptr() for t in tensors[:5]),
    )  # fmt: skip
    getattr(args, "in")[:] = [t.data_ptr() for t in local]
    if costly:
        args.logit_opacities, args.reach = (t.data_ptr() for t in costly)
    args.saved, args.saved_bytes = scratch.data_ptr(), scratch.numel()
    return args


def carry(lib, vertices, faces, face_ids, basis, weights, means, quats, log_scales, sh, penalties, logit_opacities, reach):
    """means [N,3], quats [N,4], scales [N,3], sh [N,S,3], and the cost when there are penalties."""
    return CarryFunction.apply(
        vertices, basis, weights, means, quats, log_scales, sh, logit_opacities, reach, faces, face_ids, penalties, lib
    )
