"""Key cameras that a person has set, and the smooth path through them. One per client."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from avatars.camera_keys import through_keys, write_path
from avatars.types import Cameras
from viewer.stage import Place

MOST = 64
SAME = 3e-3  # a browser reports the camera that it was given with about this error
HEIGHT = 1000  # pixels of the cameras that are interpolated; only their field of view counts


@dataclass(frozen=True)
class View:
    """A camera of the viewer."""

    viewmat: np.ndarray  # [4, 4] world → camera
    fov: float  # vertical, radians


class KeyCameras:
    """Reached one after the other, evenly in time."""

    def __init__(self) -> None:
        self.keys: list[View] = []

    def add(self, view: View) -> None:
        """One more at the end; ValueError when it stands where the last one does, or there are too many."""
        if len(self.keys) >= MOST:
            raise ValueError(f"{MOST} key cameras are the most.")
        if self.keys and np.abs(self.keys[-1].viewmat - view.viewmat).max() < SAME and abs(self.keys[-1].fov - view.fov) < SAME:
            raise ValueError("The last key camera stands here already: move on first.")
        self.keys.append(view)

    def remove_last(self) -> None:
        """Take the last one back."""
        if self.keys:
            self.keys.pop()

    def clear(self) -> None:
        """Begin anew."""
        self.keys.clear()

    def path(self, frames: int, place: Place) -> list[View]:
        """One camera per frame, from the first key to the last; ValueError with fewer than two keys."""
        return self._views(np.linspace(0, 1, frames).tolist(), place)

    def at(self, phase: float, place: Place) -> View:
        """The camera at a part of the way, 0–1."""
        return self._views([min(max(phase, 0.0), 1.0)], place)[0]

    def to_json(self, frames: int, fps: float, place: Place, aspect: float) -> bytes:
        """The path as the file that `avatars render --path` reads."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "path.json"
            write_path(path, self._cameras(np.linspace(0, 1, frames).tolist(), place, aspect), fps)
            return path.read_bytes()

    def _views(self, phases: list[float], place: Place) -> list[View]:
        cameras = self._cameras(phases, place, 1.0)
        fovs = 2 * np.arctan(HEIGHT / 2 / cameras.Ks[:, 1, 1].numpy())
        return [View(m, float(f)) for m, f in zip(cameras.viewmats.numpy(), fovs, strict=True)]

    def _cameras(self, phases: list[float], place: Place, aspect: float) -> Cameras:
        if len(self.keys) < 2:
            raise ValueError("A camera path needs at least two key cameras: set one, move, set another.")
        width = max(16, round(HEIGHT * aspect / 2) * 2)
        Ks = torch.eye(3, dtype=torch.float64).repeat(len(self.keys), 1, 1)
        for K, key in zip(Ks, self.keys, strict=True):
            K[0, 0] = K[1, 1] = HEIGHT / 2 / math.tan(key.fov / 2)
            K[0, 2], K[1, 2] = width / 2, HEIGHT / 2
        views = torch.from_numpy(np.stack([key.viewmat for key in self.keys]))
        keys = Cameras(tuple(f"key {i + 1}" for i in range(len(self.keys))), Ks, views, width, HEIGHT)
        times = np.linspace(0, 1, len(self.keys)).tolist()
        return through_keys(keys, times, phases, torch.tensor(place.centre, dtype=torch.float64))
