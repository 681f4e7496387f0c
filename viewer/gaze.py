"""Where the eyes look when a hand decides: by angles, at whoever watches, or at a point before the face. Pure; one per client."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from viewer.stage import Place

WAYS = ("By angles", "At the camera", "At a point")


@dataclass
class Gaze:
    """`point`: centimetres from the middle of the head at rest, to the subject's left, up and forward; it stays there when the head turns."""

    way: str = WAYS[0]
    angles: tuple[float, float] = (0.0, 0.0)  # degrees to the subject's left, up; added to the recorded gaze
    point: tuple[float, float, float] = (0.0, 0.0, 60.0)

    def reset(self) -> None:
        """Look as recorded."""
        self.way, self.angles, self.point = WAYS[0], (0.0, 0.0), (0.0, 0.0, 60.0)

    def choose(self, way: str) -> None:
        """One of `WAYS`; ValueError for others."""
        if way not in WAYS:
            raise ValueError(f"no gaze {way!r}; known: {', '.join(WAYS)}")
        self.way = way

    def target(self, place: Place, viewmat: np.ndarray) -> tuple[float, float, float] | None:
        """The point in the world, metres, to look at; None when angles decide. `viewmat` [4, 4] is the viewer's camera."""
        if self.way == WAYS[0]:
            return None
        if self.way == WAYS[1]:
            at = -viewmat[:3, :3].T @ viewmat[:3, 3]
        else:
            forward, up = np.asarray(place.forward), np.asarray(place.up)
            at = np.asarray(place.centre) + np.asarray(self.point) / 100 @ np.stack([np.cross(up, forward), up, forward])
        return tuple(round(float(v), 5) for v in at)  # type: ignore[return-value]
