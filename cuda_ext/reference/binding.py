"""Gaussians on triangles, blendshapes and penalties in plain torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def triangle_frames(vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Frames of triangles (GaussianAvatars): centroids [F,3], rotations [F,3,3] with columns a0 a1 a2, sizes [F]."""
    v0, v1, v2 = vertices[faces].unbind(1)
    e0, e1 = v1 - v0, v2 - v0
    a0 = F.normalize(e0, dim=-1, eps=1e-20)
    a1 = F.normalize(torch.linalg.cross(a0, e1), dim=-1, eps=1e-20)
    a2 = -F.normalize(torch.linalg.cross(a1, a0), dim=-1, eps=1e-20)
    size = 0.5 * (e0.norm(dim=-1) + (a2 * e1).sum(-1).abs())
    return (v0 + v1 + v2) / 3, torch.stack([a0, a1, a2], -1), size


def matrices_to_quats(matrices: Tensor) -> Tensor:
    """Rotations [..., 3, 3] → unit quaternions wxyz, by the largest of the four candidate pivots."""
    m = matrices
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    squares = torch.stack([1 + xx + yy + zz, 1 + xx - yy - zz, 1 - xx + yy - zz, 1 - xx - yy + zz], -1)  # 4·wxyz²
    a, b, c = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    d, e, f = m[..., 1, 0] + m[..., 0, 1], m[..., 0, 2] + m[..., 2, 0], m[..., 2, 1] + m[..., 1, 2]
    candidates = torch.stack(
        [
            torch.stack([squares[..., 0], a, b, c], -1),
            torch.stack([a, squares[..., 1], d, e], -1),
            torch.stack([b, d, squares[..., 2], f], -1),
            torch.stack([c, e, f, squares[..., 3]], -1),
        ],
        -2,
    )
    pivot = squares.argmax(-1)[..., None, None].expand(*squares.shape[:-1], 1, 4)
    return F.normalize(candidates.gather(-2, pivot)[..., 0, :], dim=-1)


def quat_multiply(p: Tensor, q: Tensor) -> Tensor:
    """Hamilton product of wxyz quaternions, broadcasting."""
    pw, px, py, pz = p.unbind(-1)
    qw, qx, qy, qz = q.unbind(-1)
    return torch.stack(
        [
            pw * qw - px * qx - py * qy - pz * qz,
            pw * qx + px * qw + py * qz - pz * qy,
            pw * qy - px * qz + py * qw + pz * qx,
            pw * qz + px * qy - py * qx + pz * qw,
        ],
        -1,
    )


def bind(
    vertices: Tensor,  # [V, 3]
    faces: Tensor,  # [F, 3]
    face_ids: Tensor,  # [N]
    local_means: Tensor,  # [N, 3]
    local_quats: Tensor,  # [N, 4]
    local_scales: Tensor,  # [N, 3]
    log_scales: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gaussians in triangle frames → world: k·R·mean + centroid, quat(R)⊗quat, k·scale."""
    centroids, rotations, sizes = triangle_frames(vertices, faces)
    size, rotation = sizes[face_ids, None], rotations[face_ids]
    means = size * (rotation @ local_means[..., None])[..., 0] + centroids[face_ids]
    quats = quat_multiply(matrices_to_quats(rotations)[face_ids], local_quats)
    return means, quats, size * (local_scales.exp() if log_scales else local_scales)


def blend(basis: Tensor, weights: Tensor, means: Tensor, quats: Tensor, sh: Tensor, with_size: bool = False) -> tuple[Tensor, ...]:
    """Blendshapes [N, 10, K] of Gaussians with weights [K]: corrected means, quats, sh; and the corrections' size."""
    delta = basis @ weights
    corrected = means + delta[:, :3], quats + delta[:, 3:7], torch.cat([sh[:, :1] + delta[:, None, 7:], sh[:, 1:]], 1)
    return (*corrected, delta[:, :3].square().mean() + delta[:, 7:].square().mean()) if with_size else corrected


def penalty(
    means: Tensor, log_scales: Tensor, logit_opacities: Tensor, reach: Tensor, weights: tuple[float, float, float], max_scale: float
) -> Tensor:
    """Weighted position, scale and opacity penalties of `ops.penalty`."""
    count = max(len(means), 1)  # the mean of nothing is 0
    position = (means.square().sum(-1).add(1e-12).sqrt() - reach).clamp_min(0).sum() / count
    scale = (log_scales.exp() - max_scale * reach.clamp_min(1)[:, None]).clamp_min(0).sum() / (3 * count)
    return weights[0] * position + weights[1] * scale + weights[2] * logit_opacities.sigmoid().sum() / count


def carry(
    vertices: Tensor,
    faces: Tensor,
    face_ids: Tensor,
    basis: Tensor,
    weights: Tensor,
    local: tuple[Tensor, Tensor, Tensor, Tensor],
    penalties: tuple[float, float, float, float, float] | None = None,
    logit_opacities: Tensor | None = None,
    reach: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """`blend`, `bind` with log scales, and the cost of `ops.carry`; `local`: means, quats, log scales, sh."""
    means, quats, log_scales, sh = local
    *corrected, size = blend(basis, weights, means, quats, sh, with_size=True)
    world = bind(vertices, faces, face_ids, corrected[0], corrected[1], log_scales, log_scales=True)
    if penalties is None:
        return (*world, corrected[2])
    assert logit_opacities is not None and reach is not None
    *shares, max_scale, size_weight = penalties
    cost = penalty(corrected[0], log_scales, logit_opacities, reach, (shares[0], shares[1], shares[2]), max_scale)
    return (*world, corrected[2], cost + (size_weight * size if len(means) else 0))
