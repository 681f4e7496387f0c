"""Calls of the operators from Gaussians to images."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cuda_ext import abi, library
from cuda_ext.capacity import reservation
from cuda_ext.native.calls import Saved, contiguous, flags, large_like, launch_of, pointer, workspaces

if TYPE_CHECKING:
    from cuda_ext.ops import SplatStatistics

_capacities: dict[tuple, int] = {}  # (device, N, C, width, height rounded) → Gaussian-tile instances to reserve


def _capacity_key(device: torch.device, N: int, C: int, width: int, height: int) -> tuple:
    return device, N.bit_length(), C, width, height


def _scene(tensors, width: int, height: int, backgrounds, near: float, eps2d: float, flags: int, degree: int) -> abi.AvScene:
    means, quats, scales, opacities, sh, viewmats, Ks = tensors
    return abi.AvScene(
        means.shape[0], viewmats.shape[0], width, height, sh.shape[1], degree, flags, near, eps2d, 0.0,
        means.data_ptr(), quats.data_ptr(), scales.data_ptr(), opacities.data_ptr(), sh.data_ptr(), viewmats.data_ptr(),
        Ks.data_ptr(), pointer(backgrounds),
    )  # fmt: skip


@lru_cache(maxsize=1024)
def _workspace_bytes(lib, N: int, C: int, width: int, height: int, flags: int, capacity: int, threads: int) -> tuple[int, int]:
    saved, scratch = ctypes.c_int64(), ctypes.c_int64()
    scene = abi.AvScene(N, C, width, height, 1, 0, flags)
    library.check(lib, lib.av_splat_sizes(scene, capacity, threads, saved, scratch), "splat")
    return saved.value, scratch.value


def _sizes(lib, scene: abi.AvScene, capacity: int, threads: int) -> tuple[int, int]:
    return _workspace_bytes(lib, scene.N, scene.C, scene.width, scene.height, scene.flags, capacity, threads)


def _with_capacity(lib, call, args, scene: abi.AvScene, device: torch.device, counters: Tensor) -> Saved:
    """Run a forward call with workspaces for enough instances; the CPU says at once when there were too few."""
    if device.type == "cuda":
        return _with_reservation(lib, call, args, scene, device)
    key = _capacity_key(device, scene.N, scene.C, scene.width, scene.height)
    capacity: int = _capacities.get(key, int(4 * scene.N * scene.C + 1024))
    while True:
        saved_bytes, scratch_bytes = _sizes(lib, scene, capacity, args.launch.threads)
        saved = Saved(workspaces.take(saved_bytes, device), capacity)
        scratch = workspaces.take(scratch_bytes, device)
        args.capacity = capacity
        args.saved, args.saved_bytes = saved.tensor.data_ptr(), saved.tensor.numel()
        args.scratch, args.scratch_bytes = scratch.data_ptr(), scratch.numel()
        status = call(args)
        workspaces.give(scratch)
        if status != abi.OVERFLOW:
            library.check(lib, status, call.__name__)
            _capacities[key] = capacity
            return saved
        capacity = int(counters[0]) * 5 // 4


def _with_reservation(lib, call, args, scene: abi.AvScene, device: torch.device) -> Saved:
    """The same on CUDA, which reports to pinned memory, later: see capacity.py."""
    room = reservation(device, scene.N, scene.C, scene.width, scene.height)
    args.counters = room.pinned.data_ptr()
    while True:
        capacity = room.prepare()
        saved_bytes, scratch_bytes = _sizes(lib, scene, capacity, args.launch.threads)
        saved = Saved(workspaces.take(saved_bytes, device), capacity)
        scratch = workspaces.take(scratch_bytes, device)
        args.capacity, args.saved_bytes, args.scratch_bytes = capacity, saved_bytes, scratch_bytes
        args.saved, args.scratch = saved.tensor.data_ptr(), scratch.data_ptr()
        library.check(lib, call(args), call.__name__)
        if not room.settle(device):
            return saved


def _camera_gradients(needed: bool, tensors) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """v_viewmats [C, 4, 4], v_Ks [C, 3, 3] and the sums they are made of, or nothing."""
    if not needed:
        return None, None, None
    means, viewmats, Ks = tensors[0], tensors[5], tensors[6]
    groups = -(-means.shape[0] // abi.CAMERA_GROUP)
    if not groups:  # a kernel takes sums of nothing, a pointer to nowhere, for no wish
        return torch.zeros_like(viewmats), torch.zeros_like(Ks), None
    return torch.empty_like(viewmats), torch.empty_like(Ks), means.new_empty(len(viewmats), groups, abi.CAMERA_SUMS)


class SplatFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, means, quats, scales, opacities, sh, viewmats, Ks, backgrounds, lib, settings, statistics):
        width, height, near, eps2d, flags, degree, with_depth = settings
        tensors = contiguous((means, quats, scales, opacities, sh, viewmats, Ks))
        bg = None if backgrounds is None else backgrounds.detach().contiguous()
        device, N, C = means.device, means.shape[0], viewmats.shape[0]
        scene = _scene(tensors, width, height, bg, near, eps2d, flags, degree)
        color = means.new_empty(C, height, width, 3)
        alpha = means.new_empty(C, height, width, 1)
        depth = means.new_empty(C, height, width, 1) if with_depth else None
        radii = torch.empty(C, N, 2, dtype=torch.int32, device=device)
        # A backward pass on the CPU counts contributions on its way; elsewhere the forward pass does.
        late = device.type == "cpu" and bool(flags & abi.FOR_GRADIENTS) and any(ctx.needs_input_grad[:7])
        counted = None if statistics is None else statistics.contributions
        contributions = None if counted is None or late else means.new_empty(N)
        counters = torch.empty(4, dtype=torch.int32, device=device)
        args = abi.AvSplatForward(
            launch_of(device), scene, 0, color.data_ptr(), alpha.data_ptr(), pointer(depth), radii.data_ptr(),
            pointer(contributions), counters.data_ptr(),
        )  # fmt: skip
        saved = _with_capacity(lib, lib.av_splat_forward, args, scene, device, counters)
        if counted is not None and contributions is not None:
            counted.add_(contributions)
        ctx.save_for_backward(*tensors, bg, color, alpha, depth)
        ctx.lib, ctx.settings, ctx.statistics, ctx.saved, ctx.late = lib, settings, statistics, saved, late
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(radii)
        return color, alpha, depth, radii

    @staticmethod
    def backward(ctx, v_color, v_alpha, v_depth, _):
        *tensors, bg, color, alpha, depth = ctx.saved_tensors
        width, height, near, eps2d, flags, degree, _ = ctx.settings
        lib, statistics, means = ctx.lib, ctx.statistics, tensors[0]
        scene = _scene(tensors, width, height, bg, near, eps2d, flags, degree)
        v_color = torch.zeros_like(color) if v_color is None else v_color.contiguous()
        v_alpha = None if v_alpha is None else v_alpha.contiguous()
        v_depth = None if v_depth is None else v_depth.contiguous()
        v = [*(torch.empty_like(t) for t in tensors[:4]), large_like(tensors[4])]
        launch = launch_of(means.device)
        scratch = workspaces.take(_sizes(lib, scene, ctx.saved.capacity, launch.threads)[1], means.device)
        cameras = _camera_gradients(any(ctx.needs_input_grad[5:7]), tensors)
        sums = (None, None, None) if statistics is None else (statistics.grad_norm, statistics.count, statistics.max_radius)
        args = abi.AvSplatBackward(
            launch, scene, ctx.saved.capacity, color.data_ptr(), alpha.data_ptr(), pointer(depth), v_color.data_ptr(),
            pointer(v_alpha), pointer(v_depth), *(t.data_ptr() for t in v), *(pointer(t) for t in sums),
            ctx.saved.tensor.data_ptr(), ctx.saved.tensor.numel(), scratch.data_ptr(), scratch.numel(),
            pointer(statistics.contributions) if statistics is not None and ctx.late else None,
            *(pointer(t) for t in cameras),
        )  # fmt: skip
        library.check(lib, lib.av_splat_backward(args), "splat backward")
        workspaces.give(scratch)
        v_backgrounds = None
        if ctx.needs_input_grad[7]:
            v_backgrounds = ((1 - alpha) * v_color).sum((1, 2))
        return *v, *cameras[:2], v_backgrounds, None, None, None


def splat(lib, tensors, width, height, backgrounds, near, eps2d, flags, degree, depth, statistics: SplatStatistics | None):
    """color [C,H,W,3], alpha [C,H,W,1], depth [C,H,W,1] or None, radii [C,N,2]."""
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (*tensors, backgrounds)):
        flags |= abi.FOR_GRADIENTS
    settings = (width, height, near, eps2d, flags, degree, depth)
    return SplatFunction.apply(*tensors, backgrounds, lib, settings, statistics)


class _ProjectFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, means, quats, scales, opacities, sh, viewmats, Ks, lib, settings):
        width, height, near, eps2d, flags, degree = settings
        tensors = contiguous((means, quats, scales, opacities, sh, viewmats, Ks))
        N, C = means.shape[0], viewmats.shape[0]
        scene = _scene(tensors, width, height, None, near, eps2d, flags, degree)
        shapes = ((C, N, 2), (C, N, 3), (C, N), (C, N, 3), (C, N))
        out = [means.new_empty(s) for s in shapes]
        radii = torch.empty(C, N, 2, dtype=torch.int32, device=means.device)
        projected = abi.AvProjected(*(t.data_ptr() for t in out), radii.data_ptr())
        args = abi.AvProject(launch_of(means.device), scene, projected)
        library.check(lib, lib.av_project_forward(args), "project")
        ctx.save_for_backward(*tensors, *out, radii)
        ctx.lib, ctx.settings = lib, settings
        ctx.mark_non_differentiable(radii)
        return *out, radii

    @staticmethod
    def backward(ctx, *v_out):
        saved = ctx.saved_tensors
        tensors, out = saved[:7], saved[7:]
        width, height, near, eps2d, flags, degree = ctx.settings
        scene = _scene(tensors, width, height, None, near, eps2d, flags, degree)
        v_out = [v.contiguous() for v in v_out[:5]]
        v = [torch.empty_like(t) for t in tensors[:5]]
        cameras = _camera_gradients(any(ctx.needs_input_grad[5:7]), tensors)
        args = abi.AvProjectBackward(
            launch_of(tensors[0].device), scene, abi.AvProjected(*(t.data_ptr() for t in out)),
            abi.AvProjected(*(t.data_ptr() for t in v_out), None), *(t.data_ptr() for t in v), *(pointer(t) for t in cameras),
        )  # fmt: skip
        library.check(ctx.lib, ctx.lib.av_project_backward(args), "project backward")
        return *v, *cameras[:2], None, None


def project(lib, tensors, width, height, near, eps2d, antialiased, degree):
    """The fields of ops.Projected."""
    return _ProjectFunction.apply(*tensors, lib, (width, height, near, eps2d, flags(antialiased, False, False), degree))


class _RasterizeFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, means2d, conics, depths, colors, opacities, radii, backgrounds, lib, width, height):
        tensors = contiguous((means2d, conics, depths, colors, opacities, radii))
        bg = None if backgrounds is None else backgrounds.detach().contiguous()
        (C, N), device = depths.shape, means2d.device
        color = means2d.new_empty(C, height, width, 3)
        alpha, depth = means2d.new_empty(C, height, width, 1), means2d.new_empty(C, height, width, 1)
        contributions = means2d.new_empty(N)
        counters = torch.empty(4, dtype=torch.int32, device=device)
        args = abi.AvRasterize(
            launch_of(device), N, C, width, height, 0, abi.AvProjected(*(t.data_ptr() for t in tensors)), pointer(bg),
            color.data_ptr(), alpha.data_ptr(), depth.data_ptr(), contributions.data_ptr(), counters.data_ptr(),
        )  # fmt: skip
        scene = abi.AvScene(N, C, width, height, 1)
        ctx.saved = _with_capacity(lib, lib.av_rasterize_forward, args, scene, device, counters)
        ctx.save_for_backward(*tensors, bg, color, alpha, depth)
        ctx.lib, ctx.size = lib, (width, height)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(contributions)
        return color, alpha, depth, contributions

    @staticmethod
    def backward(ctx, v_color, v_alpha, v_depth, _):
        *tensors, bg, color, alpha, depth = ctx.saved_tensors
        lib, (width, height) = ctx.lib, ctx.size
        C, N = tensors[2].shape
        device = color.device
        v_color = torch.zeros_like(color) if v_color is None else v_color.contiguous()
        v_alpha = None if v_alpha is None else v_alpha.contiguous()
        v_depth = None if v_depth is None else v_depth.contiguous()
        v = [torch.empty_like(t) for t in tensors[:5]]
        launch = launch_of(device)
        scratch = workspaces.take(_sizes(lib, abi.AvScene(N, C, width, height, 1), ctx.saved.capacity, launch.threads)[1], device)
        args = abi.AvRasterizeBackward(
            launch, N, C, width, height, ctx.saved.capacity, abi.AvProjected(*(t.data_ptr() for t in tensors)),
            abi.AvProjected(*(t.data_ptr() for t in v), None), pointer(bg), color.data_ptr(), alpha.data_ptr(), depth.data_ptr(),
            v_color.data_ptr(), pointer(v_alpha), pointer(v_depth), ctx.saved.tensor.data_ptr(), ctx.saved.tensor.numel(),
            scratch.data_ptr(), scratch.numel(),
        )  # fmt: skip
        library.check(lib, lib.av_rasterize_backward(args), "rasterize backward")
        workspaces.give(scratch)
        v_backgrounds = ((1 - alpha) * v_color).sum((1, 2)) if ctx.needs_input_grad[6] else None
        return *v, None, v_backgrounds, None, None, None


def rasterize(lib, tensors, width, height, backgrounds):
    """The fields of ops.Rasterized."""
    return _RasterizeFunction.apply(*tensors, backgrounds, lib, width, height)
