"""The shared types: shapes are checked, selections agree, moving keeps what is not a tensor."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from avatars.transforms import axis_angle_to_matrix, project_points, rigid
from avatars.types import Cameras, Gaussians, HeadPose, Identity, Image, Mesh


def cameras(count: int = 3) -> Cameras:
    K = torch.tensor([[100.0, 0.5, 33.0], [0, 110.0, 39.0], [0, 0, 1]])
    torch.manual_seed(1)
    views = rigid(axis_angle_to_matrix(torch.randn(count, 3)), torch.randn(count, 3))
    return Cameras(tuple("abc"[:count]), K.expand(count, 3, 3).clone(), views, 64, 80)


def pose(frames: int) -> HeadPose:
    return HeadPose(torch.randn(frames, 5), torch.randn(frames, 4, 3), torch.randn(frames, 3), torch.randn(frames, 3))


def test_cameras_check_their_shapes() -> None:
    with pytest.raises(ValueError, match=r"3 names need Ks \[3,3,3\].*\(2, 3, 3\)"):
        Cameras(("a", "b", "c"), torch.eye(3).expand(2, 3, 3), torch.eye(4).expand(3, 4, 4), 64, 80)


def test_cameras_are_indexed_and_selected() -> None:
    all_three = cameras()
    assert len(all_three) == 3
    assert all_three[1].names == ("b",) and all_three[1:].names == ("b", "c") and all_three[[2, 0]].names == ("c", "a")
    chosen = all_three.select(["c", "a"])
    assert torch.equal(chosen.viewmats, all_three.viewmats[[2, 0]]) and torch.equal(chosen.Ks, all_three.Ks[[2, 0]])
    with pytest.raises(ValueError, match="no camera x, y; known: a, b, c"):
        all_three.select(["x", "a", "y"])


def test_resized_cameras_see_the_same() -> None:
    points = torch.randn(10, 3)
    before, depth = project_points(points, cameras().viewmats, cameras().Ks)
    half = cameras().resized(32, 20)
    after, _ = project_points(points, half.viewmats, half.Ks)
    seen = depth > 0.1
    torch.testing.assert_close((before * torch.tensor([0.5, 0.25]))[seen], after[seen], rtol=1e-4, atol=1e-3)
    assert (half.width, half.height) == (32, 20)


def test_camera_centres_map_to_the_origin() -> None:
    c = cameras()
    local = (c.viewmats[:, :3, :3] @ c.centers[..., None])[..., 0] + c.viewmats[:, :3, 3]
    torch.testing.assert_close(local, torch.zeros(3, 3), atol=1e-6, rtol=0)


def test_poses_are_indexed_and_joined() -> None:
    p = pose(6)
    assert len(p) == 6 and len(p[2]) == 1 and len(p[1:4]) == 3 and len(p[torch.tensor([0, 5])]) == 2
    assert torch.equal(p[2].joints, p.joints[2:3])
    joined = HeadPose.cat([p[:2], p[2:]])
    assert all(torch.equal(getattr(joined, f.name), getattr(p, f.name)) for f in dataclasses.fields(HeadPose))


def test_moving_changes_floats_only() -> None:
    mesh = Mesh(torch.randn(1, 4, 3), torch.zeros(2, 3, dtype=torch.int64)).to(dtype=torch.float64)
    assert mesh.vertices.dtype == torch.float64 and mesh.faces.dtype == torch.int64
    moved = cameras().to("cpu", torch.float64)
    assert moved.names == ("a", "b", "c") and moved.Ks.dtype == torch.float64 and moved.width == 64
    person = Identity(torch.zeros(3), None, 1.5).to(dtype=torch.float64)
    assert person.offsets is None and person.scale == 1.5 and person.coefficients.dtype == torch.float64


def test_detached_types_carry_no_gradient() -> None:
    g = Gaussians(*(torch.rand(4, k, requires_grad=True) for k in (3, 4, 3)), torch.rand(4, requires_grad=True), torch.rand(4, 1, 3))
    assert len(g) == 4 and g.means.requires_grad and not g.detach().means.requires_grad and not g.detach().opacities.requires_grad
    assert Image(torch.zeros(1, 2, 2, 3), torch.zeros(1, 2, 2, 1)).detach().depth is None


def test_types_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        pose(1).expression = torch.zeros(1)  # type: ignore[misc]
