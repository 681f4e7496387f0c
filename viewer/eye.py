"""Where a browser's camera is, where it was told to go, and how large the canvas is that it fills."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from viewer.cameras import Orbit

ARRIVED = 2e-3  # largest difference of view matrices that are the same to the eye
ARRIVAL_SECONDS = 2.5  # a browser may take this long to carry out a movement


class Eye:
    """One browser's view. `place` moves the browser's camera; whoever calls holds the session's lock."""

    def __init__(self, place: Callable[[Orbit], None], clock: Callable[[], float]) -> None:
        self.viewmat, self.fov = np.eye(4), 0.4
        self.canvas: tuple[int, int] | None = None  # pixels; None until the browser has told
        self.place, self._clock = place, clock
        self._reported = np.eye(4)  # where the browser last said that its camera is
        self._expected: np.ndarray | None = None  # where the camera was told to go
        self._sent = 0.0

    @property
    def aspect(self) -> float:
        """Width over height of the canvas."""
        return self.canvas[0] / self.canvas[1] if self.canvas else 16 / 9

    def send(self, target: Orbit) -> None:
        """Move the browser's camera there."""
        z = (target.look_at - target.position) / np.linalg.norm(target.look_at - target.position)
        x = np.cross(z, target.up)
        x /= np.linalg.norm(x)
        R = np.stack([x, np.cross(z, x), z])
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = R, -R @ target.position
        # A camera that is there already will not report its arrival.
        there = np.abs(matrix - self._reported).max() < ARRIVED
        self._expected, self._sent = matrix, -math.inf if there else self._clock()
        self.viewmat, self.fov = matrix, target.fov
        self.place(target)

    def release(self) -> None:
        """The camera may go where the user moves it."""
        self._expected = None

    def report(self, viewmat: np.ndarray, fov: float) -> bool:
        """The browser's camera is there now. Whether the user has moved it away from where it was sent.

        A browser reports its way to where we sent it; that is no movement of the user's, and changes nothing.
        """
        self._reported = viewmat
        away = False
        if self._expected is not None:
            away = bool(np.abs(viewmat - self._expected).max() >= ARRIVED)
            if away and self._clock() - self._sent < ARRIVAL_SECONDS:
                return False
            if away:
                self._expected = None
            else:
                self._sent = -math.inf
        self.viewmat, self.fov = viewmat, fov
        return away
