"""The check: a good capture passes, and each thing that goes wrong is found, named and given a remedy."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from filming import picture, ring, write_video

from avatars.errors import CaptureError
from avatars.types import Cameras
from capture import quality
from capture.calibration_check import check_calibration
from capture.findings import Finding
from capture.formats import open_capture
from capture.quality import CheckReport, check_capture, require_usable
from capture.sample import SAMPLE
from capture.synchrony import find_delays


@pytest.fixture
def faces_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ellipsoid is no face: these tests are about the rest."""
    monkeypatch.setattr(quality, "_find_faces", lambda pictures: dict.fromkeys(pictures, True))


def errors(report: CheckReport) -> list[Finding]:
    return [f for f in report.findings if f.severity == "error"]


def the_error(report: CheckReport) -> Finding:
    found = errors(report)
    assert len(found) == 1, report.text()
    assert found[0].remedy and not report.ok and report.exit_code == 2
    return found[0]


def test_sample_is_fine(tmp_path: Path) -> None:
    steps = []
    report = check_capture(open_capture(SAMPLE), lambda what, done, total, figures: steps.append((done, total)))
    assert report.ok and report.exit_code == 0 and not report.findings, report.text()
    assert report.facts["cameras"] == 10 and report.facts["faces"] == "seen by 10 of 10" and report.facts["SEN-1"] == "48 frames with sound"
    assert steps[-1] == (30, 30)
    report.save(tmp_path)
    assert json.loads((tmp_path / "check.json").read_text())["ok"] is True
    sheet = cv2.imread(str(tmp_path / "cameras.png"))
    assert sheet.shape[0] == 2 * 262 and sheet.std() > 30


@pytest.mark.usefixtures("faces_everywhere")
class TestOneThingWrong:
    def test_nothing(self, studio: Callable[..., Path]) -> None:
        report = check_capture(open_capture(studio(frames=24, sequences=("A", "B"))))
        assert report.findings == (), report.text()
        require_usable(open_capture(studio("again", frames=2)))

    def test_missing_video(self, studio: Callable[..., Path]) -> None:
        folder = studio(frames=3, sequences=("A", "B"))
        (folder / "sequences" / "B" / "images" / "cam_220001.mp4").unlink()
        capture = open_capture(folder)
        finding = the_error(check_capture(capture))
        assert (
            finding.where.endswith("B/images/cam_220001.mp4") and "missing" in finding.what and "leave camera 220001 out" in finding.remedy
        )
        with pytest.raises(CaptureError, match="cam_220001.mp4: is missing"):
            require_usable(capture)

    def test_truncated_video(self, studio: Callable[..., Path]) -> None:
        folder = studio(frames=16)
        path = folder / "sequences" / "A" / "images" / "cam_220002.mp4"
        content = path.read_bytes()
        for share in (0.6, 0.001):
            path.write_bytes(content[: int(share * len(content))])
            finding = the_error(check_capture(open_capture(folder)))
            assert finding.where == str(path) and ("truncated" in finding.what or "damaged" in finding.what)

    def test_wrong_image_size(self, studio: Callable[..., Path]) -> None:
        folder = studio(frames=4)
        write_video(folder / "sequences" / "A" / "images" / "cam_220003.mp4", [np.zeros((40, 32, 3), np.uint8)] * 4)
        finding = the_error(check_capture(open_capture(folder)))
        assert "is 32×40, the capture is 64×80" in finding.what and "cam_220003" in finding.where

    def test_camera_with_fewer_frames(self, studio: Callable[..., Path]) -> None:
        folder = studio(frames=8)
        cameras = ring()
        write_video(folder / "sequences" / "A" / "images" / "cam_220000.mp4", (picture(cameras, 0, seed=t)[0] for t in range(5)))
        assert "has 5 frames, most cameras of A have 8" in the_error(check_capture(open_capture(folder))).what

    def test_wrong_rate(self, studio: Callable[..., Path]) -> None:
        folder = studio(frames=4)
        write_video(folder / "sequences" / "A" / "images" / "cam_220000.mp4", (picture(ring(), 0, seed=t)[0] for t in range(4)), fps=30)
        assert "30 frames a second, the capture 24" in the_error(check_capture(open_capture(folder))).what

    def test_late_camera(self, studio: Callable[..., Path]) -> None:
        report = check_capture(open_capture(studio(frames=36, delays={"220002": 3})))
        finding = the_error(report)
        assert "220002" in finding.where and "3 frames late" in finding.what and "Cut the video" in finding.remedy

    def test_calibration_in_millimetres(self, studio: Callable[..., Path]) -> None:
        cameras = ring()
        views = cameras.viewmats.clone()
        views[:, :3, 3] *= 1000
        capture = open_capture(
            studio(frames=2, calibration={"world_2_cam": {n: v.tolist() for n, v in zip(cameras.names, views, strict=True)}})
        )
        with pytest.raises(CaptureError, match='camera_params.json: .*millimetres, not metres. Add "units": "millimetres"'):
            require_usable(capture)
        assert "millimetres" in the_error(check_capture(capture)).what

    def test_plates(self, studio: Callable[..., Path]) -> None:
        folder = studio(frames=2)
        (folder / "BACKGROUND" / "image_220001.png").unlink()
        report = check_capture(open_capture(folder))
        assert (
            report.ok and [f.severity for f in report.findings] == ["warning"] and "220001 lacks a clean plate" in report.findings[0].what
        )
        cv2.imwrite(str(folder / "BACKGROUND" / "image_220001.png"), np.zeros((9, 9, 3), np.uint8))
        assert the_error(check_capture(open_capture(folder))).what.startswith(f"{folder}/BACKGROUND/image_220001.png is 9×9")

    def test_dark_and_soft(self, studio: Callable[..., Path]) -> None:
        folder = studio(frames=9, responses={"220000": 0.05 * np.eye(3)})
        soft = (cv2.GaussianBlur(picture(ring(), 1, seed=t)[0], (0, 0), 5) for t in range(9))
        write_video(folder / "sequences" / "A" / "images" / "cam_220001.mp4", soft)
        found = {f.where: f.what for f in check_capture(open_capture(folder)).findings if f.severity == "warning"}
        assert "very dark" in found["camera 220000"] and "softer" in found["camera 220001"]


def test_no_face(tmp_path: Path) -> None:
    pytest.importorskip("mediapipe")
    for t in range(2):
        cv2.imwrite(str(tmp_path / f"{t}.png"), np.full((96, 96, 3), 128, np.uint8))
    finding = the_error(check_capture(open_capture(tmp_path)))
    assert "no camera sees a face" in finding.what and finding.where == str(tmp_path)


def test_text_holds_everything() -> None:
    findings = (Finding("error", "a.mp4", "is bad " * 30, "Mend it."), Finding("note", "b", "so be it.", ""))
    text = CheckReport("x", findings, {"cameras": 2}, 0.5).text(80)
    assert "ERROR    a.mp4" in text and "→ Mend it." in text and "1 errors, 0 warnings" in text and max(map(len, text.splitlines())) <= 81


def test_good_calibration_has_no_findings() -> None:
    assert check_calibration(ring(), "x") == []


@pytest.mark.parametrize(("change", "message"), [
    (lambda c: replace(c, viewmats=c.viewmats * torch.tensor([1.02, 1.02, 1.02, 1.0])), "no rigid motion"),
    (lambda c: replace(c, viewmats=c.viewmats * torch.tensor([-1.0, 1.0, 1.0, 1.0])), "mirrors"),
    (lambda c: replace(c, Ks=c.Ks * torch.tensor([0.001, 0.001, 1.0])[:, None]), "focal lengths 0, 0 px are not plausible"),
    (lambda c: replace(c, width=c.width // 4, height=c.height // 4), "outside of the 16×20 picture"),
    (lambda c: replace(c, viewmats=torch.linalg.inv(c.viewmats)), "Read as camera → world they agree"),
    (lambda c: replace(c, viewmats=torch.diag(torch.tensor([1.0, -1, -1, 1])) @ c.viewmats), "Read as world → camera with OpenGL's axes"),
    (lambda c: replace(c, viewmats=c.viewmats[[0, 0, 2, 3]]), "stand at the same place"),
])  # fmt: skip
def test_wrong_calibrations(change: Callable[[Cameras], Cameras], message: str) -> None:
    errors = [f for f in check_calibration(change(ring()), "x.json") if f.severity == "error"]
    assert errors and any(message in f.what + f.remedy for f in errors), errors
    assert all(f.where == "x.json" for f in errors)


@pytest.mark.parametrize(
    ("scale", "message"), [(1000, "millimetres"), (100, "centimetres"), (12, "arbitrary scale"), (0.01, "arbitrary scale")]
)
def test_units(scale: float, message: str) -> None:
    cameras = ring()
    views = cameras.viewmats.clone()
    views[:, :3, 3] *= scale
    (finding,) = check_calibration(replace(cameras, viewmats=views), "x")
    assert message in finding.what + finding.remedy


@pytest.mark.parametrize("delays", [[0, 0, 0, 0, 0], [0, 2, 0, 0, 0], [0, 0, -4, 0, 1]])
def test_delays_are_found(delays: list[int]) -> None:
    rng = np.random.default_rng(5)
    truth = np.convolve(rng.exponential(size=90), [0.3, 0.4, 0.3], "valid")
    energies = np.stack([truth[20 - d : 70 - d] * rng.uniform(0.5, 3) + rng.uniform(0.05, 0.15, 50) for d in delays])
    assert [d.frames for d in find_delays(energies)] == delays


def test_a_still_camera_raises_no_alarm() -> None:
    rng = np.random.default_rng(6)
    energies = np.stack([*(rng.exponential(size=30) * np.ones((4, 1))), np.zeros(30), rng.exponential(size=30)])
    assert all(d.frames == 0 for d in find_delays(energies))
    with pytest.raises(ValueError, match=r"\(2, 30\)"):
        find_delays(energies[:2])
