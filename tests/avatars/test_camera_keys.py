"""Camera paths through keys: exact at the keys, smooth between them, around the head and never through it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from avatars.camera_keys import through_keys, write_path
from avatars.camera_path import Subject, read_path
from avatars.transforms import look_at
from avatars.types import Cameras

CENTER = torch.tensor([0.1, 0.2, -0.3], dtype=torch.float64)


def keys(*angles: float, distances: tuple[float, ...] = (), fovs: tuple[float, ...] = ()) -> Cameras:
    """Cameras around the centre at degrees, looking at it."""
    views, Ks = [], []
    for i, angle in enumerate(angles):
        a, d = math.radians(angle), (distances or (1.0,) * len(angles))[i]
        eye = CENTER + d * torch.tensor([math.sin(a), 0.1 * i, math.cos(a)], dtype=torch.float64)
        views.append(look_at(eye, CENTER, torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)))
        f = 100 / math.tan(math.radians((fovs or (24.0,) * len(angles))[i]) / 2)
        Ks.append(torch.tensor([[f, 0, 150], [0, f, 100], [0, 0, 1]], dtype=torch.float64))
    return Cameras(tuple(f"k{i}" for i in range(len(angles))), torch.stack(Ks), torch.stack(views), 300, 200)


def test_the_path_passes_its_keys_exactly() -> None:
    k = keys(-40, 10, 60, 200, distances=(1.0, 0.6, 1.4, 1.0), fovs=(24.0, 40.0, 15.0, 24.0))
    times = (0.0, 0.3, 0.5, 2.0)
    path = through_keys(k, times, times, CENTER)
    assert torch.allclose(path.viewmats, k.viewmats, atol=1e-9) and torch.allclose(path.Ks, k.Ks, atol=1e-6)


def test_every_camera_of_the_path_is_rigid_and_looks_at_the_head_from_outside() -> None:
    path = through_keys(keys(0, 179), (0, 1), torch.linspace(0, 1, 60).tolist(), CENTER)
    R = path.viewmats[:, :3, :3]
    assert torch.allclose(R @ R.transpose(1, 2), torch.eye(3, dtype=torch.float64).expand(60, 3, 3), atol=1e-9)
    assert torch.allclose(torch.linalg.det(R), torch.ones(60, dtype=torch.float64))
    distance = (path.centers - CENTER).norm(dim=1)
    assert float(distance.min()) > 0.95  # a straight line between the keys would go through the head
    aim = (R @ (CENTER - path.centers)[..., None])[..., 0]
    assert float((aim[:, :2] / aim[:, 2:]).abs().max()) < 0.02


def test_the_path_is_smooth() -> None:
    k = keys(-60, -20, 15, 80, distances=(1, 1.3, 0.8, 1.0))
    at = torch.linspace(0, 1, 301)
    centers = through_keys(k, (0, 0.4, 0.6, 1.0), at.tolist(), CENTER).centers
    velocity = centers.diff(dim=0)
    jump = velocity.diff(dim=0).norm(dim=1)
    assert float(jump.max()) < 0.12 * float(velocity.norm(dim=1).max())  # no kink where keys are passed
    assert float(velocity[0].norm()) < 0.15 * float(velocity.norm(dim=1).max())  # it sets out gently
    with pytest.raises(ValueError, match="ascending"):
        through_keys(k, (0, 0.5, 0.5, 1), [0.0], CENTER)
    with pytest.raises(ValueError):
        through_keys(k[[]], (), [0.0], CENTER)
    alone = through_keys(k[0], (0,), [0.0, 5.0], CENTER)
    assert torch.allclose(alone.viewmats, k.viewmats[:1].expand(2, 4, 4))


def test_times_outside_of_the_keys_stand_still_and_turning_the_world_changes_nothing() -> None:
    k = keys(0, 90)
    path = through_keys(k, (1, 2), [0.0, 1.0, 2.0, 3.0], CENTER)
    assert torch.allclose(path.viewmats[0], k.viewmats[0]) and torch.allclose(path.viewmats[3], k.viewmats[1])
    R = look_at(torch.tensor([1.0, 2, 3]).double(), torch.zeros(3).double(), torch.tensor([0.0, 0, 1]).double())
    moved = Cameras(k.names, k.Ks, k.viewmats @ torch.linalg.inv(R), k.width, k.height)
    center = R[:3, :3] @ CENTER + R[:3, 3]
    at = [0.0, 0.2, 0.7, 1.0]
    assert torch.allclose(
        through_keys(moved, (0, 1), at, center).viewmats @ R, through_keys(k, (0, 1), at, CENTER).viewmats, atol=1e-9
    )  # fmt: skip


def test_a_written_path_is_read_by_the_command_line(tmp_path: Path) -> None:
    path = through_keys(keys(-30, 30), (0, 1), torch.linspace(0, 1, 9).tolist(), CENTER)
    write_path(tmp_path / "path.json", path, 25.0)
    subject = Subject(CENTER.float(), torch.tensor([0.0, 1, 0]), torch.tensor([0.0, 0, 1]))
    found, fps = read_path(tmp_path / "path.json", subject)
    assert fps == 25.0 and len(found) == 9 and (found.width, found.height) == (300, 200)
    assert torch.allclose(found.viewmats.double(), path.viewmats, atol=1e-5) and torch.allclose(found.Ks.double(), path.Ks, atol=1e-3)
