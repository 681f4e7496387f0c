"""What the stages of tracking pass on: the footage, and the fit so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from avatars.errors import CaptureError
from avatars.sequence import Segment
from avatars.types import Cameras, HeadPose, Identity
from capture.frames import FrameStore


@dataclass(frozen=True)
class Fit:
    """The state that the stages pass on."""

    cameras: Cameras
    identity: Identity
    pose: HeadPose
    reference: int  # the frame in which the face is at rest


@dataclass(frozen=True)
class Footage:
    """The pictures and landmarks of a capture on one timeline."""

    store: FrameStore
    segments: tuple[Segment, ...]
    points: np.ndarray  # [T, C, 478, 2] pixels, NaN where no face was found
    spread: np.ndarray  # [T, C, 478]

    def grey(self, t: int, camera: int) -> np.ndarray:
        """uint8 [H, W] of frame `t` of the timeline."""
        return self._read(self.store.image_path, t, camera)

    def mask(self, t: int, camera: int) -> np.ndarray:
        """uint8 [H, W] foreground alpha."""
        return self._read(self.store.mask_path, t, camera)

    def _read(self, locate: Callable[[str, str, int], Path], t: int, camera: int) -> np.ndarray:
        segment = next(s for s in self.segments if s.start <= t < s.stop)
        path = locate(segment.name, self.store.camera_names[camera], t - segment.start)
        picture = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if picture is None:
            raise CaptureError(f"{path} is missing or damaged. Delete its folder and track again: it is decoded anew.")
        return picture
