"""Calls of the operators on rays through volumes."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from cuda_ext import abi, library
from cuda_ext.native.calls import contiguous, launch_of, pointer, workspaces
from cuda_ext.reference.volumes import Stepping


def march(lib, origins, directions, jitter, occupancy, box, near, far, step, cone, capacity: int | None) -> tuple[Tensor, ...]:
    """offsets [R + 1], ray_ids, starts, ends [S], samples needed []. Without a capacity the host waits for the number of samples."""
    origins, directions, occupancy = contiguous((origins, directions, occupancy))
    jitter = None if jitter is None else jitter.detach().contiguous()
    rays, device = len(origins), origins.device
    offsets = torch.zeros(rays + 1, dtype=torch.int64, device=device)
    counts = torch.empty(rays, dtype=torch.int64, device=device)
    runs = workspaces.take(8 * abi.MARCH_RUNS * rays, device)
    steps = Stepping(near, step, cone)
    args = abi.AvMarch(
        launch_of(device), rays, occupancy.shape[0], (ctypes.c_int32 * 3)(*occupancy.shape[1:]), near, far, step,
        steps.bend, steps.turn, steps.growth, (ctypes.c_float * 6)(*box), origins.data_ptr(), directions.data_ptr(), pointer(jitter), occupancy.data_ptr(), counts.data_ptr(), runs.data_ptr(),
    )  # fmt: skip
    library.check(lib, lib.av_march_count(args), "march")
    torch.cumsum(counts, 0, out=offsets[1:])
    needed = offsets[-1].clone()
    size = int(needed) if capacity is None else capacity
    allocate = torch.empty if capacity is None else torch.zeros
    ray_ids = allocate(size, dtype=torch.int64, device=device)
    starts, ends = (allocate(size, dtype=origins.dtype, device=device) for _ in range(2))
    if capacity is not None:
        offsets.clamp_(max=capacity)
    args.offsets, args.capacity = offsets.data_ptr(), size
    args.ray_ids, args.starts, args.ends = ray_ids.data_ptr(), starts.data_ptr(), ends.data_ptr()
    library.check(lib, lib.av_march_fill(args), "march")
    workspaces.give(runs)
    return offsets, ray_ids, starts, ends, needed


class _CompositeFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, densities, colors, starts, ends, backgrounds, offsets, lib, stop):
        tensors = contiguous((offsets, densities, colors, starts, ends))
        behind = None if backgrounds is None else backgrounds.detach().contiguous()
        rays, channels = len(offsets) - 1, colors.shape[1]
        out = [
            densities.new_empty(len(densities)),
            densities.new_empty(rays, channels),
            densities.new_empty(rays),
            densities.new_empty(rays),
        ]
        args = _arguments(tensors, behind, out, stop)
        library.check(lib, lib.av_composite_forward(args), "composite")
        ctx.save_for_backward(*tensors, behind, *out)
        ctx.lib, ctx.stop = lib, stop
        ctx.set_materialize_grads(False)
        weights, color, alpha, depth = out
        return color, alpha, depth, weights

    @staticmethod
    def backward(ctx, v_color, v_alpha, v_depth, v_weights):
        tensors, behind, out = ctx.saved_tensors[:5], ctx.saved_tensors[5], ctx.saved_tensors[6:]
        color, alpha = out[1], out[2]
        v_color = torch.zeros_like(color) if v_color is None else v_color.contiguous()
        others = [None if v is None else v.contiguous() for v in (v_alpha, v_depth)]
        v_weights = None if v_weights is None else v_weights.contiguous()
        v_densities, v_colors = torch.empty_like(tensors[1]), torch.empty_like(tensors[2])
        intervals = ctx.needs_input_grad[2] or ctx.needs_input_grad[3]
        v_starts, v_ends = (torch.empty_like(t) if intervals else None for t in tensors[3:])
        args = abi.AvCompositeBackward(
            _arguments(tensors, behind, out, ctx.stop), pointer(v_weights), v_color.data_ptr(), *(pointer(v) for v in others),
            v_densities.data_ptr(), v_colors.data_ptr(), pointer(v_starts), pointer(v_ends),
        )  # fmt: skip
        library.check(ctx.lib, ctx.lib.av_composite_backward(args), "composite backward")
        v_behind = (1 - alpha[:, None]) * v_color if ctx.needs_input_grad[4] else None
        return v_densities, v_colors, v_starts, v_ends, v_behind, None, None, None


def _arguments(tensors, backgrounds, out, stop: float) -> abi.AvComposite:
    offsets, densities, colors, *_ = tensors
    return abi.AvComposite(
        launch_of(densities.device), len(offsets) - 1, len(densities), colors.shape[1], stop, *(t.data_ptr() for t in tensors),
        pointer(backgrounds), *(t.data_ptr() for t in out),
    )  # fmt: skip


def composite(lib, densities, colors, starts, ends, offsets, backgrounds, stop):
    """color [R, D], alpha [R], depth [R], weights [S]."""
    return _CompositeFunction.apply(densities, colors, starts, ends, backgrounds, offsets, lib, stop)
