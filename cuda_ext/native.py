"""Calls into the shared libraries: torch allocates, the library fills, autograd connects. No checks here: see ops.py."""

from __future__ import annotations

import ctypes
import threading
from collections import defaultdict
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cuda_ext import abi, library
from cuda_ext.capacity import reservation

if TYPE_CHECKING:
    from cuda_ext.adam import Adam
    from cuda_ext.ops import SplatStatistics


def pick(function: str, *tensors: Tensor):
    """The library for these tensors, or None when the reference must run (other dtypes, devices, policy)."""
    for tensor in tensors:
        if tensor.dtype != torch.float32:
            return None
    return library.native(tensors[0].device.type, function)


def flags(antialiased: bool, log_scales: bool, logit_opacities: bool) -> int:
    """The AvFlags of a scene."""
    return abi.ANTIALIASED * antialiased | abi.LOG_SCALES * log_scales | abi.LOGIT_OPACITIES * logit_opacities


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _launch(device: torch.device) -> abi.AvLaunch:
    if device.type == "cuda":
        index = device.index if device.index is not None else torch.cuda.current_device()
        return abi.AvLaunch(torch.cuda.current_stream(index).cuda_stream, index, 1)
    return abi.AvLaunch(None, 0, torch.get_num_threads())


class _Workspaces:
    """Byte tensors that are lent and come back, so that a training loop does not fault in fresh pages every step."""

    def __init__(self) -> None:
        self._free: dict[torch.device, list[Tensor]] = defaultdict(list)
        self._lock = threading.Lock()

    def take(self, size: int, device: torch.device) -> Tensor:
        """At least `size` bytes; the smallest free tensor that is not four times too large, else a new one.

        On CUDA torch's allocator does all this, knows about streams, and keeps the memory of captured graphs apart.
        """
        if device.type == "cuda":
            return torch.empty(size, dtype=torch.uint8, device=device)
        with self._lock:
            free = self._free[device]
            fitting = [i for i, t in enumerate(free) if size <= t.numel() <= 4 * size + (1 << 20)]
            if fitting:
                return free.pop(min(fitting, key=lambda i: free[i].numel()))
        return torch.empty(size + size // 8, dtype=torch.uint8, device=device)

    def give(self, tensor: Tensor) -> None:
        """Take back a tensor nobody reads any more; at most eight are kept per device."""
        if tensor.device.type == "cuda":
            return
        with self._lock:
            free = self._free[tensor.device]
            free.append(tensor)
            if len(free) > 8:
                free.pop(0)


_workspaces = _Workspaces()
_capacities: dict[tuple, int] = {}  # (device, N, C, width, height rounded) → Gaussian-tile instances to reserve


def _capacity_key(device: torch.device, N: int, C: int, width: int, height: int) -> tuple:
    return device, N.bit_length(), C, width, height


def _scene(tensors, width: int, height: int, backgrounds, near: float, eps2d: float, flags: int, degree: int) -> abi.AvScene:
    means, quats, scales, opacities, sh, viewmats, Ks = tensors
    return abi.AvScene(
        means.shape[0], viewmats.shape[0], width, height, sh.shape[1], degree, flags, near, eps2d, 0.0,
        means.data_ptr(), quats.data_ptr(), scales.data_ptr(), opacities.data_ptr(), sh.data_ptr(), viewmats.data_ptr(),
        Ks.data_ptr(), _pointer(backgrounds),
    )  # fmt: skip


def _sizes(lib, scene: abi.AvScene, capacity: int, threads: int) -> tuple[int, int]:
    saved, scratch = ctypes.c_int64(), ctypes.c_int64()
    library.check(lib, lib.av_splat_sizes(scene, capacity, threads, saved, scratch), "splat")
    return saved.value, scratch.value


def _contiguous(tensors) -> tuple[Tensor, ...]:
    return tuple(t.detach().contiguous() for t in tensors)


class _Saved:
    """A workspace that outlives its call; goes back to the pool when the graph that holds it dies."""

    def __init__(self, tensor: Tensor, capacity: int) -> None:
        self.tensor, self.capacity = tensor, capacity

    def __del__(self) -> None:
        _workspaces.give(self.tensor)


def _with_capacity(lib, call, args, scene: abi.AvScene, device: torch.device, counters: Tensor) -> _Saved:
    """Run a forward call with workspaces for enough instances; the CPU says at once when there were too few."""
    if device.type == "cuda":
        return _with_reservation(lib, call, args, scene, device)
    key = _capacity_key(device, scene.N, scene.C, scene.width, scene.height)
    capacity: int = _capacities.get(key, int(4 * scene.N * scene.C + 1024))
    while True:
        saved_bytes, scratch_bytes = _sizes(lib, scene, capacity, args.launch.threads)
        saved = _Saved(_workspaces.take(saved_bytes, device), capacity)
        scratch = _workspaces.take(scratch_bytes, device)
        args.capacity = capacity
        args.saved, args.saved_bytes = saved.tensor.data_ptr(), saved.tensor.numel()
        args.scratch, args.scratch_bytes = scratch.data_ptr(), scratch.numel()
        status = call(args)
        _workspaces.give(scratch)
        if status != abi.OVERFLOW:
            library.check(lib, status, call.__name__)
            _capacities[key] = capacity
            return saved
        capacity = int(counters[0]) * 5 // 4


def _with_reservation(lib, call, args, scene: abi.AvScene, device: torch.device) -> _Saved:
    """The same on CUDA, which reports to pinned memory, later: see capacity.py."""
    room = reservation(device, scene.N, scene.C, scene.width, scene.height)
    args.counters = room.pinned.data_ptr()
    while True:
        capacity = room.prepare()
        saved_bytes, scratch_bytes = _sizes(lib, scene, capacity, args.launch.threads)
        saved = _Saved(_workspaces.take(saved_bytes, device), capacity)
        scratch = _workspaces.take(scratch_bytes, device)
        args.capacity, args.saved_bytes, args.scratch_bytes = capacity, saved_bytes, scratch_bytes
        args.saved, args.scratch = saved.tensor.data_ptr(), scratch.data_ptr()
        library.check(lib, call(args), call.__name__)
        if not room.settle(device):
            return saved


class _SplatFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, means, quats, scales, opacities, sh, viewmats, Ks, backgrounds, lib, settings, statistics):
        width, height, near, eps2d, flags, degree, with_depth = settings
        tensors = _contiguous((means, quats, scales, opacities, sh, viewmats, Ks))
        bg = None if backgrounds is None else backgrounds.detach().contiguous()
        device, N, C = means.device, means.shape[0], viewmats.shape[0]
        scene = _scene(tensors, width, height, bg, near, eps2d, flags, degree)
        color = means.new_empty(C, height, width, 3)
        alpha = means.new_empty(C, height, width, 1)
        depth = means.new_empty(C, height, width, 1) if with_depth else None
        radii = torch.empty(C, N, 2, dtype=torch.int32, device=device)
        # A backward pass on the CPU counts contributions on its way; elsewhere the forward pass does.
        late = device.type == "cpu" and any(ctx.needs_input_grad[:5])
        contributions = None if statistics is None or late else means.new_empty(N)
        counters = torch.empty(4, dtype=torch.int32, device=device)
        args = abi.AvSplatForward(
            _launch(device), scene, 0, color.data_ptr(), alpha.data_ptr(), _pointer(depth), radii.data_ptr(),
            _pointer(contributions), counters.data_ptr(),
        )  # fmt: skip
        saved = _with_capacity(lib, lib.av_splat_forward, args, scene, device, counters)
        if statistics is not None and contributions is not None:
            statistics.contributions.add_(contributions)
        ctx.save_for_backward(*tensors, bg, color, alpha, depth)
        ctx.lib, ctx.settings, ctx.statistics, ctx.saved = lib, settings, statistics, saved
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
        v = [torch.empty_like(t) for t in tensors[:5]]
        launch = _launch(means.device)
        scratch = _workspaces.take(_sizes(lib, scene, ctx.saved.capacity, launch.threads)[1], means.device)
        sums = (None, None, None) if statistics is None else (statistics.grad_norm, statistics.count, statistics.max_radius)
        args = abi.AvSplatBackward(
            launch, scene, ctx.saved.capacity, color.data_ptr(), alpha.data_ptr(), _pointer(depth), v_color.data_ptr(),
            _pointer(v_alpha), _pointer(v_depth), *(t.data_ptr() for t in v), *(_pointer(t) for t in sums),
            ctx.saved.tensor.data_ptr(), ctx.saved.tensor.numel(), scratch.data_ptr(), scratch.numel(),
            statistics.contributions.data_ptr() if statistics is not None and means.device.type == "cpu" else None,
        )  # fmt: skip
        library.check(lib, lib.av_splat_backward(args), "splat backward")
        _workspaces.give(scratch)
        v_backgrounds = None
        if ctx.needs_input_grad[7]:
            v_backgrounds = ((1 - alpha) * v_color).sum((1, 2))
        return *v, None, None, v_backgrounds, None, None, None


def splat(lib, tensors, width, height, backgrounds, near, eps2d, flags, degree, depth, statistics: SplatStatistics | None):
    """color [C,H,W,3], alpha [C,H,W,1], depth [C,H,W,1] or None, radii [C,N,2]."""
    settings = (width, height, near, eps2d, flags, degree, depth)
    return _SplatFunction.apply(*tensors, backgrounds, lib, settings, statistics)


class _ProjectFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, means, quats, scales, opacities, sh, viewmats, Ks, lib, settings):
        width, height, near, eps2d, flags, degree = settings
        tensors = _contiguous((means, quats, scales, opacities, sh, viewmats, Ks))
        N, C = means.shape[0], viewmats.shape[0]
        scene = _scene(tensors, width, height, None, near, eps2d, flags, degree)
        shapes = ((C, N, 2), (C, N, 3), (C, N), (C, N, 3), (C, N))
        out = [means.new_empty(s) for s in shapes]
        radii = torch.empty(C, N, 2, dtype=torch.int32, device=means.device)
        projected = abi.AvProjected(*(t.data_ptr() for t in out), radii.data_ptr())
        args = abi.AvProject(_launch(means.device), scene, projected)
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
        args = abi.AvProjectBackward(
            _launch(tensors[0].device), scene, abi.AvProjected(*(t.data_ptr() for t in out)),
            abi.AvProjected(*(t.data_ptr() for t in v_out), None), *(t.data_ptr() for t in v),
        )  # fmt: skip
        library.check(ctx.lib, ctx.lib.av_project_backward(args), "project backward")
        return *v, None, None, None, None


def project(lib, tensors, width, height, near, eps2d, antialiased, degree):
    """The fields of ops.Projected."""
    return _ProjectFunction.apply(*tensors, lib, (width, height, near, eps2d, flags(antialiased, False, False), degree))


class _RasterizeFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, means2d, conics, depths, colors, opacities, radii, backgrounds, lib, width, height):
        tensors = _contiguous((means2d, conics, depths, colors, opacities, radii))
        bg = None if backgrounds is None else backgrounds.detach().contiguous()
        (C, N), device = depths.shape, means2d.device
        color = means2d.new_empty(C, height, width, 3)
        alpha, depth = means2d.new_empty(C, height, width, 1), means2d.new_empty(C, height, width, 1)
        contributions = means2d.new_empty(N)
        counters = torch.empty(4, dtype=torch.int32, device=device)
        args = abi.AvRasterize(
            _launch(device), N, C, width, height, 0, abi.AvProjected(*(t.data_ptr() for t in tensors)), _pointer(bg),
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
        launch = _launch(device)
        scratch = _workspaces.take(_sizes(lib, abi.AvScene(N, C, width, height, 1), ctx.saved.capacity, launch.threads)[1], device)
        args = abi.AvRasterizeBackward(
            launch, N, C, width, height, ctx.saved.capacity, abi.AvProjected(*(t.data_ptr() for t in tensors)),
            abi.AvProjected(*(t.data_ptr() for t in v), None), _pointer(bg), color.data_ptr(), alpha.data_ptr(), depth.data_ptr(),
            v_color.data_ptr(), _pointer(v_alpha), _pointer(v_depth), ctx.saved.tensor.data_ptr(), ctx.saved.tensor.numel(),
            scratch.data_ptr(), scratch.numel(),
        )  # fmt: skip
        library.check(lib, lib.av_rasterize_backward(args), "rasterize backward")
        _workspaces.give(scratch)
        v_backgrounds = ((1 - alpha) * v_color).sum((1, 2)) if ctx.needs_input_grad[6] else None
        return *v, None, v_backgrounds, None, None, None


def rasterize(lib, tensors, width, height, backgrounds):
    """The fields of ops.Rasterized."""
    return _RasterizeFunction.apply(*tensors, backgrounds, lib, width, height)


class _BindFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, vertices, local_means, local_quats, local_scales, faces, face_ids, lib, log_scales):
        tensors = _contiguous((vertices, faces, face_ids, local_means, local_quats, local_scales))
        out = [torch.empty_like(t) for t in tensors[3:]]
        scratch = _workspaces.take(lib.av_bind_scratch(len(vertices), len(faces), len(face_ids)), vertices.device)
        args = _bind_args(tensors, out, log_scales)
        args.scratch, args.scratch_bytes = scratch.data_ptr(), scratch.numel()
        library.check(lib, lib.av_bind_forward(args), "bind")
        _workspaces.give(scratch)
        ctx.save_for_backward(*tensors)
        ctx.lib, ctx.log_scales = lib, log_scales
        return tuple(out)

    @staticmethod
    def backward(ctx, *v_out):
        tensors = ctx.saved_tensors
        vertices, faces, face_ids = tensors[:3]
        v_out = [v.contiguous() for v in v_out]
        v_local = [torch.empty_like(t) for t in tensors[3:]]
        v_vertices = torch.empty_like(vertices) if ctx.needs_input_grad[0] else None
        scratch = _workspaces.take(ctx.lib.av_bind_scratch(len(vertices), len(faces), len(face_ids)), vertices.device)
        args = abi.AvBindBackward(
            _bind_args(tensors, (None, None, None), ctx.log_scales), *(v.data_ptr() for v in v_out), _pointer(v_vertices),
            *(v.data_ptr() for v in v_local), scratch.data_ptr(), scratch.numel(),
        )  # fmt: skip
        library.check(ctx.lib, ctx.lib.av_bind_backward(args), "bind backward")
        _workspaces.give(scratch)
        return v_vertices, *v_local, None, None, None, None


def _bind_args(tensors, out, log_scales: bool) -> abi.AvBind:
    vertices, faces, face_ids, *local = tensors
    return abi.AvBind(
        _launch(vertices.device), len(vertices), len(faces), len(face_ids), abi.LOG_SCALES * log_scales, 0, vertices.data_ptr(),
        faces.data_ptr(), face_ids.data_ptr(), *(t.data_ptr() for t in local), *(_pointer(t) for t in out),
    )  # fmt: skip


def bind(lib, vertices, faces, face_ids, local_means, local_quats, local_scales, log_scales):
    """means [N,3], quats [N,4], scales [N,3]."""
    return _BindFunction.apply(vertices, local_means, local_quats, local_scales, faces, face_ids, lib, log_scales)


class _SsimFunction(torch.autograd.Function):
    """v_l1[b] and v_ssim[b] are folded into one pass over the image on the way back."""

    @staticmethod
    def forward(ctx, a, b, weights, lib, crop):
        a, b = a.detach().contiguous(), b.detach().contiguous()
        weights = None if weights is None else weights.detach().contiguous()
        B, height, width, _ = a.shape
        launch = _launch(a.device)
        saved_bytes, scratch_bytes = ctypes.c_int64(), ctypes.c_int64()
        library.check(lib, lib.av_ssim_sizes(B, height, width, launch.threads, saved_bytes, scratch_bytes), "ssim")
        scratch = _workspaces.take(scratch_bytes.value, a.device)
        saved = _Saved(_workspaces.take(saved_bytes.value, a.device), 0) if ctx.needs_input_grad[0] else None
        l1, ssim = a.new_empty(B), a.new_empty(B)
        args = abi.AvSsim(
            launch, B, height, width, crop, 0, a.data_ptr(), b.data_ptr(), _pointer(weights), l1.data_ptr(), ssim.data_ptr(),
            saved and saved.tensor.data_ptr(), saved.tensor.numel() if saved else 0, scratch.data_ptr(), scratch.numel(),
        )  # fmt: skip
        library.check(lib, lib.av_ssim_forward(args), "ssim")
        _workspaces.give(scratch)
        ctx.save_for_backward(a, b, weights)
        ctx.lib, ctx.crop, ctx.saved = lib, crop, saved
        return l1, ssim

    @staticmethod
    def backward(ctx, v_l1, v_ssim):
        a, b, weights = ctx.saved_tensors
        B, height, width, _ = a.shape
        launch = _launch(a.device)
        saved_bytes, scratch_bytes = ctypes.c_int64(), ctypes.c_int64()
        library.check(ctx.lib, ctx.lib.av_ssim_sizes(B, height, width, launch.threads, saved_bytes, scratch_bytes), "ssim")
        scratch = _workspaces.take(scratch_bytes.value, a.device)
        v_l1, v_ssim, v_a = v_l1.contiguous(), v_ssim.contiguous(), torch.empty_like(a)
        args = abi.AvSsimBackward(
            launch, B, height, width, ctx.crop, 0, a.data_ptr(), b.data_ptr(), _pointer(weights), ctx.saved.tensor.data_ptr(),
            ctx.saved.tensor.numel(), v_l1.data_ptr(), v_ssim.data_ptr(), v_a.data_ptr(), scratch.data_ptr(), scratch.numel(),
        )  # fmt: skip
        library.check(ctx.lib, ctx.lib.av_ssim_backward(args), "ssim backward")
        _workspaces.give(scratch)
        return v_a, None, None, None, None


def l1_and_ssim(lib, a, b, weights, crop):
    """l1 [B], ssim [B]."""
    return _SsimFunction.apply(a, b, weights, lib, crop)


class _BlendFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, basis, weights, means, quats, sh, lib):
        tensors = _contiguous((basis, weights, means, quats, sh))
        out = [torch.empty_like(t) for t in tensors[2:]]
        args = _blend_args(tensors)
        args.out[:] = [t.data_ptr() for t in out]
        library.check(lib, lib.av_blend_forward(args), "blend")
        ctx.save_for_backward(*tensors)
        ctx.lib, ctx.basis = lib, basis
        return tuple(out)

    @staticmethod
    def backward(ctx, *v_out):
        tensors = ctx.saved_tensors
        basis, weights = tensors[:2]
        v_out = [v.contiguous() for v in v_out]
        v_delta, v_weights = basis.new_empty(basis.shape[:2]), torch.empty_like(weights)
        scratch = _workspaces.take(4 * basis.shape[2] * (len(basis) // 1024 + 1), basis.device)
        args = _blend_args(tensors)
        args.v_out[:] = [v.data_ptr() for v in v_out]
        args.v_delta, args.v_weights = v_delta.data_ptr(), v_weights.data_ptr()
        args.scratch, args.scratch_bytes = scratch.data_ptr(), scratch.numel()
        library.check(ctx.lib, ctx.lib.av_blend_backward(args), "blend backward")
        _workspaces.give(scratch)
        v_basis = None
        if ctx.needs_input_grad[0]:
            factors = getattr(ctx.basis, FACTORS, None)
            if factors is None:
                v_basis = v_delta[..., None] * weights
            else:
                factors.append((v_delta, weights))
        return v_basis, v_weights, *v_out, None


FACTORS = "rank_one_gradients"  # attribute of a leaf that collects (v_delta, weights) instead of having its gradient written out


def settle_factors(leaf: Tensor, whole: bool) -> None:
    """Write the collected gradients out into `.grad` unless one native step can take them as they are."""
    factors = getattr(leaf, FACTORS)
    if factors and (whole or len(factors) > 1 or leaf.grad is not None or leaf.device.type != "cpu" or leaf[0].numel() > 256):
        for v_delta, weights in factors:
            v_leaf = v_delta[..., None] * weights
            leaf.grad = v_leaf if leaf.grad is None else leaf.grad + v_leaf
        factors.clear()


def _blend_args(tensors) -> abi.AvBlend:
    basis, weights, *local = tensors
    args = abi.AvBlend(_launch(basis.device), len(basis), basis.shape[2], local[2].shape[1], basis.data_ptr(), weights.data_ptr())
    getattr(args, "in")[:] = [t.data_ptr() for t in local]
    return args


def blend(lib, basis, weights, means, quats, sh):
    """means [N,3], quats [N,4], sh [N,S,3]."""
    return _BlendFunction.apply(basis, weights, means, quats, sh, lib)


class _PenaltyFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, means, log_scales, logit_opacities, reach, weights, max_scale, lib):
        tensors = _contiguous((means, log_scales, logit_opacities, reach))
        v = [torch.empty_like(t) for t in tensors[:3]] if any(ctx.needs_input_grad[:3]) else [None] * 3
        loss = means.new_empty(())
        scratch = _workspaces.take(8 * (len(means) // 1024 + 1), means.device)
        args = abi.AvPenalty(
            _launch(means.device), len(means), *weights, max_scale, *(t.data_ptr() for t in tensors), loss.data_ptr(),
            *(_pointer(t) for t in v), scratch.data_ptr(), scratch.numel(),
        )  # fmt: skip
        library.check(lib, lib.av_penalty(args), "penalty")
        _workspaces.give(scratch)
        ctx.v = v
        return loss

    @staticmethod
    def backward(ctx, v_loss):
        # on the CPU reading the scalar costs nothing; elsewhere it would wait for the device
        v = ctx.v if v_loss.device.type == "cpu" and float(v_loss) == 1.0 else [t * v_loss for t in ctx.v]
        return *v, None, None, None, None


def penalty(lib, means, log_scales, logit_opacities, reach, weights, max_scale):
    """The weighted sum, a scalar."""
    return _PenaltyFunction.apply(means, log_scales, logit_opacities, reach, weights, max_scale, lib)


def adam(lib, optimizer: Adam, moving: dict[str, Tensor], rows: Tensor | None) -> None:
    """One step of every tensor in `moving`."""
    tensors = (abi.AvAdamTensor * len(moving))()
    alive = []  # temporaries that the call reads
    for slot, (name, param) in zip(tensors, moving.items(), strict=True):
        factors = getattr(param, FACTORS, None)
        if factors:
            grad, factor = factors[0]
            slot.factor, slot.factor_size = factor.data_ptr(), len(factor)
        else:
            assert param.grad is not None
            grad = param.grad if rows is None else param.grad[rows]
            grad = grad.contiguous()
        alive.append(grad)
        slot.param, slot.grad = param.data_ptr(), grad.data_ptr()
        slot.m, slot.v = optimizer.m[name].data_ptr(), optimizer.v[name].data_ptr()
        slot.rows = param.shape[0] if param.dim() else 1
        slot.columns = param.numel() // slot.rows if slot.rows else 1
        slot.lr = optimizer.lrs[name]
        slot.head_columns, slot.lr_tail = slot.columns, slot.lr
        if name in optimizer.tails:
            slot.head_columns, slot.lr_tail = optimizer.heads[name], optimizer.tails[name]
        if rows is not None:
            slot.row_ids, slot.row_count = rows.data_ptr(), len(rows)
    device = next(iter(moving.values())).device
    beta1, beta2 = optimizer.betas
    step = optimizer.device_step
    args = abi.AvAdam(_launch(device), tensors, len(moving), beta1, beta2, optimizer.eps, optimizer.step_count, _pointer(step))
    library.check(lib, lib.av_adam(args), "adam")


def rasterize_mesh(lib, vertices, faces, Ks, width, height, near, cull_back):
    """face_ids [C,H,W] int32, barycentrics [C,H,W,3], depth [C,H,W]."""
    vertices, faces, Ks = _contiguous((vertices, faces, Ks))
    C, V, _ = vertices.shape
    face_ids = torch.empty(C, height, width, dtype=torch.int32, device=vertices.device)
    barycentrics, depth = vertices.new_empty(C, height, width, 3), vertices.new_empty(C, height, width)
    scratch = _workspaces.take(lib.av_mesh_scratch(C, V, len(faces), width, height), vertices.device)
    args = abi.AvMesh(
        _launch(vertices.device), C, V, len(faces), width, height, near, int(cull_back), vertices.data_ptr(), faces.data_ptr(),
        Ks.data_ptr(), face_ids.data_ptr(), barycentrics.data_ptr(), depth.data_ptr(), scratch.data_ptr(), scratch.numel(),
    )  # fmt: skip
    library.check(lib, lib.av_mesh_rasterize(args), "rasterize_mesh")
    _workspaces.give(scratch)
    return face_ids, barycentrics, depth
