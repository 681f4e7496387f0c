"""What is wrong with a capture, found before compute is spent on it: files, calibration, synchronisation, exposure, focus, faces.

`check_capture` looks at everything and lists every problem with its remedy; `require_usable` is its cheap part and raises the first error.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from avatars.errors import CaptureError, UserError
from avatars.files import atomic_path, write_json
from avatars.progress import Progress, silent
from capture.calibration_check import check_calibration
from capture.decode import VIDEO_SUFFIXES, probe_video
from capture.findings import Finding
from capture.formats import Capture
from capture.synchrony import find_delays

FRAMES_PER_CLIP = 240  # decoded at most; of longer clips the rest is only counted
_ORDER = {"error": 0, "warning": 1, "note": 2}


@dataclass(frozen=True)
class CheckReport:
    """Everything that a check found. `findings` are ordered: errors, warnings, notes."""

    capture: str
    findings: tuple[Finding, ...]
    facts: Mapping[str, Any]
    seconds: float
    sheet: np.ndarray | None = field(default=None, repr=False)  # uint8 RGB, one picture per camera

    @property
    def ok(self) -> bool:
        """Whether nothing stands in the way of tracking (warnings may remain)."""
        return not any(f.severity == "error" for f in self.findings)

    @property
    def exit_code(self) -> int:
        """0, or 2 when there are errors."""
        return 0 if self.ok else 2

    def text(self, width: int = 110) -> str:
        """The report for a terminal: facts, then a table of findings."""
        lines = [f"{self.capture}: " + ", ".join(f"{k} {v}" for k, v in self.facts.items())]
        for finding in self.findings:
            lines.append(f"{finding.severity.upper():8} {finding.where}")
            lines += _wrapped(finding.what, width)
            if finding.remedy:
                lines += _wrapped("→ " + finding.remedy, width)
        count = {s: sum(f.severity == s for f in self.findings) for s in _ORDER}
        verdict = "usable" if self.ok else "not usable as it is"
        lines.append(f"{verdict}: {count['error']} errors, {count['warning']} warnings ({self.seconds:.1f} s)")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "capture": self.capture, "ok": self.ok, "facts": dict(self.facts), "seconds": round(self.seconds, 2),
            "findings": [asdict(f) for f in self.findings],
        }  # fmt: skip

    def save(self, folder: str | Path) -> None:
        """Write check.json and the contact sheet cameras.png."""
        folder = Path(folder)
        write_json(folder / "check.json", self.to_json())
        if self.sheet is not None:
            with atomic_path(folder / "cameras.png") as temporary:
                temporary.write_bytes(cv2.imencode(".png", cv2.cvtColor(self.sheet, cv2.COLOR_RGB2BGR))[1].tobytes())


def check_capture(capture: Capture, progress: Progress = silent) -> CheckReport:
    """Look at headers, calibration and pictures of `capture` and report all that is wrong; never raises for what is wrong with it."""
    started = time.monotonic()
    findings = _check_files(capture)
    findings += [Finding("note", str(capture.path), note + ".", "") for note in capture.notes]
    if capture.cameras is not None:
        findings += check_calibration(capture.cameras, str(capture.calibration_path or capture.path))
    findings += _check_plates(capture)
    damaged = {f.where for f in findings if f.severity == "error"}
    clips, more = _watch(capture, damaged, progress)
    findings += more + _check_exposure(clips) + _check_synchrony(capture, clips)
    pictures = {camera: clip.picture for (sequence, camera), clip in reversed(clips.items()) if clip.picture is not None}
    faces = _find_faces(pictures)
    findings += _check_faces(capture, faces)
    findings.sort(key=lambda f: _ORDER[f.severity])
    return CheckReport(capture.name, tuple(findings), _facts(capture, faces), time.monotonic() - started, _sheet(capture, pictures, faces))


def require_usable(capture: Capture) -> None:
    """The part of the check that takes no decoding; CaptureError with the first error and its remedy."""
    findings = _check_files(capture)
    if capture.cameras is not None:
        findings += check_calibration(capture.cameras, str(capture.calibration_path or capture.path))
    errors = [f for f in findings if f.severity == "error"]
    if errors:
        more = f" ({len(errors) - 1} more errors: run `avatars check {capture.path}`.)" if len(errors) > 1 else ""
        raise CaptureError(f"{errors[0].where}: {errors[0].what} {errors[0].remedy}{more}")


@dataclass
class _Clip:
    """What watching one camera's clip left: small numbers per frame, and one picture."""

    energy: np.ndarray  # [T-1] mean absolute change of the small picture from frame to frame
    brightness: float  # mean luma 0–255
    sharpness: float  # variance of the Laplacian over that of the picture
    picture: np.ndarray | None


def _check_files(capture: Capture) -> list[Finding]:
    findings = []
    for sequence in capture.sequences:
        counts: dict[str, int] = {}
        for camera in capture.camera_names:
            sources = capture.sources(sequence, camera)
            missing = [path for path in sources if not path.exists()]
            if missing:
                findings.append(Finding("error", str(missing[0]), "is missing.", f"Restore it, or leave camera {camera} out."))
            elif sources[0].suffix.lower() in VIDEO_SUFFIXES:
                try:
                    info = probe_video(sources[0])
                except CaptureError as error:
                    findings.append(_finding(str(sources[0]), error))
                    continue
                counts[camera] = info.frame_count
                size = (info.width, info.height)
                if capture.cameras is not None and size != capture.image_size:  # an uncalibrated camera may lie on its side
                    findings.append(Finding(
                        "error", str(sources[0]), f"is {size[0]}×{size[1]}, the capture is {capture.image_size[0]}×{capture.image_size[1]}.",
                        f"Export it at the size of the others, or leave camera {camera} out.",
                    ))  # fmt: skip
                if abs(info.fps / capture.fps - 1) > 0.01:
                    findings.append(Finding("error", str(sources[0]), f"has {info.fps:.4g} frames a second, the capture {capture.fps:.4g}.", "Export it at the rate of the others."))  # fmt: skip
            else:
                counts[camera] = len(sources)
        usual = max(set(counts.values()), key=list(counts.values()).count) if counts else 0
        for camera, count in counts.items():
            if count != usual:
                findings.append(Finding(
                    "error" if count < usual else "warning", str(capture.sources(sequence, camera)[0]),
                    f"has {count} frames, most cameras of {sequence} have {usual}.",
                    "Copy it from the camera again, or leave it out: frames that only some cameras have cannot be used.",
                ))  # fmt: skip
    return findings


def _finding(where: str, error: UserError) -> Finding:
    """An exception's message split into what and remedy; the path is in `where` already."""
    text = str(error)
    what, _, remedy = (text if text.startswith(f"{where}/") else text.removeprefix(where)).strip(" :").partition(". ")
    return Finding("error", where, what.rstrip(".") + ".", remedy)


def _check_plates(capture: Capture) -> list[Finding]:
    findings, without = [], []
    for camera in capture.camera_names:
        try:
            if capture.clean_plate(camera) is None:
                without.append(camera)
        except CaptureError as error:
            findings.append(_finding(str(capture.path), error))
    if without and capture.cameras is not None:
        which = "no camera has" if len(without) == len(capture.camera_names) else f"camera {', '.join(without)} lacks"
        findings.append(Finding(
            "warning", str(capture.path), f"{which} a clean plate (BACKGROUND/image_<serial>.png).",
            "Mattes then come from a segmentation model, which is softer at hair. Film the empty studio once.",
        ))  # fmt: skip
    return findings


def _watch(capture: Capture, damaged: set[str], progress: Progress) -> tuple[dict[tuple[str, str], _Clip], list[Finding]]:
    clips: dict[tuple[str, str], _Clip] = {}
    findings = []
    todo = [(s, c) for s in capture.sequences for c in capture.camera_names if str(capture.sources(s, c)[0]) not in damaged]
    for done, (sequence, camera) in enumerate(todo):
        try:
            clips[sequence, camera] = _watch_clip(capture, sequence, camera)
        except CaptureError as error:
            findings.append(_finding(str(capture.sources(sequence, camera)[0]), error))
        progress("watching every camera", done + 1, len(todo), None)
    return clips, findings


def _watch_clip(capture: Capture, sequence: str, camera: str) -> _Clip:
    energy, brightness, sharpness = [], [], []
    previous = None
    for index, luma in enumerate(capture.luma(sequence, camera, 0, FRAMES_PER_CLIP)):
        h, w = luma.shape
        small = cv2.resize(luma, (max(8, w * 128 // h), 128), interpolation=cv2.INTER_AREA).astype(np.float32)
        if previous is not None:
            energy.append(float(np.abs(small - previous).mean()))
        previous = small
        if index % 8 == 0:
            middle = luma[h // 6 : -h // 6 or None, w // 6 : -w // 6 or None]
            brightness.append(float(middle.mean()))
            sharpness.append(float(cv2.Laplacian(middle, cv2.CV_32F).var() / max(float(middle.var()), 1.0)))
    if not brightness:
        raise CaptureError(f"{capture.sources(sequence, camera)[0]} holds no pictures. Copy it again.")
    picture = next(iter(capture.frames(sequence, camera, 0, 1)), None) if sequence == capture.sequences[0] else None
    return _Clip(np.asarray(energy), float(np.mean(brightness)), float(np.median(sharpness)), picture)


def _check_exposure(clips: dict[tuple[str, str], _Clip]) -> list[Finding]:
    findings = []
    cameras = sorted({camera for _, camera in clips})
    sharp = {c: float(np.median([clip.sharpness for (_, camera), clip in clips.items() if camera == c])) for c in cameras}
    for camera in cameras:
        own = [clip for (_, name), clip in clips.items() if name == camera]
        brightness = np.mean([c.brightness for c in own])
        middles = [p[p.shape[0] // 3 : -p.shape[0] // 3, p.shape[1] // 3 : -p.shape[1] // 3] for c in own if (p := c.picture) is not None]
        clipped = np.mean([(middle.min(-1) >= 251).mean() for middle in middles]) if middles else 0.0
        if brightness < 25:
            findings.append(
                Finding(
                    "warning",
                    f"camera {camera}",
                    f"is very dark (mean {brightness:.0f} of 255).",
                    "Open the aperture or add light; skin should lie around 150.",
                )
            )
        if clipped > 0.05:
            findings.append(
                Finding(
                    "warning",
                    f"camera {camera}",
                    f"{100 * clipped:.0f} % of the picture's middle is blown out.",
                    "Lower the exposure: what is white has lost its colour.",
                )
            )
        if len(cameras) > 2 and sharp[camera] < 0.15 * np.median(list(sharp.values())):
            findings.append(
                Finding(
                    "warning",
                    f"camera {camera}",
                    "is much softer than the others: out of focus, or smeared.",
                    "Refocus it, or leave it out.",
                )
            )
    return findings


def _check_synchrony(capture: Capture, clips: dict[tuple[str, str], _Clip]) -> list[Finding]:
    findings = []
    cameras = [c for c in capture.camera_names if all((s, c) in clips for s in capture.sequences)]
    if len(cameras) < 3:
        return findings
    for sequence in capture.sequences:
        energies = [clips[sequence, camera].energy for camera in cameras]
        shortest = min(len(e) for e in energies)
        if shortest < 12:
            continue
        delays = find_delays(np.stack([e[:shortest] for e in energies]))
        for camera, delay in zip(cameras, delays, strict=True):
            if delay.frames:
                late = "late" if delay.frames > 0 else "early"
                where = str(capture.sources(sequence, camera)[0])
                findings.append(Finding(
                    "error", where, f"camera {camera} is {abs(delay.frames)} frames {late} in {sequence} (its motion agrees with the others' at "
                    f"{delay.correlation:.2f} there, at {delay.correlation_unshifted:.2f} as it is).",
                    "Cut the video so that all cameras start with the same frame, or leave it out.",
                ))  # fmt: skip
    return findings


def _find_faces(pictures: dict[str, np.ndarray]) -> dict[str, bool] | None:
    try:
        from capture.landmarks import detect_landmarks

        return {camera: bool(detect_landmarks([picture], passes=0).found[0]) for camera, picture in pictures.items()}
    except (ImportError, UserError):
        return None  # without a detector the other checks still hold


def _check_faces(capture: Capture, faces: dict[str, bool] | None) -> list[Finding]:
    if faces is None:
        return [Finding("warning", str(capture.path), "faces were not looked for: the detector cannot be loaded.", "Install mediapipe.")]
    seen = sum(faces.values())
    if faces and not seen:
        return [
            Finding(
                "error",
                str(capture.path),
                "no camera sees a face in the first frame.",
                "Film the face, upright, from within 60° of its front in at least one camera.",
            )
        ]
    if len(faces) > 2 and seen < 2:
        return [
            Finding(
                "warning",
                str(capture.path),
                "only one camera sees a face in the first frame.",
                "Two or more front cameras locate the head far better.",
            )
        ]
    return []


def _facts(capture: Capture, faces: dict[str, bool] | None) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "format": capture.format,
        "cameras": len(capture.camera_names),
        "size": "×".join(map(str, capture.image_size)),
        "fps": round(capture.fps, 3),
    }
    for sequence in capture.sequences:
        try:
            facts[sequence] = f"{capture.frame_count(sequence)} frames" + (" with sound" if capture.audio(sequence) else "")
        except CaptureError:
            facts[sequence] = "unreadable"
    if faces:
        facts["faces"] = f"seen by {sum(faces.values())} of {len(faces)}"
    return facts


def _sheet(capture: Capture, pictures: dict[str, np.ndarray], faces: dict[str, bool] | None) -> np.ndarray | None:
    """One labelled picture per camera, four to eight in a row; an empty tile where there is none."""
    names = list(capture.camera_names)
    if not names:
        return None
    w, h = capture.image_size
    height = 240
    width = max(120, round(w * height / h))
    columns = min(len(names), max(4, min(8, 1400 // width)))
    sheet = np.full((-(-len(names) // columns) * (height + 22), columns * width, 3), 40, np.uint8)
    for k, name in enumerate(names):
        y, x = k // columns * (height + 22), k % columns * width
        if name in pictures:
            sheet[y : y + height, x : x + width] = cv2.resize(pictures[name], (width, height), interpolation=cv2.INTER_AREA)
        state = "no picture" if name not in pictures else "" if faces is None else "face" if faces.get(name) else "no face"
        color = (255, 120, 120) if name not in pictures else (180, 255, 180) if state == "face" else (200, 200, 200)
        cv2.putText(sheet, f"{name} {state}", (x + 4, y + height + 15), cv2.FONT_HERSHEY_SIMPLEX, 0.4, color, 1, cv2.LINE_AA)
    return sheet


def _wrapped(text: str, width: int) -> list[str]:
    lines, line = [], "        "
    for word in text.split():
        if len(line) + len(word) > width and line.strip():
            lines.append(line)
            line = "        "
        line += " " + word
    return [*lines, line]
