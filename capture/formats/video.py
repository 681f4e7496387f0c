"""One camera: a single video file, or a folder that holds one video. Intrinsics are unknown; the tracker estimates them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from avatars.errors import CaptureError
from capture.decode import VIDEO_SUFFIXES, VideoInfo, probe_video, read_video
from capture.truth import Truth

RANK = 2
DESCRIPTION = "one video file (mp4, mov, mkv, avi, webm), or a folder that holds only videos of one camera, one per sequence"


def recognise(path: Path) -> bool:
    """Whether `path` is a video, or a folder with videos directly in it."""
    return path.suffix.lower() in VIDEO_SUFFIXES if path.is_file() else bool(_videos(path))


def open_folder(path: Path) -> VideoCapture:
    """Open a video or a folder of videos; CaptureError when one cannot be read or their sizes differ."""
    videos = {video.stem: video for video in ([path] if path.is_file() else _videos(path))}
    if not videos:
        raise CaptureError(f"{path} holds no video ({', '.join(VIDEO_SUFFIXES)}).")
    infos = {name: probe_video(video) for name, video in videos.items()}
    first = next(iter(infos.values()))
    picture = next(read_video(first.path), None)  # a phone's rotation shows only in the decoded frame
    if picture is None:
        raise CaptureError(f"{first.path} holds no pictures.")
    for info in infos.values():
        if (info.width, info.height) != (first.width, first.height):
            raise CaptureError(
                f"{info.path} is {info.width}×{info.height}, {first.path} is {first.width}×{first.height}. "
                "Videos of one capture must have one size: open them one by one."
            )
    return VideoCapture(path, tuple(videos), (picture.shape[1], picture.shape[0]), first.fps)


@dataclass(frozen=True)
class VideoCapture:
    """Videos of one uncalibrated camera. See `capture.formats.Capture` for the contract."""

    path: Path
    sequences: tuple[str, ...]
    image_size: tuple[int, int]
    fps: float
    camera_names: tuple[str, ...] = ("camera",)
    cameras: None = None
    notes: tuple[str, ...] = ()
    format: str = "video"

    @property
    def name(self) -> str:
        return self.path.resolve().stem

    @cached_property
    def _infos(self) -> dict[str, VideoInfo]:
        return {name: probe_video(self._video(name)) for name in self.sequences}

    def frame_count(self, sequence: str) -> int:
        return self._infos[sequence].frame_count

    def frames(self, sequence: str, camera: str, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        return read_video(self._video(sequence), "rgb24", start, stop)

    def luma(self, sequence: str, camera: str, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        return read_video(self._video(sequence), "gray", start, stop)

    def sources(self, sequence: str, camera: str) -> tuple[Path, ...]:
        return (self._video(sequence),)

    def clean_plate(self, camera: str) -> np.ndarray | None:
        return None

    def audio(self, sequence: str) -> Path | None:
        beside = self._video(sequence).with_suffix(".wav")
        if beside.exists():
            return beside
        return self._video(sequence) if self._infos[sequence].has_audio else None

    @property
    def color_corrections(self) -> dict[str, Any]:
        return {}

    @property
    def calibration_path(self) -> Path | None:
        return None

    @property
    def truth(self) -> Truth | None:
        return None

    def _video(self, sequence: str) -> Path:
        if self.path.is_file():
            return self.path
        return next(v for v in _videos(self.path) if v.stem == sequence)


def _videos(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.suffix.lower() in VIDEO_SUFFIXES and not p.name.startswith(".")) if path.is_dir() else []
