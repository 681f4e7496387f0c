"""One camera: where the head is, which focal length, and how much of a turn is the neck's."""

from __future__ import annotations

import math

import pytest
import torch
from scene import performance

from avatars.errors import CaptureError
from avatars.head import HeadModel
from avatars.transforms import axis_angle_to_matrix, project_points
from capture.track.single import PRIOR, best_focal, camera_in_front, place_by_perspective, share_with_neck


def test_the_camera_looks_at_the_origin() -> None:
    camera = camera_in_front("me", 640, 480, 900.0, 0.7)
    pixels, depth = project_points(torch.tensor([[0.0, 0.0, 0.0], [0.1, 0.1, 0.0]]), camera.viewmats[0], camera.Ks[0])
    assert pixels[0].tolist() == pytest.approx([320, 240]) and float(depth[0]) == pytest.approx(0.7)
    assert pixels[1, 0] > 320 and pixels[1, 1] < 240  # the subject's left is on the right, up is up


def test_heads_are_placed_and_gaps_bridged() -> None:
    generator = torch.Generator().manual_seed(0)
    template = 0.08 * torch.randn(40, 3, generator=generator)
    camera = camera_in_front("me", 640, 480, 900.0, 0.7)
    rotations = torch.tensor([[0.0, 0.3, 0.0], [0.1, -0.2, 0.05], [0.0, 0.0, 0.0]])
    positions = torch.tensor([[0.0, 0.0, 0.0], [0.02, 0.01, -0.05], [0.0, 0.0, 0.0]])
    points = template @ axis_angle_to_matrix(rotations).transpose(1, 2) + positions[:, None]
    pixels = project_points(points, camera.viewmats[0].expand(3, 4, 4), camera.Ks[0].expand(3, 3, 3))[0]
    weights = torch.ones(3, 40)
    weights[2] = 0  # no face
    found, places = place_by_perspective(template, pixels, weights, camera)
    assert torch.allclose(found[:2], rotations[:2], atol=1e-3) and torch.allclose(places[:2], positions[:2], atol=1e-3)
    assert torch.equal(found[2], found[1])
    with pytest.raises(CaptureError, match="at least 60 pixels wide"):
        place_by_perspective(template, pixels, torch.zeros(3, 40), camera)


@pytest.mark.parametrize("truth", [700.0, 1200.0, 2000.0])
def test_the_best_focal_length_lies_between_candidates(truth: float) -> None:
    found = best_focal(640, lambda focal: 1e4 * (math.log(focal) - math.log(truth)) ** 2)
    assert found == pytest.approx(truth, rel=0.02)
    assert best_focal(640, lambda _focal: 0.0) == pytest.approx(640 * math.exp(PRIOR[0]), rel=0.05)


def test_sharing_a_turn_keeps_where_the_face_looks(toy_head: HeadModel) -> None:
    pose = performance(toy_head, 5)
    pose.joints[:] = 0
    pose.rotation[:, 1] = torch.linspace(0, 0.6, 5)
    shared = share_with_neck(pose, 0.5, 0, 1, calm=0)
    chain = axis_angle_to_matrix(shared.rotation) @ axis_angle_to_matrix(shared.joints[:, 0]) @ axis_angle_to_matrix(shared.joints[:, 1])
    assert torch.allclose(chain, axis_angle_to_matrix(pose.rotation), atol=1e-5)
    assert shared.rotation[:, 1].tolist() == pytest.approx([0, 0.075, 0.15, 0.225, 0.3], abs=1e-4)
