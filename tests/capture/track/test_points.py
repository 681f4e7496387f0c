"""Reduced heads agree with the whole one, and their derivatives with differences."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from avatars.head import HeadModel
from avatars.head.model import Closures
from avatars.types import HeadPose, Identity
from capture.track.points import linearise, pack, parameter_count, point_head, point_identity, settle, step, vertex_head


def _pose(head: HeadModel, frames: int = 2) -> HeadPose:
    g = torch.Generator().manual_seed(0)
    return HeadPose(
        torch.rand(frames, head.E, generator=g), 0.2 * torch.randn(frames, head.J, 3, generator=g),
        0.3 * torch.randn(frames, 3, generator=g), 0.1 * torch.randn(frames, 3, generator=g),
    )  # fmt: skip


def test_point_head_is_the_landmarks(toy_head: HeadModel) -> None:
    marks = toy_head.landmarks["mediapipe"]
    offsets = 0.003 * torch.randn(toy_head.V, 3, generator=torch.Generator().manual_seed(1))
    identity = Identity(torch.randn(toy_head.I, generator=torch.Generator().manual_seed(2)), offsets, 1.1)
    whole = toy_head.landmark_positions(toy_head.vertices(identity, _pose(toy_head)))
    points = point_head(toy_head, marks.face_ids, marks.barycentrics)
    reduced = points.vertices(point_identity(identity, toy_head.faces[marks.face_ids], marks.barycentrics), _pose(toy_head))
    assert (whole - reduced).abs().max() < 1e-3  # blended weights against blended corners: this mesh is ten times coarser than a head
    assert (whole - reduced).abs().mean() < 6e-5


def test_vertex_head_is_exact(toy_head: HeadModel) -> None:
    ids = torch.tensor([5, 100, 333])
    identity = toy_head.mean_identity()
    whole = toy_head.vertices(identity, _pose(toy_head))[:, ids]
    assert torch.allclose(vertex_head(toy_head, ids).vertices(identity, _pose(toy_head)), whole, atol=1e-6)


def test_jacobian_agrees_with_differences(toy_head: HeadModel) -> None:
    head = vertex_head(toy_head, torch.arange(0, toy_head.V, 37)).to(dtype=torch.float64)
    pose = _pose(head).to(dtype=torch.float64)
    identity = Identity(torch.zeros(head.I, dtype=torch.float64), None, 1.2)
    shaped = head.shape(identity)
    lin = linearise(head, shaped, pose)
    D = parameter_count(head)
    assert lin.jacobian.shape == (2, head.V, 3, D) and pack(pose).shape == (2, D)
    for d in range(D):
        delta = torch.zeros(2, D, dtype=torch.float64)
        delta[:, d] = 1e-6
        difference = (head.vertices(shaped, step(pose, delta)) - head.vertices(shaped, step(pose, -delta))) / 2e-6
        assert torch.allclose(lin.jacobian[..., d], difference, atol=1e-6), d


def test_blend_says_what_offsets_do(toy_head: HeadModel) -> None:
    head = vertex_head(toy_head, torch.arange(0, toy_head.V, 37)).to(dtype=torch.float64)
    pose = _pose(head).to(dtype=torch.float64)
    identity = Identity(torch.zeros(head.I, dtype=torch.float64), torch.zeros(head.V, 3, dtype=torch.float64), 0.9)
    lin = linearise(head, head.shape(identity), pose)
    offsets = torch.randn(head.V, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    moved = head.vertices(replace(identity, offsets=offsets), pose)
    assert torch.allclose(moved, lin.positions + (lin.blend @ offsets[..., None])[..., 0], atol=1e-10)


def test_a_settled_head_is_the_head(toy_head: HeadModel) -> None:
    """Closures become part of the expression basis; the reduced heads refuse heads that still have them."""
    n, blink = 6, toy_head.expression_index("eyeBlinkLeft")
    ids = torch.arange(n) * 50
    half = torch.full((n, 2), 0.5)
    closures = Closures(
        torch.full((n,), blink),
        ids,
        torch.linspace(0.2, 1, n),
        torch.stack([ids, ids + 1], 1),
        half,
        torch.stack([ids + 30, ids + 31], 1),
        half,
    )
    head = replace(toy_head, closures=closures)
    identity = Identity(torch.randn(head.I, generator=torch.Generator().manual_seed(4)), 0.002 * torch.randn(head.V, 3), 1.1)
    pose = _pose(head)
    settled = settle(head, identity)
    assert settled.closures is None and settle(toy_head, identity) is toy_head
    assert torch.allclose(settled.vertices(identity, pose), head.vertices(identity, pose), atol=1e-6)
    assert (settled.vertices(identity, pose) - toy_head.vertices(identity, pose)).abs().max() > 1e-5
    with pytest.raises(ValueError, match="settle"):
        vertex_head(head, ids)


@pytest.mark.parametrize("frames", [1, 3])
def test_step_of_zero_changes_nothing(toy_head: HeadModel, frames: int) -> None:
    pose = _pose(toy_head, frames)
    same = step(pose, torch.zeros(frames, parameter_count(toy_head)))
    assert torch.allclose(pack(same), pack(pose), atol=1e-6)
