"""The capture's cameras on a stage: their small pictures, and where they stand in a view of the head."""

from __future__ import annotations

import threading
from collections import OrderedDict

import cv2
import numpy as np

from avatars.errors import UserError
from avatars.sequence import Segment, TrackedSequence
from avatars.types import Cameras
from viewer.frustums import Frustum, camera_at, draw_frustums, frustums
from viewer.stage import Place

HEIGHT = 144  # of a small picture, pixels
_KEPT = 256  # small pictures


class CameraRig:
    """`cameras` of a capture whose pictures lie in `tracked` (None: there are none); `thumbnail` may be called from any thread."""

    def __init__(self, cameras: Cameras, tracked: TrackedSequence | None, place: Place, held_out: frozenset[str]) -> None:
        self.cameras, self.tracked, self.place, self.held_out = cameras, tracked, place, held_out
        self._kept: OrderedDict[tuple[str, int], np.ndarray | None] = OrderedDict()
        self._lock = threading.Lock()

    def thumbnail(self, camera: str, frame: int) -> np.ndarray | None:
        """The recorded picture, uint8 RGB and `HEIGHT` tall; None where nothing was recorded."""
        key = (camera, frame)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        small = self._read(camera, frame)
        with self._lock:
            self._kept[key] = small
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return small

    def drawn(self, picture: np.ndarray, cover: np.ndarray, eye: Cameras, segment: Segment | None, pointed: str | None) -> np.ndarray:
        """The cameras over a picture [H, W, 3] that `eye` took; they carry what they saw when the sequence began."""
        view = eye.viewmats[0].double().cpu().numpy()
        depth = float((view[:3, :3] @ np.asarray(self.place.centre) + view[:3, 3])[2])

        def thumbnail(name: str) -> np.ndarray | None:
            return None if segment is None else self.thumbnail(name, segment.start)

        return draw_frustums(picture, cover, depth, self.seen_from(eye), thumbnail, self.held_out, pointed)

    def seen_from(self, eye: Cameras) -> list[Frustum]:
        """The cameras before the viewer's camera, farthest first."""
        return frustums(self.cameras, np.asarray(self.place.centre), eye)

    def at(self, eye: Cameras, x: float, y: float) -> str | None:
        """The camera under pixel (x, y) of the viewer's camera."""
        return camera_at(self.seen_from(eye), x, y)

    def _read(self, camera: str, frame: int) -> np.ndarray | None:
        tracked = self.tracked
        if tracked is None or camera not in tracked.cameras.names or not 0 <= frame < tracked.frame_count:
            return None
        index = tracked.cameras.names.index(camera)
        if not tracked.valid[frame, index]:
            return None
        try:
            picture = tracked.image(frame, index)
        except UserError:  # a file that is gone: the camera stands there without its picture
            return None
        return cv2.resize(picture, (max(round(picture.shape[1] * HEIGHT / picture.shape[0]), 1), HEIGHT), interpolation=cv2.INTER_AREA)
