"""Rotations, rigid motions and camera conventions; the only place in the project where they are converted.

Quaternions are wxyz. `T_a_b` maps points of b to a. All functions broadcast over leading dimensions and are
differentiable, also at the identity.
"""

from __future__ import annotations

import torch
from torch import Tensor


def axis_angle_to_matrix(v: Tensor) -> Tensor:
    """Rodrigues' formula: [..., 3] radians → [..., 3, 3]. Smooth at zero (series below 1e-4)."""
    squared = (v * v).sum(-1, keepdim=True)[..., None]
    small = squared < 1e-8
    angle = torch.where(small, torch.ones_like(squared), squared).sqrt()
    a = torch.where(small, 1 - squared / 6, torch.sin(angle) / angle)
    b = torch.where(small, 0.5 - squared / 24, (1 - torch.cos(angle)) / (angle * angle))
    K = skew(v)
    eye = torch.eye(3, dtype=v.dtype, device=v.device)
    return eye + a * K + b * (K @ K)


def matrix_to_axis_angle(R: Tensor) -> Tensor:
    """[..., 3, 3] → [..., 3], angle in [0, π]."""
    q = matrix_to_quat(R)
    q = torch.where(q[..., :1] < 0, -q, q)
    xyz = q[..., 1:]
    norm = xyz.norm(dim=-1, keepdim=True)
    angle = 2 * torch.atan2(norm, q[..., :1])
    return torch.where(norm < 1e-7, 2 * xyz, xyz * angle / norm.clamp_min(1e-12))


def skew(v: Tensor) -> Tensor:
    """[..., 3] → [..., 3, 3] with skew(a) @ b = a × b."""
    x, y, z = v.unbind(-1)
    o = torch.zeros_like(x)
    return torch.stack([o, -z, y, z, o, -x, -y, x, o], -1).reshape(*v.shape[:-1], 3, 3)


def quat_to_matrix(q: Tensor) -> Tensor:
    """wxyz [..., 4], normalised here → [..., 3, 3]."""
    w, x, y, z = torch.nn.functional.normalize(q, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, -1).reshape(*q.shape[:-1], 3, 3)


def matrix_to_quat(R: Tensor) -> Tensor:
    """[..., 3, 3] → unit wxyz [..., 4] (Shepperd 1978: the largest of four candidates, so no division by a small one)."""
    m = R.flatten(-2)
    m00, m01, m02, m10, m11, m12, m20, m21, m22 = m.unbind(-1)
    candidates = torch.stack([
        torch.stack([1 + m00 + m11 + m22, m21 - m12, m02 - m20, m10 - m01], -1),
        torch.stack([m21 - m12, 1 + m00 - m11 - m22, m10 + m01, m02 + m20], -1),
        torch.stack([m02 - m20, m10 + m01, 1 - m00 + m11 - m22, m21 + m12], -1),
        torch.stack([m10 - m01, m02 + m20, m21 + m12, 1 - m00 - m11 + m22], -1),
    ], -2)  # fmt: skip
    best = candidates.diagonal(dim1=-2, dim2=-1).argmax(-1)
    q = candidates.gather(-2, best[..., None, None].expand(*best.shape, 1, 4))[..., 0, :]
    return torch.nn.functional.normalize(q, dim=-1)


def quat_multiply(a: Tensor, b: Tensor) -> Tensor:
    """Hamilton product of wxyz quaternions; rotation a after b."""
    aw, ax, ay, az = a.unbind(-1)
    bw, bx, by, bz = b.unbind(-1)
    return torch.stack([
        aw * bw - ax * bx - ay * by - az * bz,
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
    ], -1)  # fmt: skip


def rigid(R: Tensor, t: Tensor) -> Tensor:
    """[..., 3, 3], [..., 3] → [..., 4, 4]."""
    top = torch.cat([R, t[..., None]], -1)
    bottom = torch.zeros_like(top[..., :1, :])
    bottom[..., 3] = 1
    return torch.cat([top, bottom], -2)


def invert_rigid(T: Tensor) -> Tensor:
    """Inverse of rigid [..., 4, 4]."""
    Rt = T[..., :3, :3].transpose(-1, -2)
    return rigid(Rt, -(Rt @ T[..., :3, 3:])[..., 0])


def transform(T: Tensor, points: Tensor) -> Tensor:
    """Apply [..., 4, 4] to [..., P, 3]."""
    return points @ T[..., :3, :3].transpose(-1, -2) + T[..., None, :3, 3]


def project_points(points: Tensor, viewmats: Tensor, Ks: Tensor) -> tuple[Tensor, Tensor]:
    """World points [..., P, 3] through [..., 4, 4] and [..., 3, 3] → pixels [..., P, 2] and depth [..., P]."""
    camera = transform(viewmats, points)
    depth = camera[..., 2]
    image = camera @ Ks.transpose(-1, -2)
    return image[..., :2] / depth.clamp_min(1e-6)[..., None], depth


def look_at(eye: Tensor, target: Tensor, up: Tensor) -> Tensor:
    """World → camera [4, 4] of an OpenCV camera at `eye` [3] that looks at `target` [3], with `up` [3] upwards."""
    forward = torch.nn.functional.normalize(target - eye, dim=-1)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up), dim=-1)
    R = torch.stack([right, torch.linalg.cross(forward, right), forward])
    return rigid(R, -R @ eye)


def opengl_to_opencv(T_world_camera: Tensor) -> Tensor:
    """Camera → world of an OpenGL camera (y up, z backward) → that of the same camera with OpenCV axes; its own inverse."""
    return T_world_camera * torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=T_world_camera.dtype, device=T_world_camera.device)


def similarity_from_points(source: Tensor, target: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Least-squares scale, rotation [3, 3], translation [3] with target ≈ s·R·source + t (Umeyama 1991); inputs [P, 3], [P]."""
    w = torch.ones_like(source[:, 0]) if weights is None else weights
    w = (w / w.sum())[:, None]
    ms, mt = (w * source).sum(0), (w * target).sum(0)
    a, b = source - ms, target - mt
    U, S, Vh = torch.linalg.svd((w * b).T @ a)
    sign = torch.ones(3, dtype=source.dtype, device=source.device)
    sign[2] = torch.sign(torch.linalg.det(U) * torch.linalg.det(Vh))
    R = U @ torch.diag(sign) @ Vh
    s = (S * sign).sum() / (w * a * a).sum()
    return s, R, mt - s * (R @ ms)
