"""Rotations and cameras: laws that must hold for any input, against independent formulas, with gradients at the hard places."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.spatial.transform import Rotation

from avatars.transforms import (
    axis_angle_to_matrix,
    invert_rigid,
    look_at,
    matrix_to_axis_angle,
    matrix_to_quat,
    opengl_to_opencv,
    project_points,
    quat_multiply,
    quat_to_matrix,
    rigid,
    similarity_from_points,
    skew,
    transform,
)

torch.manual_seed(0)
ANGLES = torch.cat([torch.randn(50, 3, dtype=torch.float64), 1e-5 * torch.randn(20, 3, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float64),
                    torch.eye(3, dtype=torch.float64) * (math.pi - 1e-4), -torch.eye(3, dtype=torch.float64) * 3.0])  # fmt: skip


def test_axis_angle_against_scipy_and_back() -> None:
    R = axis_angle_to_matrix(ANGLES)
    torch.testing.assert_close(R, torch.from_numpy(Rotation.from_rotvec(ANGLES.numpy()).as_matrix()), atol=1e-12, rtol=0)
    inside = ANGLES.norm(dim=-1) < math.pi
    torch.testing.assert_close(matrix_to_axis_angle(R)[inside], ANGLES[inside], atol=1e-8, rtol=0)


def test_quaternions_agree_with_matrices() -> None:
    R = axis_angle_to_matrix(ANGLES)
    q = matrix_to_quat(R)
    torch.testing.assert_close(q.norm(dim=-1), torch.ones(len(q), dtype=q.dtype))
    torch.testing.assert_close(quat_to_matrix(q), R, atol=1e-12, rtol=0)
    torch.testing.assert_close(quat_to_matrix(-3 * q), R, atol=1e-12, rtol=0)  # sign and length do not matter
    product = quat_to_matrix(quat_multiply(q[:-1], q[1:]))
    torch.testing.assert_close(product, R[:-1] @ R[1:], atol=1e-12, rtol=0)
    assert torch.equal(quat_to_matrix(torch.tensor([1.0, 0, 0, 0])), torch.eye(3))


def test_half_turns() -> None:
    for axis in torch.eye(3, dtype=torch.float64):
        R = axis_angle_to_matrix(math.pi * axis)
        torch.testing.assert_close(axis_angle_to_matrix(matrix_to_axis_angle(R)), R, atol=1e-9, rtol=0)


def test_gradients_at_rest_and_elsewhere() -> None:
    for start in (torch.zeros(3, dtype=torch.float64), torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64)):
        assert torch.autograd.gradcheck(axis_angle_to_matrix, (start.clone().requires_grad_(),))
    v = torch.zeros(3, requires_grad=True)
    axis_angle_to_matrix(v).sum().backward()
    assert torch.isfinite(v.grad).all()
    w = torch.tensor([0.2, 0.1, -0.3], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: matrix_to_axis_angle(axis_angle_to_matrix(x)), (w,))


def test_skew_is_the_cross_product() -> None:
    a, b = torch.randn(2, 7, 3)
    torch.testing.assert_close((skew(a) @ b[..., None])[..., 0], torch.linalg.cross(a, b))


def test_rigid_motions() -> None:
    T = rigid(axis_angle_to_matrix(ANGLES), torch.randn(len(ANGLES), 3, dtype=torch.float64))
    torch.testing.assert_close(invert_rigid(T) @ T, torch.eye(4, dtype=T.dtype).expand_as(T), atol=1e-12, rtol=0)
    points = torch.randn(len(T), 5, 3, dtype=torch.float64)
    torch.testing.assert_close(transform(invert_rigid(T), transform(T, points)), points, atol=1e-12, rtol=0)
    torch.testing.assert_close(transform(T[0], points[0, 0:1])[0], T[0, :3, :3] @ points[0, 0] + T[0, :3, 3])


def test_look_at_looks() -> None:
    eye, target, up = torch.tensor([1.0, 0.5, 2.0]), torch.tensor([0.1, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])
    view = look_at(eye, target, up)
    torch.testing.assert_close(torch.linalg.det(view[:3, :3]), torch.tensor(1.0))
    ahead = transform(view, torch.stack([target, eye, target + 0.1 * up]))
    torch.testing.assert_close(ahead[0], torch.tensor([0.0, 0.0, (target - eye).norm()]))
    torch.testing.assert_close(ahead[1], torch.zeros(3), atol=1e-6, rtol=0)
    assert ahead[2, 1] < 0  # up in the world is −y in an OpenCV camera


def test_projection_by_hand() -> None:
    K = torch.tensor([[100.0, 0, 32], [0, 110, 24], [0, 0, 1]])
    pixels, depth = project_points(torch.tensor([[0.1, -0.2, 2.0], [0.0, 0.0, -1.0]]), torch.eye(4), K)
    torch.testing.assert_close(pixels[0], torch.tensor([32 + 5.0, 24 - 11.0]))
    assert depth.tolist() == [2.0, -1.0] and torch.isfinite(pixels).all()
    many, _ = project_points(torch.randn(3, 5, 3), torch.eye(4).expand(3, 4, 4), K.expand(3, 3, 3))
    assert many.shape == (3, 5, 2)


def test_moving_world_and_camera_together_changes_nothing() -> None:
    T = rigid(axis_angle_to_matrix(torch.tensor([0.3, 0.5, -0.2])), torch.tensor([1.0, 2.0, 3.0]))
    points = torch.randn(6, 3) + torch.tensor([0.0, 0.0, 5.0])
    K = torch.tensor([[50.0, 0, 20], [0, 50, 20], [0, 0, 1]])
    before, _ = project_points(points, torch.eye(4), K)
    after, _ = project_points(transform(T, points), invert_rigid(T), K)
    torch.testing.assert_close(before, after, atol=1e-3, rtol=1e-4)


def test_opengl_is_its_own_inverse() -> None:
    T = rigid(axis_angle_to_matrix(ANGLES[:4]), torch.randn(4, 3, dtype=torch.float64))
    flipped = opengl_to_opencv(T)
    torch.testing.assert_close(opengl_to_opencv(flipped), T)
    torch.testing.assert_close(flipped[:, :3, 2], -T[:, :3, 2])  # what looked along −z looks along +z
    torch.testing.assert_close(flipped[:, :3, 3], T[:, :3, 3])


@pytest.mark.parametrize("weighted", [False, True])
def test_similarity_is_recovered(weighted: bool) -> None:
    source = torch.randn(30, 3, dtype=torch.float64)
    R, t = axis_angle_to_matrix(torch.tensor([0.4, -1.0, 0.3], dtype=torch.float64)), torch.tensor([0.1, 2.0, -1.0], dtype=torch.float64)
    target = 1.7 * source @ R.T + t
    weights = None
    if weighted:
        target[0] += 10  # an outlier that has no weight
        weights = torch.ones(30, dtype=torch.float64)
        weights[0] = 0
    s, R2, t2 = similarity_from_points(source, target, weights)
    torch.testing.assert_close(s, torch.tensor(1.7, dtype=torch.float64))
    torch.testing.assert_close(R2, R)
    torch.testing.assert_close(t2, t)
    mirrored = source * torch.tensor([-1.0, 1, 1], dtype=torch.float64)
    assert torch.linalg.det(similarity_from_points(source, mirrored)[1]) > 0.99  # never a reflection
