"""NeRSemble v2: one video per camera and sequence.

calibration/camera_params.json      world_2_cam {serial: 4×4, OpenCV, metres}, intrinsics 3×3 or {serial: 3×3}; optional image_size, units
calibration/color_calibration.json  optional
sequences/<SEQ>/images/cam_<serial>.mp4
sequences/<SEQ>/audio.wav           optional
BACKGROUND/image_<serial>.png|jpg   optional clean plates, also under sequences/, or as a sequence BACKGROUND of videos
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from avatars.errors import CaptureError
from capture.decode import VIDEO_SUFFIXES, probe_video, read_video
from capture.formats import _nersemble as shared

RANK = 1
DESCRIPTION = "a folder with calibration/camera_params.json and sequences/<SEQ>/images/cam_<serial>.mp4"


def recognise(path: Path) -> bool:
    """Whether `path` looks like such a folder, also when half of it is missing: opening it then says which half."""
    return path.is_dir() and (any(_videos(path)) or shared.calibration_path(path) is not None)


def open_folder(path: Path) -> NersembleCapture:
    """Open a participant's folder; CaptureError when the calibration is missing or unusable or no video can be opened."""
    calibration_path = shared.calibration_path(path)
    if calibration_path is None:
        raise CaptureError(f"{path} has no calibration/camera_params.json. Multi-view captures need calibrated cameras.")
    videos = sorted(_videos(path))
    if not videos:
        raise CaptureError(f"{path} has no video: expected sequences/<SEQ>/images/cam_<serial>.mp4.")
    calibration = shared.read_calibration(calibration_path)
    filmed = {video.stem.removeprefix("cam_") for video in videos}
    names = sorted(name for name in calibration["world_2_cam"] if name in filmed)
    if not names:
        raise CaptureError(f"{calibration_path} and the videos have no camera in common: videos of {', '.join(sorted(filmed))}.")
    notes = []
    if unfilmed := sorted(set(calibration["world_2_cam"]) - filmed):
        notes.append(f"calibrated but without any video, left out: camera {', '.join(unfilmed)}")
    if uncalibrated := sorted(filmed - set(calibration["world_2_cam"])):
        notes.append(f"filmed but not calibrated, left out: camera {', '.join(uncalibrated)}")
    size, fps = _majority(videos)
    cameras, more = shared.calibrated_cameras(calibration_path, calibration, names, size)
    sequences = tuple(sorted({video.parent.parent.name for video in videos}))
    notes += more + shared.sequence_notes(path, sequences) + shared.color_notes(path, names)
    return NersembleCapture(path, tuple(names), cameras, sequences, fps, tuple(notes))


@dataclass(frozen=True)
class NersembleCapture(shared.Participant):
    """A participant's folder in NeRSemble's v2 layout. See `capture.formats.Capture` for the contract."""

    format: str = "nersemble"

    @cached_property
    def _counts(self) -> dict[str, int]:
        return {}

    def frame_count(self, sequence: str) -> int:
        if sequence not in self._counts:
            self._counts[sequence] = min(probe_video(self._video(sequence, name)).frame_count for name in self.camera_names)
        return self._counts[sequence]

    def frames(self, sequence: str, camera: str, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        return self._read(sequence, camera, "rgb24", start, stop)

    def luma(self, sequence: str, camera: str, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        return self._read(sequence, camera, "gray", start, stop)

    def sources(self, sequence: str, camera: str) -> tuple[Path, ...]:
        return (self._video(sequence, camera),)

    def clean_plate(self, camera: str) -> np.ndarray | None:
        plate = super().clean_plate(camera)
        if plate is None and self._video(shared.BACKGROUND, camera).exists():
            return next(self._read(shared.BACKGROUND, camera, "rgb24", 0, 1))
        return plate

    def _video(self, sequence: str, camera: str) -> Path:
        folder = self.path / "sequences" / sequence / "images"
        for suffix in VIDEO_SUFFIXES:
            if (path := folder / f"cam_{camera}{suffix}").exists():
                return path
        return folder / f"cam_{camera}.mp4"

    def _read(self, sequence: str, camera: str, pixels: str, start: int, stop: int | None) -> Iterator[np.ndarray]:
        path = self._video(sequence, camera)
        for picture in read_video(path, pixels, start, stop):
            if picture.shape[1::-1] != self.image_size:
                found = f"{picture.shape[1]}×{picture.shape[0]}"
                raise CaptureError(f"{path} is {found}, the capture is {self.image_size[0]}×{self.image_size[1]}. {shared.WRONG_SIZE}")
            yield picture


def _videos(path: Path) -> Iterator[Path]:
    for video in path.glob("sequences/*/images/cam_*"):
        if video.suffix.lower() in VIDEO_SUFFIXES and video.parent.parent.name != shared.BACKGROUND:
            yield video


def _majority(videos: list[Path]) -> tuple[tuple[int, int], float]:
    """The size and rate that most of (a sample of) the videos have, so that one odd or damaged file does not decide."""
    found: dict[tuple[int, int, float], int] = {}
    failure: CaptureError | None = None
    for video in videos[:: max(1, len(videos) // 8)]:
        try:
            info = probe_video(video)
        except CaptureError as error:
            failure = error
            continue
        key = (info.width, info.height, info.fps)
        found[key] = found.get(key, 0) + 1
    if not found:
        raise failure or CaptureError("no video")
    width, height, fps = max(found, key=lambda key: found[key])
    return (width, height), fps
