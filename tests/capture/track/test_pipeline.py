"""Tracking the sample capture end to end: a kill between stages loses nothing, and the result is a tracked sequence that is right."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from avatars.errors import AvatarError, CaptureError
from avatars.head import load_head
from avatars.sequence import TrackedSequence, load_tracked
from avatars.types import HeadPose, Identity
from capture.formats import Capture, open_capture
from capture.landmarks import COUNT, FaceLandmarks, cached_landmarks, detect_landmarks
from capture.sample import SAMPLE
from capture.track import TrackConfig, pipeline, track
from capture.track.config import MotionStage, ShapeStage
from capture.track.state import Fit
from capture.truth import Truth

CONFIG = TrackConfig(shape=ShapeStage(rounds=1), motion=MotionStage(rounds=1, points=500))
CAMERAS = 4


@pytest.fixture(scope="module")
def capture() -> Capture:
    """A few cameras of the sample's shortest sequence."""
    whole = open_capture(SAMPLE)
    order = np.argsort([abs(float(c[0])) for c in whole.cameras.centers])[:CAMERAS]
    shortest = min(whole.sequences, key=whole.frame_count)
    return open_capture(SAMPLE, cameras=[whole.camera_names[i] for i in sorted(order)], sequences=[shortest])


def _forbidden(*_args, **_kwargs):
    raise AssertionError("a finished stage was repeated")


@pytest.fixture(scope="module")
def tracked(capture: Capture, tmp_path_factory: pytest.TempPathFactory) -> TrackedSequence:
    """Tracked in two goes: killed before the motion stage, then resumed, with the finished stages forbidden."""
    out = tmp_path_factory.mktemp("tracked") / "t"
    with pytest.MonkeyPatch.context() as patch:

        def killed(*_args, **_kwargs):
            raise KeyboardInterrupt

        patch.setattr(pipeline, "refine_motion", killed)
        with pytest.raises(KeyboardInterrupt):
            track(capture, out, config=CONFIG)
    assert not (out / "manifest.json").exists() and (out / "stages" / "shape.npz").exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "detect_landmarks", _forbidden)
        patch.setattr(pipeline, "first_fit", _forbidden)
        patch.setattr(pipeline, "refine_shape", _forbidden)
        return track(capture, out, config=CONFIG)


def test_the_folder_is_complete(tracked: TrackedSequence, capture: Capture) -> None:
    again = load_tracked(tracked.folder)
    assert again.cameras.names == capture.camera_names
    assert torch.equal(again.codes.expression, tracked.codes.expression)
    assert again.image(3, 1).shape == (again.cameras.height, again.cameras.width, 3)
    assert again.head_name == "default" and again.head_hash == load_head().content_hash()
    sheet = cv2.imread(str(tracked.folder / "sheet.jpg"))
    assert sheet is not None and sheet.shape[0] > 1000
    with np.load(tracked.folder / "residuals.npz") as file:
        assert file["pixels"].shape == (again.frame_count, CAMERAS)
    json.dumps(again.quality, allow_nan=False)


def test_the_mesh_lies_on_the_face(tracked: TrackedSequence) -> None:
    assert tracked.quality["mesh_mm"] < 2.5
    assert tracked.quality["landmark_px"] < 4
    low, high = tracked.quality["expression_range"]
    assert low > -0.15 and high < 1.15


def test_a_finished_tracking_is_not_repeated(tracked: TrackedSequence, capture: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("detect_landmarks", "first_fit", "refine_shape", "refine_motion"):
        monkeypatch.setattr(pipeline, name, _forbidden)
    again = track(capture, tracked.folder, config=CONFIG)
    assert torch.equal(again.codes.joints, tracked.codes.joints)


def test_a_change_repeats_only_what_depends_on_it(tracked: TrackedSequence, capture: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("detect_landmarks", "first_fit", "refine_shape"):
        monkeypatch.setattr(pipeline, name, _forbidden)
    called = []
    monkeypatch.setattr(pipeline, "refine_motion", lambda head, fit, *_: called.append(1) or fit.pose)
    track(capture, tracked.folder, config=TrackConfig(shape=CONFIG.shape, motion=MotionStage(rounds=2)))
    assert called


def test_a_damaged_stage_is_made_again(capture: Capture, tmp_path: Path) -> None:
    path = tmp_path / "first.npz"
    path.write_bytes(b"PK\x03\x04 truncated")
    assert pipeline._read_stage(path, "key", capture) is None
    cameras = capture.cameras
    assert cameras is not None
    pose = HeadPose(torch.rand(2, 7), torch.rand(2, 5, 3), torch.rand(2, 3), torch.rand(2, 3))
    fit = Fit(cameras, Identity(torch.rand(4), None, 1.25), pose, 1)
    pipeline._write_stage(path, "key", fit)
    content = path.read_bytes()
    for at in np.random.default_rng(0).integers(0, len(content), 150):  # in headers, sizes, methods, names and numbers
        path.write_bytes(content[:at] + bytes([content[at] ^ 16]) + content[at + 1 :])
        again = pipeline._read_stage(path, "key", capture)
        assert again is None or all(torch.equal(a, b) for a, b in zip(vars(again.pose).values(), vars(pose).values(), strict=True))


def test_damaged_landmarks_are_made_again(tmp_path: Path) -> None:
    path = tmp_path / "l.npz"
    first = FaceLandmarks(np.random.default_rng(0).random((2, 9, 2)), np.ones((2, 9)))
    cached_landmarks(path, "key", lambda: first)
    content = path.read_bytes()
    for at in range(0, len(content), 13):
        path.write_bytes(content[:at] + bytes([content[at] ^ 16]) + content[at + 1 :])
        assert np.array_equal(cached_landmarks(path, "key", lambda: first).points, first.points)


def test_damaged_truth_is_named(tmp_path: Path) -> None:
    (tmp_path / "faces.npy").write_bytes(b"\x93NUMPY\x01\x00")
    (tmp_path / "A").mkdir()
    (tmp_path / "A" / "motion.npz").write_bytes(b"PK\x03\x04")
    truth = Truth(tmp_path)
    for read in (lambda: truth.faces, lambda: truth.vertices("A"), lambda: truth.motion("A")):
        with pytest.raises(AvatarError, match=r"truth: .*(faces\.npy|motion\.npz) is damaged.*remove its truth folder"):
            read()


def test_pictures_without_a_face(capture: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "detect_landmarks", lambda pictures, _passes: detect_landmarks([np.zeros_like(p) for p in pictures], 0))
    few = open_capture(SAMPLE, cameras=capture.camera_names[:1], sequences=capture.sequences)
    with pytest.raises(CaptureError, match="No face is found in any picture"):
        track(few, tmp_path / "t", config=CONFIG)
    stain = np.linspace(0, 20, COUNT)[:, None].repeat(2, 1)  # what a detector takes for a face, 20 pixels wide

    def detect(pictures, _passes):
        points = np.stack([stain for _ in pictures])
        return FaceLandmarks(points, np.ones(points.shape[:2]))

    monkeypatch.setattr(pipeline, "detect_landmarks", detect)
    with pytest.raises(CaptureError, match="The widest face found in .* has 20 pixels"):
        track(few, tmp_path / "u", config=CONFIG)


def test_landmarks_lie_on_the_face_and_are_cached(tracked: TrackedSequence, tmp_path: Path) -> None:
    pictures = [tracked.image(t, CAMERAS // 2) for t in range(2)]
    calls = []

    def detect():
        calls.append(1)
        return detect_landmarks(pictures, 2)

    found = cached_landmarks(tmp_path / "l.npz", "a", detect)
    assert found.points.shape == (2, COUNT, 2) and found.found.all()
    height, width = pictures[0].shape[:2]
    assert (found.points > 0).all() and (found.points < [width, height]).all()
    nose, chin, brow = found.points[0, 4, 1], found.points[0, 152, 1], found.points[0, 105, 1]
    assert brow < nose < chin
    assert np.nanmedian(found.spread) < 0.03 * width
    assert np.array_equal(cached_landmarks(tmp_path / "l.npz", "a", detect).points, found.points) and len(calls) == 1
    cached_landmarks(tmp_path / "l.npz", "b", detect)
    assert len(calls) == 2
    (tmp_path / "l.npz").write_bytes(b"nonsense")
    cached_landmarks(tmp_path / "l.npz", "b", detect)
    assert len(calls) == 3


def test_landmarks_follow_a_shifted_picture(tracked: TrackedSequence) -> None:
    picture = tracked.image(0, CAMERAS // 2)
    shifted = np.roll(picture, (6, -9), (0, 1))
    found = detect_landmarks([picture, shifted], 2).points
    assert np.abs(found[1] - found[0] - [-9, 6]).mean() < 1.0


def test_no_face_is_nan_and_bad_frames_are_refused() -> None:
    found = detect_landmarks([np.full((60, 50, 3), 120, np.uint8)], 2)
    assert not found.found.any() and np.isnan(found.points).all() and np.isnan(found.spread).all()
    assert detect_landmarks([], 2).points.shape == (0, COUNT, 2)
    with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\], got float"):
        detect_landmarks([np.zeros((4, 4, 3))], 0)
    with pytest.raises(ValueError, match="passes"):
        detect_landmarks([], 9)
