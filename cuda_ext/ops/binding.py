"""Gaussians that ride on triangles, their blendshapes, and what keeps them near."""

from __future__ import annotations

import torch
from torch import Tensor

from cuda_ext import native, reference
from cuda_ext.native import Penalties
from cuda_ext.ops.checks import expect, same_device


def bind(
    vertices: Tensor,  # [V, 3]
    faces: Tensor,  # [F, 3] int64
    face_ids: Tensor,  # [N] int64
    local_means: Tensor,  # [N, 3]
    local_quats: Tensor,  # [N, 4]
    local_scales: Tensor,  # [N, 3]
    *,
    log_scales: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Carry Gaussians with the triangles they are bound to; returns means [N,3], quats [N,4], scales [N,3] in the world.

    Frame of a triangle (GaussianAvatars, Qian et al. 2024): a0 = unit(v1 - v0), a1 = unit(a0 × (v2 - v0)), a2 = -unit(a1 × a0),
    R = [a0 a1 a2], k = (|v1 - v0| + |a2·(v2 - v0)|)/2. means = k·R·local + centroid, quats = quat(R)⊗local, scales = k·local.
    Gradients to the vertices and the local parameters. `log_scales`: local_scales hold logarithms.
    """
    V, F, N = len(vertices), len(faces), len(face_ids)
    expect("vertices", vertices, (V, 3))
    expect("faces", faces, (F, 3), torch.int64)
    expect("face_ids", face_ids, (N,), torch.int64)
    expect("local_means", local_means, (N, 3))
    expect("local_quats", local_quats, (N, 4))
    expect("local_scales", local_scales, (N, 3))
    same_device(vertices, faces, face_ids, local_means, local_quats, local_scales)
    if torch.compiler.is_compiling():
        return tuple(torch.ops.avatars.bind(vertices, faces, face_ids, local_means, local_quats, local_scales, log_scales))
    library = native.pick("av_bind_forward", vertices, local_means, local_quats, local_scales)
    if library is None:
        return reference.bind(vertices, faces, face_ids, local_means, local_quats, local_scales, log_scales)
    return native.bind(library, vertices, faces, face_ids, local_means, local_quats, local_scales, log_scales)


def blend(
    basis: Tensor,  # [N, 10, K]
    weights: Tensor,  # [K]
    means: Tensor,  # [N, 3]
    quats: Tensor,  # [N, 4]
    sh: Tensor,  # [N, S, 3]
    *,
    with_size: bool = False,
) -> tuple[Tensor, ...]:
    """Add basis·weights to means, quaternions and the constant SH term (Li et al. 2025, RGBAvatar): the corrected three.

    The ten rows of a Gaussian's basis are mean 3, quaternion 4, colour 3. Gradients to all arguments; see `Adam` for `factored`.
    `with_size` adds a fourth result, a scalar: mean square of the corrections to the means plus that of those to the colours, in
    triangle units and SH coefficients, for a penalty on them.
    """
    N, K = basis.shape[0], basis.shape[-1]
    expect("basis", basis, (N, 10, K))
    expect("weights", weights, (K,))
    expect("means", means, (N, 3))
    expect("quats", quats, (N, 4))
    expect("sh", sh, (N, sh.shape[1], 3))
    same_device(basis, weights, means, quats, sh)
    if torch.compiler.is_compiling():
        return tuple(torch.ops.avatars.blend(basis, weights, means, quats, sh, with_size))
    library = native.pick("av_blend_forward", basis, weights, means, quats, sh) if 1 <= K <= 64 and N else None
    if library is None:
        return reference.blend(basis, weights, means, quats, sh, with_size)
    return native.blend(library, basis, weights, means, quats, sh, with_size)


def penalty(
    means: Tensor,  # [N, 3]
    log_scales: Tensor,  # [N, 3]
    logit_opacities: Tensor,  # [N]
    reach: Tensor,  # [N]
    *,
    position_weight: float,
    scale_weight: float,
    opacity_weight: float,
    max_scale: float,
) -> Tensor:
    """Regularisers of Gaussians in triangle units (Qian et al. 2024, eq. 6-7), as one scalar; gradients to the first three.

    position_weight·mean(max(0, ‖mean‖ - reach)) + scale_weight·mean(max(0, scale - max_scale·max(1, reach))) + opacity_weight·mean(opacity).
    """
    N = len(means)
    expect("means", means, (N, 3))
    expect("log_scales", log_scales, (N, 3))
    expect("logit_opacities", logit_opacities, (N,))
    expect("reach", reach, (N,))
    same_device(means, log_scales, logit_opacities, reach)
    weights = (position_weight, scale_weight, opacity_weight)
    if torch.compiler.is_compiling():
        if reach.requires_grad:
            raise ValueError("penalty: under torch.compile there is no gradient to reach: detach it")
        return torch.ops.avatars.penalty(means, log_scales, logit_opacities, reach, *weights, max_scale)[0]
    library = native.pick("av_penalty", means, log_scales, logit_opacities, reach) if N else None
    if library is None or reach.requires_grad:
        return reference.penalty(means, log_scales, logit_opacities, reach, weights, max_scale)
    return native.penalty(library, means, log_scales, logit_opacities, reach, weights, max_scale)


def carry(
    vertices: Tensor,  # [V, 3]
    faces: Tensor,  # [F, 3] int64
    face_ids: Tensor,  # [N] int64
    basis: Tensor,  # [N, 10, K]
    weights: Tensor,  # [K]
    means: Tensor,  # [N, 3]
    quats: Tensor,  # [N, 4]
    log_scales: Tensor,  # [N, 3]
    sh: Tensor,  # [N, S, 3]
    *,
    penalties: Penalties | None = None,
    logit_opacities: Tensor | None = None,  # [N], with penalties
    reach: Tensor | None = None,  # [N], with penalties
) -> tuple[Tensor, ...]:
    """`blend`, then `bind` with log scales: corrected Gaussians in the world, means [N,3], quats [N,4], scales [N,3], sh [N,S,3].

    With `penalties` a fifth result, a scalar: `penalty` of the corrected means, of the scales and opacities, plus `penalties.size` times
    the size of the corrections. The same as these operators one after the other (and on CUDA it is that); on the CPU each array is read
    once each way, corrections are not written out, and `Adam.descend` lets a factored basis take its step on the way back. Gradients to
    all floating-point arguments but `reach`, which must not require one.
    """
    V, F, N, K = len(vertices), len(faces), len(face_ids), basis.shape[-1]
    expect("vertices", vertices, (V, 3))
    expect("faces", faces, (F, 3), torch.int64)
    expect("face_ids", face_ids, (N,), torch.int64)
    expect("basis", basis, (N, 10, K))
    expect("weights", weights, (K,))
    expect("means", means, (N, 3))
    expect("quats", quats, (N, 4))
    expect("log_scales", log_scales, (N, 3))
    expect("sh", sh, (N, sh.shape[1], 3))
    same_device(vertices, faces, face_ids, basis, weights, means, quats, log_scales, sh)
    tensors = (vertices, faces, face_ids, basis, weights, means, quats, log_scales, sh)
    floats = [t for t in tensors if t.is_floating_point()]
    if penalties is not None:
        if logit_opacities is None or reach is None:
            raise ValueError("carry: penalties need logit_opacities and reach")
        expect("logit_opacities", logit_opacities, (N,))
        expect("reach", reach, (N,))
        same_device(vertices, logit_opacities, reach)
        if reach.requires_grad:
            raise ValueError("carry: there is no gradient to reach: detach it")
        floats += [logit_opacities, reach]
    if torch.compiler.is_compiling():
        return tuple(torch.ops.avatars.carry(*tensors, logit_opacities, reach, None if penalties is None else list(penalties)))
    if vertices.device.type == "cuda":
        return _carry_in_parts(tensors, penalties, logit_opacities, reach)
    library = native.pick("av_carry_forward", *floats) if 1 <= K <= 64 and N else None
    if library is None:
        return reference.carry(*tensors[:5], tensors[5:], penalties, logit_opacities, reach)
    return native.carry(library, *tensors, penalties, logit_opacities, reach)


def _carry_in_parts(
    tensors: tuple[Tensor, ...], penalties: Penalties | None, logit_opacities: Tensor | None, reach: Tensor | None
) -> tuple[Tensor, ...]:
    vertices, faces, face_ids, basis, weights, means, quats, log_scales, sh = tensors
    means, quats, sh, *size = blend(basis, weights, means, quats, sh, with_size=penalties is not None)
    world = bind(vertices, faces, face_ids, means, quats, log_scales, log_scales=True)
    if penalties is None:
        return (*world, sh)
    assert logit_opacities is not None and reach is not None
    cost = penalty(
        means, log_scales, logit_opacities, reach, position_weight=penalties.position, scale_weight=penalties.scale,
        opacity_weight=penalties.opacity, max_scale=penalties.max_scale,
    )  # fmt: skip
    return (*world, sh, cost + penalties.size * size[0] if len(means) else cost)
