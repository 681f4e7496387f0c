"""The posed head in plain torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from cuda_ext.ops.skin import Rig


def axis_angle_matrices(v: Tensor) -> Tensor:
    """Rodrigues' formula: [..., 3] radians → [..., 3, 3], smooth at zero."""
    squared = (v * v).sum(-1)[..., None, None]
    small = squared < 1e-8
    angle = torch.where(small, 1.0, squared).sqrt()
    a = torch.where(small, 1 - squared / 6, angle.sin() / angle)
    b = torch.where(small, 0.5 - squared / 24, (1 - angle.cos()) / (angle * angle))
    x, y, z = v.unbind(-1)
    o = torch.zeros_like(x)
    K = torch.stack([o, -z, y, z, o, -x, -y, x, o], -1).unflatten(-1, (3, 3))
    return torch.eye(3, dtype=v.dtype, device=v.device) + a * K + b * (K @ K)


def skin(rig: Rig, expression: Tensor, angles: Tensor, rotation: Tensor, translation: Tensor) -> Tensor:
    """Vertices [B, V, 3]; see `ops.skin`. Computes in the dtype of the pose."""
    rest, joints, shapes, turns, weights = (t.to(expression.dtype) for t in (rig.rest, rig.joints, rig.shapes, rig.turns, rig.skin_weights))
    B, J = len(expression), len(joints)
    shaped = rest + torch.einsum("be,evi->bvi", expression, shapes)
    R = axis_angle_matrices(angles + torch.einsum("be,eji->bji", expression, turns))  # [B, J, 3, 3]
    if rig.pose_shapes is not None:
        features = (R - torch.eye(3, dtype=R.dtype, device=R.device)).reshape(B, 9 * J)
        shaped = shaped + torch.einsum("bf,fvi->bvi", features, rig.pose_shapes.to(R.dtype))
    G, t = [], []
    for j, parent in enumerate(rig.parents):
        shift = joints[j] - R[:, j] @ joints[j]
        G.append(R[:, j] if parent < 0 else G[parent] @ R[:, j])
        t.append(shift if parent < 0 else (G[parent] @ shift[..., None])[..., 0] + t[parent])
    G.append(torch.eye(3, dtype=R.dtype, device=R.device).expand(B, 3, 3))
    t.append(rest.new_zeros(B, 3))
    posed = torch.einsum("vj,bjik,bvk->bvi", weights, torch.stack(G, 1), shaped) + weights @ torch.stack(t, 1)
    return rig.scale * posed @ axis_angle_matrices(rotation).transpose(1, 2) + weights.sum(1)[:, None] * translation[:, None]
