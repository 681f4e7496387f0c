"""Gaussians that ride on triangles, their blendshapes, and what keeps them near."""

from __future__ import annotations

import torch
from torch import Tensor

from cuda_ext import native, reference
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
