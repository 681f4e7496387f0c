"""A head reduced to the points that an energy looks at, and the derivatives of those points.

A fit touches a few hundred surface points, not the whole mesh. `point_head` turns points on triangles into a `HeadModel`
whose vertices are those points (its linear bases and skin weights are linear in the corners), so that everything the head
can do remains available, a hundred times cheaper. `linearise` gives positions and Jacobian for Gauss–Newton.

The parameters of one frame are one vector [D]: expressions [E], joint rotations [3·J], root rotation [3], root
translation [3]. A step of the root's rotation is applied from the left, exp(δ)·R.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from avatars.head import HeadModel, ShapedHead
from avatars.transforms import axis_angle_to_matrix, matrix_to_axis_angle, skew
from avatars.types import HeadPose, Identity


def settle(head: HeadModel, identity: Identity) -> HeadModel:
    """The same head for this identity, without closures: what they add to its expressions is part of its expression basis."""
    if head.closures is None:
        return head
    closing = head.shape(identity).closing
    basis = head.expression_basis.clone()
    if closing is not None:
        basis.index_put_((head.closures.expressions, head.closures.vertices), closing, accumulate=True)
    return replace(head, expression_basis=basis, closures=None)


def point_head(head: HeadModel, face_ids: Tensor, barycentrics: Tensor) -> HeadModel:
    """The head as P points on triangles face_ids [P] at barycentrics [P, 3]: a HeadModel with P vertices and no faces.

    Blending skin weights over a triangle differs from blending its skinned corners by less than 0.1 mm at these mesh sizes.
    """
    _check_settled(head)
    corners = head.faces[face_ids]  # [P, 3]

    def on_surface(values: Tensor, dim: int) -> Tensor:  # [.., V, K] → [.., P, K]
        picked = values.index_select(dim, corners.reshape(-1))
        shape = (*values.shape[:dim], len(corners), 3, *values.shape[dim + 1 :])
        weights = barycentrics.to(values).reshape(*(1,) * dim, len(corners), 3, *(1,) * (values.dim() - dim - 1))
        return (picked.reshape(shape) * weights).sum(dim + 1)

    return replace(
        head,
        template=on_surface(head.template, 0),
        identity_basis=on_surface(head.identity_basis, 1),
        expression_basis=on_surface(head.expression_basis, 1),
        skin_weights=on_surface(head.skin_weights, 0),
        pose_basis=None if head.pose_basis is None else on_surface(head.pose_basis, 1),
        faces=head.faces[:0],
        uv_faces=head.uv_faces[:0],
        face_regions=head.face_regions[:0],
        landmarks={},
    )


def vertex_head(head: HeadModel, vertex_ids: Tensor) -> HeadModel:
    """The head as some of its vertices [P]."""
    _check_settled(head)
    pose_basis = None if head.pose_basis is None else head.pose_basis[:, vertex_ids]
    return replace(
        head,
        template=head.template[vertex_ids],
        identity_basis=head.identity_basis[:, vertex_ids],
        expression_basis=head.expression_basis[:, vertex_ids],
        skin_weights=head.skin_weights[vertex_ids],
        pose_basis=pose_basis,
        faces=head.faces[:0],
        uv_faces=head.uv_faces[:0],
        face_regions=head.face_regions[:0],
        landmarks={},
    )


def _check_settled(head: HeadModel) -> None:
    if head.closures is not None:
        raise ValueError(f"head {head.name} has closures, which need all its vertices: `settle` it for an identity first")


def point_identity(identity: Identity, corners: Tensor, barycentrics: Tensor) -> Identity:
    """The identity whose offsets, where it has any, are those of points on triangles corners [P, 3] at barycentrics [P, 3]."""
    if identity.offsets is None:
        return identity
    return replace(identity, offsets=(identity.offsets[corners] * barycentrics[..., None]).sum(1))


def parameter_count(head: HeadModel) -> int:
    """D, the length of one frame's parameter vector."""
    return head.E + 3 * head.J + 6


def pack(pose: HeadPose) -> Tensor:
    """A pose as vectors [T, D]; the root's rotation as axis-angle."""
    return torch.cat([pose.expression, pose.joints.flatten(1), pose.rotation, pose.translation], 1)


def step(pose: HeadPose, delta: Tensor) -> HeadPose:
    """The pose after a step delta [T, D]."""
    E, J = pose.expression.shape[1], pose.joints.shape[1]
    rotation = axis_angle_to_matrix(delta[:, E + 3 * J : E + 3 * J + 3]) @ axis_angle_to_matrix(pose.rotation)
    return HeadPose(
        pose.expression + delta[:, :E],
        pose.joints + delta[:, E : E + 3 * J].reshape(-1, J, 3),
        matrix_to_axis_angle(rotation),
        pose.translation + delta[:, E + 3 * J + 3 :],
    )


@dataclass(frozen=True)
class Linearised:
    """Positions of P points in T frames and how they change with the frame's parameters and with the identity."""

    positions: Tensor  # [T, P, 3] world
    jacobian: Tensor  # [T, P, 3, D]
    blend: Tensor  # [T, P, 3, 3] rest offsets → world: what a change of the neutral shape does


def linearise(points: HeadModel, shaped: ShapedHead, pose: HeadPose) -> Linearised:
    """Exact first derivatives (pose correctives, where a head has them, are taken as constant).

    A step δ of joint j's rotation vector turns all that hangs on the joint about its place in the world by the left Jacobian of
    SO(3) times δ, in the parent's frame; what a vertex takes part in it is the sum of its weights over the joint's descendants.
    """
    T, P, E, J = len(pose), points.V, points.E, points.J
    turns = points.joint_rotations(pose)  # [T, J, 3]
    transforms = points.joint_transforms(shaped, pose)  # [T, J+1, 4, 4]
    blend = (points.skin_weights @ transforms[..., :3, :3].reshape(T, J + 1, 9)).reshape(T, P, 3, 3)
    rest = _rest(points, shaped, pose, turns)
    scale = torch.as_tensor(shaped.scale, dtype=rest.dtype)
    parts = torch.einsum("tjab,tpb->tjpa", transforms[..., :3, :3], rest) + transforms[:, :, None, :3, 3]
    parts = parts * points.skin_weights.T[..., None]  # [T, J+1, P, 3] summing to the positions
    positions = parts.sum(1)

    jacobian = positions.new_zeros(T, P, 3, parameter_count(points))
    left = left_jacobian(turns)
    for j in range(J):
        below = [k for k in range(J) if j in _ancestors(points.joint_parents, k)]
        parent = points.joint_parents[j]
        axes = transforms[:, parent if parent >= 0 else J, :3, :3] / scale @ left[:, j]  # [T, 3, 3] columns: turn in the world
        place = transforms[:, j, :3, :3] @ shaped.joints[j] + transforms[:, j, :3, 3]
        arm = parts[:, below].sum(1) - points.skin_weights[:, below].sum(1)[:, None] * place[:, None]
        jacobian[..., E + 3 * j : E + 3 * j + 3] = -(skew(arm) @ axes[:, None])
    joints_part = jacobian[..., E : E + 3 * J]
    basis = points.expression_basis.permute(1, 2, 0)  # [P, 3, E]
    jacobian[..., :E] = blend @ basis + joints_part @ points.expression_rotations.reshape(E, 3 * J).T
    jacobian[..., E + 3 * J : E + 3 * J + 3] = -skew(positions - pose.translation[:, None])
    jacobian[..., E + 3 * J + 3 :] = torch.eye(3, dtype=positions.dtype)
    return Linearised(positions, jacobian, blend)


def linearise_blend(head: HeadModel, identity: Identity, pose: HeadPose) -> Tensor:
    """[V, 3, 3] rest offsets → world in the one frame of `pose`."""
    transforms = head.joint_transforms(identity, pose)[0, :, :3, :3].reshape(head.J + 1, 9)
    return (head.skin_weights @ transforms).reshape(-1, 3, 3)


def displaced(head: HeadModel, identity: Identity, pose: HeadPose, delta: Tensor) -> Identity:
    """The identity whose vertices lie delta [V, 3] metres (world) from where they were in the one frame of `pose`."""
    offsets = torch.linalg.solve(linearise_blend(head, identity, pose), delta[..., None])[..., 0]
    return replace(identity, offsets=offsets if identity.offsets is None else identity.offsets + offsets)


def left_jacobian(v: Tensor) -> Tensor:
    """[..., 3] → [..., 3, 3]: exp(v + δ) ≈ exp(J δ) exp(v) (Barfoot, State Estimation for Robotics 2017, eq. 7.77)."""
    angle = v.norm(dim=-1)[..., None, None].clamp_min(1e-5)
    K = skew(v)
    eye = torch.eye(3, dtype=v.dtype)
    return eye + (1 - torch.cos(angle)) / angle**2 * K + (angle - torch.sin(angle)) / angle**3 * (K @ K)


def _rest(points: HeadModel, shaped: ShapedHead, pose: HeadPose, turns: Tensor) -> Tensor:
    """[T, P, 3] positions before skinning."""
    T, P = len(pose), points.V
    rest = shaped.vertices + (pose.expression @ points.expression_basis.reshape(points.E, -1)).reshape(T, P, 3)
    if points.pose_basis is not None:
        features = (axis_angle_to_matrix(turns) - torch.eye(3, dtype=rest.dtype)).reshape(T, 9 * points.J)
        rest = rest + (features @ points.pose_basis.reshape(9 * points.J, -1)).reshape(T, P, 3)
    return rest


def _ancestors(parents: tuple[int, ...], joint: int) -> list[int]:
    """The joint itself and all that it hangs on."""
    chain = []
    while joint >= 0:
        chain.append(joint)
        joint = parents[joint]
    return chain
