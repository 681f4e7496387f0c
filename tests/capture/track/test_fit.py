"""A made-up head with a known performance, seen only as landmarks, is tracked back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scene import arc, film, performance

from avatars.errors import CaptureError
from avatars.head import HeadModel
from avatars.progress import silent
from capture.landmarks import IBUG68
from capture.track.config import LandmarkStage, TrackConfig
from capture.track.first import first_fit, observe
from capture.track.marks import landmark_rig
from capture.track.measure import jitter, measure
from capture.track.reference import calmest_frame
from capture.track.triangulate import place_head, triangulate

CONFIG = TrackConfig(landmarks=LandmarkStage(sigma_mm=1.0, identity_sigma_mm=3.0))


def _skin_error_mm(head: HeadModel, scene, fit) -> np.ndarray:
    """[T] mean distance of corresponding vertices of the front."""
    front = head.template[:, 2] > 0.02
    truth, found = head.vertices(scene.identity, scene.pose), head.vertices(fit.identity, fit.pose)
    return 1e3 * (truth - found)[:, front].norm(dim=-1).mean(1).numpy()


def test_a_performance_is_tracked_back(toy_head: HeadModel) -> None:
    scene = film(toy_head, arc(5), performance(toy_head), noise=0.3, splits=(10,))
    fit = first_fit(scene.capture, toy_head, scene.footage, CONFIG, silent)
    error = _skin_error_mm(toy_head, scene, fit)
    assert error.mean() < 0.6 and error.max() < 1.2, error
    assert (fit.pose.expression - scene.pose.expression).abs().mean() < 0.1
    assert fit.pose.expression.min() > -0.1 and fit.pose.expression.max() < 1.1
    quality, per_picture = measure(toy_head, fit, scene.footage, CONFIG)
    assert quality["landmark_px"] < 1.0 and quality["faces_found"] == 1.0
    assert per_picture.shape == (24, 5) and np.isfinite(per_picture).all()


def test_the_head_turns_at_the_neck_over_still_shoulders(toy_head: HeadModel) -> None:
    scene = film(toy_head, arc(5), performance(toy_head))
    fit = first_fit(scene.capture, toy_head, scene.footage, CONFIG, silent)
    assert (fit.pose.translation - fit.pose.translation[0]).norm(dim=-1).max() < 0.003
    turned = fit.pose.joints[:, 0, 1] + fit.pose.joints[:, 1, 1]
    assert np.corrcoef(turned.numpy(), scene.pose.joints[:, 1, 1].numpy())[0, 1] > 0.99


def test_cameras_and_frames_without_a_face_are_survived(toy_head: HeadModel) -> None:
    scene = film(toy_head, arc(5), performance(toy_head))
    scene.footage.points[:, 4] = np.nan  # a camera that never sees a face
    scene.footage.points[9:11] = np.nan  # nobody sees it for a moment
    fit = first_fit(scene.capture, toy_head, scene.footage, CONFIG, silent)
    error = _skin_error_mm(toy_head, scene, fit)
    assert np.delete(error, [9, 10]).max() < 1.5, error
    assert error[9:11].max() < 6, error  # carried over by smoothness
    quality, _ = measure(toy_head, fit, scene.footage, CONFIG)
    assert quality["cameras_without_face"] == ["c4"] and quality["frames_without_face"] == 2


def test_a_camera_that_lies_is_outvoted(toy_head: HeadModel) -> None:
    scene = film(toy_head, arc(5), performance(toy_head, 8))
    scene.footage.points[:, 1] += 25.0
    fit = first_fit(scene.capture, toy_head, scene.footage, CONFIG, silent)
    assert _skin_error_mm(toy_head, scene, fit).mean() < 1.5


def test_stronger_smoothness_trembles_less(toy_head: HeadModel) -> None:
    scene = film(toy_head, arc(3), performance(toy_head, 16), noise=3.0)
    free = first_fit(scene.capture, toy_head, scene.footage, CONFIG, silent)
    stiff = replace(CONFIG, smooth=replace(CONFIG.smooth, expression=0.02))
    held = first_fit(scene.capture, toy_head, scene.footage, stiff, silent)
    assert jitter(held, scene.footage) < 0.6 * jitter(free, scene.footage)


def test_a_single_camera_finds_its_focal_length(toy_head: HeadModel) -> None:
    scene = film(toy_head, arc(1), performance(toy_head, 14, turn=0.5), calibrated=False)
    fit = first_fit(scene.capture, toy_head, scene.footage, CONFIG, silent)
    assert float(fit.cameras.Ks[0, 0, 0]) == pytest.approx(1600, rel=0.4)
    quality, _ = measure(toy_head, fit, scene.footage, CONFIG)
    assert quality["landmark_px"] < 4.0  # the principal point is taken to be in the middle, which it is not
    assert float(fit.identity.scale) == pytest.approx(1.0, abs=1e-3)


def test_millimetres_are_recognised(toy_head: HeadModel) -> None:
    scene = film(toy_head, arc(5), performance(toy_head, 4))
    views = scene.cameras.viewmats.clone()
    views[:, :3, 3] *= 1000
    scene.capture.cameras = replace(scene.cameras, viewmats=views)
    with pytest.raises(CaptureError, match="divide the translations of world_2_cam by 10"):
        first_fit(scene.capture, toy_head, scene.footage, CONFIG, silent)


def test_no_two_cameras_see_the_face_together(toy_head: HeadModel) -> None:
    scene = film(toy_head, arc(3), performance(toy_head, 4))
    scene.footage.points[:, 1:] = np.nan
    with pytest.raises(CaptureError, match="never seen by two cameras"):
        first_fit(scene.capture, toy_head, scene.footage, CONFIG, silent)


def test_reference_frame(toy_head: HeadModel) -> None:
    scene = film(toy_head, arc(3), performance(toy_head), splits=(10,))
    points = scene.footage.points
    points[:] = points[:1]  # at rest throughout, except that
    points[:20, :, 14, 1] += 30.0  # the mouth is open until frame 20
    points[22:, :, [145, 374]] = points[22:, :, [159, 386]]  # and the eyes are closed from frame 22
    points[20, 0] = np.nan  # one camera misses frame 20
    assert calmest_frame(scene.footage) == 21
    assert calmest_frame(scene.footage, "S-1:3") == 13
    with pytest.raises(CaptureError, match="known: S-0:0–9, S-1:0–13"):
        calmest_frame(scene.footage, "S-7:0")


def test_triangulation_is_exact_and_robust(toy_head: HeadModel) -> None:
    scene = film(toy_head, arc(5), performance(toy_head, 2))
    rig = landmark_rig(toy_head)
    observations = observe(rig, scene.footage, scene.cameras, CONFIG)
    truth = toy_head.landmark_positions(toy_head.vertices(scene.identity, scene.pose))
    observations.rays[:, 2] += 0.03  # 50 pixels off
    points, residual, trust = triangulate(observations.rays, observations.weights, scene.cameras)
    assert (points - truth).norm(dim=-1).max() < 3e-4
    assert trust.min() > 3 and residual[:, 2].min() > 0.02
    observations.weights[0, 1:, 7] = 0
    points, _, trust = triangulate(observations.rays, observations.weights, scene.cameras)
    assert torch.isnan(points[0, 7]).all() and float(trust[0, 7]) == 0


def test_place_head_ignores_outliers() -> None:
    template = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * 0.05
    R = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)))[0]
    R = R * torch.linalg.det(R).sign()
    points = 1.1 * template @ R.T + torch.tensor([0.1, 0.2, 0.3])
    points[:5] += 0.05
    points[5] = torch.nan
    scale, rotation, translation = place_head(template, points, torch.ones(50))
    assert float(scale) == pytest.approx(1.1, abs=5e-3)
    assert torch.allclose(rotation, R, atol=1e-2) and torch.allclose(translation, torch.tensor([0.1, 0.2, 0.3]), atol=1e-3)


def test_heads_with_68_landmarks_only(toy_head: HeadModel) -> None:
    marks = toy_head.landmarks["mediapipe"]
    some = torch.tensor(IBUG68)
    few = type(marks)(marks.face_ids[some], marks.barycentrics[some], marks.valid[some])
    rig = landmark_rig(replace(toy_head, landmarks={"ibug68": few}))
    assert rig.ids.tolist() == list(IBUG68) and len(rig.pairs) > 0
    with pytest.raises(ValueError, match="neither"):
        landmark_rig(replace(toy_head, landmarks={}))
