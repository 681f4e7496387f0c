"""NeRSemble v1: one picture per camera and frame.

calibration/camera_params.json or camera_params.json
sequences/<SEQ>/[timesteps/]frame_<n>/images-2x-73fps/cam_<serial>.png
BACKGROUND/image_<serial>.png|jpg   optional clean plates
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from avatars.errors import CaptureError
from capture.formats import _nersemble as shared

RANK = 0
DESCRIPTION = "a folder with camera_params.json and sequences/<SEQ>/frame_<n>/images*/cam_<serial>.png (NeRSemble v1)"


def recognise(path: Path) -> bool:
    """Whether `path` is such a folder."""
    return path.is_dir() and any(_frame_folders(path))


def open_folder(path: Path) -> NersembleV1Capture:
    """Open a participant's folder; CaptureError when the calibration is missing or there is no picture."""
    calibration_path = shared.calibration_path(path)
    if calibration_path is None:
        raise CaptureError(f"{path} has no camera_params.json. Multi-view captures need calibrated cameras.")
    folders = list(_frame_folders(path))
    pictures = sorted(p for p in folders[0].glob("images*/cam_*") if p.suffix.lower() in (".png", ".jpg")) if folders else []
    if not pictures:
        raise CaptureError(f"{path} has no picture: expected sequences/<SEQ>/frame_<n>/images-2x-73fps/cam_<serial>.png.")
    calibration = shared.read_calibration(calibration_path)
    names = [p.stem.removeprefix("cam_") for p in pictures if p.stem.removeprefix("cam_") in calibration["world_2_cam"]]
    if not names:
        raise CaptureError(f"{calibration_path} and the pictures of {folders[0]} have no camera in common.")
    first = shared.read_picture(pictures[0])
    cameras, notes = shared.calibrated_cameras(calibration_path, calibration, names, (first.shape[1], first.shape[0]))
    sequences = tuple(sorted({_sequence_of(f) for f in folders}))
    notes += shared.sequence_notes(path, sequences) + shared.color_notes(path, names)
    rate = re.search(r"(\d+)fps", pictures[0].parent.name)
    return NersembleV1Capture(
        path, tuple(names), cameras, sequences, float(rate.group(1)) if rate else 73.0, tuple(notes), pictures[0].parent.name
    )


@dataclass(frozen=True)
class NersembleV1Capture(shared.Participant):
    """A participant's folder in NeRSemble's v1 layout. See `capture.formats.Capture` for the contract."""

    images: str = "images-2x-73fps"
    format: str = "nersemble_v1"

    @cached_property
    def _folders(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        for folder in _frame_folders(self.path):
            found.setdefault(_sequence_of(folder), []).append(folder)
        return found

    def frame_count(self, sequence: str) -> int:
        return len(self._folders[sequence])

    def frames(self, sequence: str, camera: str, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        for path in self.sources(sequence, camera)[start:stop]:
            yield shared.read_picture(path, self.image_size)

    def luma(self, sequence: str, camera: str, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        for picture in self.frames(sequence, camera, start, stop):
            yield picture[..., 1]

    def sources(self, sequence: str, camera: str) -> tuple[Path, ...]:
        return tuple(
            next(iter((f / self.images).glob(f"cam_{camera}.*")), f / self.images / f"cam_{camera}.png") for f in self._folders[sequence]
        )


def _frame_folders(path: Path) -> Iterator[Path]:
    for pattern in ("sequences/*/frame_*", "sequences/*/timesteps/frame_*"):
        yield from sorted(path.glob(pattern))


def _sequence_of(folder: Path) -> str:
    return folder.parent.parent.name if folder.parent.name == "timesteps" else folder.parent.name
