"""One camera: a folder of numbered pictures. Intrinsics are unknown; the tracker estimates them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from avatars.errors import CaptureError
from capture.formats._nersemble import read_picture
from capture.truth import Truth

RANK = 3
DESCRIPTION = "a folder of numbered pictures (jpg, png) of one camera, with audio.wav beside them if there is sound"
_SUFFIXES = (".png", ".jpg", ".jpeg")


def recognise(path: Path) -> bool:
    """Whether `path` is a folder with pictures directly in it."""
    return path.is_dir() and bool(_pictures(path))


def open_folder(path: Path) -> ImagesCapture:
    """Open a folder of pictures, ordered by the numbers in their names; CaptureError when there is none."""
    pictures = _pictures(path)
    if not pictures:
        raise CaptureError(f"{path} holds no picture ({', '.join(_SUFFIXES)}).")
    first = read_picture(pictures[0])
    return ImagesCapture(path, (path.resolve().name,), (first.shape[1], first.shape[0]))


@dataclass(frozen=True)
class ImagesCapture:
    """Numbered pictures of one uncalibrated camera. See `capture.formats.Capture` for the contract."""

    path: Path
    sequences: tuple[str, ...]
    image_size: tuple[int, int]
    fps: float = 25.0
    camera_names: tuple[str, ...] = ("camera",)
    cameras: None = None
    notes: tuple[str, ...] = ("pictures carry no frame rate: 25 a second assumed",)
    format: str = "images"

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @cached_property
    def _pictures(self) -> list[Path]:
        return _pictures(self.path)

    def frame_count(self, sequence: str) -> int:
        return len(self._pictures)

    def frames(self, sequence: str, camera: str, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        for path in self._pictures[start:stop]:
            yield read_picture(path, self.image_size)

    def luma(self, sequence: str, camera: str, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        for picture in self.frames(sequence, camera, start, stop):
            yield picture[..., 1]

    def sources(self, sequence: str, camera: str) -> tuple[Path, ...]:
        return tuple(self._pictures)

    def clean_plate(self, camera: str) -> np.ndarray | None:
        return None

    def audio(self, sequence: str) -> Path | None:
        path = self.path / "audio.wav"
        return path if path.exists() else None

    @property
    def color_corrections(self) -> dict[str, Any]:
        return {}

    @property
    def calibration_path(self) -> Path | None:
        return None

    @property
    def truth(self) -> Truth | None:
        return None


def _pictures(path: Path) -> list[Path]:
    found = [p for p in path.iterdir() if p.suffix.lower() in _SUFFIXES and not p.name.startswith(".")]
    return sorted(found, key=lambda p: ([int(n) for n in re.findall(r"\d+", p.stem)], p.name))
