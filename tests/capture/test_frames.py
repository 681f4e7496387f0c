"""Preparing frames: what is written, what a second run repeats, and what a kill, a full disk or a bad file leave."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from avatars.errors import CaptureError, DiskFull
from capture import frames as frames_module
from capture.color import ColorCorrection
from capture.formats import open_capture
from capture.frames import FrameStore, prepare_frames


def files(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in sorted(folder.rglob("*")) if p.is_file()}


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


def test_every_frame_is_there_and_faithful(studio: Callable[..., Path], tmp_path: Path) -> None:
    capture = open_capture(studio(frames=4, sequences=("A", "B")))
    steps = []
    store = prepare_frames(
        capture, tmp_path / "frames", lambda what, done, total, figures: steps.append((done, total)), correct_color=False
    )
    assert store == FrameStore(tmp_path / "frames", capture.camera_names, {"A": 4, "B": 4})
    assert steps[-1] == (32, 32) and [d for d, _ in steps] == sorted(d for d, _ in steps)
    for sequence in ("A", "B"):
        for camera in capture.camera_names:
            for k, original in enumerate(capture.frames(sequence, camera)):
                assert store.image_path(sequence, camera, k) == tmp_path / "frames" / sequence / camera / f"{k:05d}.jpg"
                mask = store.mask(sequence, camera, k)
                hard = (mask == 0) | (mask == 255)  # elsewhere the wall was taken out
                assert hard.mean() > 0.9 and psnr(store.image(sequence, camera, k)[hard], original[hard]) > 36
                assert mask.shape == original.shape[:2] and mask[40, 32] == 255 and mask[0, 0] == 0
    assert not list((tmp_path / "frames").rglob(".*"))


def test_second_run_repeats_nothing_and_makes_what_is_missing(
    studio: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture = open_capture(studio(frames=3))
    out = tmp_path / "frames"
    prepare_frames(capture, out)
    before = files(out)
    decoded = []
    original = type(capture).frames
    monkeypatch.setattr(type(capture), "frames", lambda self, s, c, *rest: decoded.append(c) or original(self, s, c, *rest))
    prepare_frames(capture, out)
    assert files(out) == before and decoded == []
    (out / "A" / "220001" / "done.json").write_text('{"key": "')  # a half-written marker
    prepare_frames(capture, out)
    assert decoded == ["220001"]
    (out / "A" / "220002" / "done.json").unlink()
    (out / "A" / ".220002.0123abcd.tmp").mkdir()  # what a kill leaves
    prepare_frames(capture, out)
    assert decoded == ["220001", "220002"] and not list((out / "A").glob(".*"))
    decoded.clear()
    (out / "A" / "220000" / "00001.jpg").unlink()  # in the middle of a clip
    (out / "A" / "220002" / "00000.png").write_bytes(b"")
    prepare_frames(capture, out)
    assert sorted(set(decoded)) == ["220000", "220002"] and (out / "A" / "220000" / "00001.jpg").exists()
    video = capture.sources("A", "220003")[0]
    video.write_bytes(video.read_bytes())  # filmed again
    prepare_frames(capture, out, correct_color=False)
    assert decoded[-1] == "220003" or "220003" in decoded


def test_damaged_picture_is_named(studio: Callable[..., Path], tmp_path: Path) -> None:
    store = prepare_frames(open_capture(studio(frames=2)), tmp_path / "frames")
    store.image_path("A", "220000", 1).write_bytes(b"no")
    with pytest.raises(CaptureError, match="00001.jpg is damaged"):
        store.image("A", "220000", 1)
    with pytest.raises(CaptureError, match="00007.png does not exist"):
        store.mask("A", "220000", 7)


def test_full_disk_keeps_what_is_finished(studio: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    capture = open_capture(studio(frames=3))
    out = tmp_path / "frames"
    written = []
    original = frames_module._write_frame

    def fill(folder: Path, *rest) -> int:
        if len(written) >= 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(folder)
        return original(folder, *rest)

    monkeypatch.setattr(frames_module, "_write_frame", fill)
    with pytest.raises(DiskFull, match="disk is full while writing.*finished stages are not repeated") as caught:
        prepare_frames(capture, out, workers=1)
    assert f"writing {out}: " in str(caught.value) and ".tmp" not in str(caught.value), "people know the folder that they asked for"
    frames = sum(files.stat().st_size for files in (out / "A" / "220000").glob("0*")) / 3
    cameras = len(capture.camera_names)
    assert caught.value.needed == pytest.approx(frames * 3 * (cameras - 1), rel=0.2) and " are needed" in str(caught.value)
    finished = files(out / "A" / "220000")
    assert len(finished) == 7 and not (out / "A" / "220001").exists() and not list((out / "A").glob(".*"))
    monkeypatch.setattr(frames_module, "_write_frame", original)
    prepare_frames(capture, out)
    assert files(out / "A" / "220000") == finished and len(files(out / "A" / "220001")) == 7


def test_failure_in_one_clip_stops_the_rest_and_is_named(studio: Callable[..., Path], tmp_path: Path) -> None:
    folder = studio(frames=12)
    video = folder / "sequences" / "A" / "images" / "cam_220000.mp4"
    video.write_bytes(video.read_bytes()[: video.stat().st_size * 2 // 3])
    with pytest.raises(CaptureError, match="cam_220000.mp4 is (truncated|damaged)"):
        prepare_frames(open_capture(folder), tmp_path / "frames", correct_color=False)
    assert not (tmp_path / "frames" / "A" / "220000").exists()


def test_missing_video_is_refused_before_any_work(studio: Callable[..., Path], tmp_path: Path) -> None:
    folder = studio(frames=3, sequences=("A", "B"))
    (folder / "sequences" / "B" / "images" / "cam_220002.mp4").unlink()
    with pytest.raises(CaptureError, match=r"B/images/cam_220002.mp4: is missing. Restore it, or leave camera 220002 out"):
        prepare_frames(open_capture(folder), tmp_path / "frames")
    assert not (tmp_path / "frames").exists()


def test_corrections_are_applied_and_can_be_undone(studio: Callable[..., Path], tmp_path: Path) -> None:
    folder = studio(frames=2)
    gains = np.concatenate([np.diag([1.1, 0.95, 1.0]), np.zeros((3, 1))], 1)
    (folder / "calibration" / "color_calibration.json").write_text(
        json.dumps({f"22000{k}": (gains if k == 1 else np.eye(3, 4)).T.tolist() for k in range(4)})
    )
    capture = open_capture(folder)
    store = prepare_frames(capture, tmp_path / "frames")
    original = next(capture.frames("A", "220001"))
    np.testing.assert_allclose(store.image("A", "220001", 0).mean((0, 1)), original.mean((0, 1)) * np.diag(gains), rtol=0.01)
    written = json.loads((tmp_path / "frames" / "colors.json").read_text())["cameras"]["220001"]
    undone = ColorCorrection(np.array(written["inverse"])).apply(store.image("A", "220001", 0))
    hard = store.mask("A", "220001", 0) == 255
    assert psnr(undone[hard], original[hard]) > 35
    untouched = next(capture.frames("A", "220000"))
    hard = store.mask("A", "220000", 0) == 255
    assert psnr(store.image("A", "220000", 0)[hard], untouched[hard]) > 36
