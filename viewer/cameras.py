"""Cameras of the viewer: orbit positions around the head, and how a capture's picture is fitted into the canvas.

Numpy; OpenCV axes; metres and radians unless a name says degrees.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from viewer.stage import Place

PRESETS = {"Front": (0.0, 4.0), "¾ left": (38.0, 6.0), "Left": (88.0, 4.0), "¾ right": (-38.0, 6.0), "Right": (-88.0, 4.0)}
"""Name → degrees around the head towards the subject's left, and upwards."""
FOV = math.radians(24)


@dataclass(frozen=True)
class Orbit:
    """A camera as viser places it."""

    position: np.ndarray  # [3]
    look_at: np.ndarray  # [3]
    up: np.ndarray  # [3]
    fov: float


@dataclass(frozen=True)
class Rect:
    """Where a picture lies on the canvas, pixels."""

    x: int
    y: int
    width: int
    height: int


def orbit(place: Place, preset: str, aspect: float, fov: float = FOV) -> Orbit:
    """The camera that sees the whole head from the side called `preset`, for a canvas of width/height `aspect`."""
    around, above = (math.radians(a) for a in PRESETS[preset])
    forward, up = np.asarray(place.forward), np.asarray(place.up)
    left = np.cross(up, forward)
    direction = math.cos(above) * (math.cos(around) * forward + math.sin(around) * left) + math.sin(above) * up
    narrow = min(fov, 2 * math.atan(math.tan(fov / 2) * aspect))
    distance = place.radius / math.sin(narrow / 2)
    centre = np.asarray(place.centre)
    return Orbit(centre + distance * direction, centre, up, fov)


def overview(place: Place, centres: np.ndarray, aspect: float, fov: float = FOV * 1.5) -> Orbit:
    """The camera, outside of all of the capture's cameras at `centres` [C, 3], that sees them and the head."""
    forward, up = np.asarray(place.forward), np.asarray(place.up)
    left = np.cross(up, forward)
    around, above = math.radians(35), math.radians(28)
    direction = math.cos(above) * (math.cos(around) * forward + math.sin(around) * left) + math.sin(above) * up
    points = np.concatenate([centres, np.asarray(place.centre)[None]])
    target = (points.min(0) + points.max(0)) / 2
    z = -direction
    x = np.cross(z, up)
    x /= np.linalg.norm(x)
    offsets = (points - target) @ np.stack([x, np.cross(z, x), z]).T
    slope = 0.9 * math.tan(fov / 2)
    needed = np.maximum(np.abs(offsets[:, 0]) / (slope * aspect), np.abs(offsets[:, 1]) / slope) - offsets[:, 2]
    return Orbit(target + max(float(needed.max()), 3 * place.radius) * direction, target, up, fov)


def view_matrix(wxyz: np.ndarray, position: np.ndarray) -> np.ndarray:
    """World → camera [4, 4] of a camera whose orientation in the world is the quaternion `wxyz`."""
    w, x, y, z = np.asarray(wxyz, np.float64) / np.linalg.norm(wxyz)
    R = np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ])  # fmt: skip
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = R.T, -R.T @ np.asarray(position, np.float64)
    return T


def orbit_of(viewmat: np.ndarray, fov: float, place: Place) -> Orbit:
    """The viser camera of a view matrix [4, 4]; it orbits the point of its axis that is nearest to the head."""
    R, t = viewmat[:3, :3], viewmat[:3, 3]
    position = -R.T @ t
    distance = max(float((np.asarray(place.centre) - position) @ R[2]), 0.05)
    return Orbit(position, position + distance * R[2], -R[1], fov)


def fit(width: int, height: int, canvas: Rect) -> Rect:
    """The largest rectangle of `width`:`height` inside `canvas`, centred."""
    scale = min(canvas.width / width, canvas.height / height)
    w, h = max(round(width * scale), 1), max(round(height * scale), 1)
    return Rect(canvas.x + (canvas.width - w) // 2, canvas.y + (canvas.height - h) // 2, w, h)


def fitted_fov(fov: float, width: int, height: int, aspect: float) -> float:
    """Vertical field of view of a canvas that shows the whole of a `width` × `height` picture with the vertical `fov`."""
    grow = max(1.0, (width / height) / aspect)
    return 2 * math.atan(math.tan(fov / 2) * grow)


def nearest(position: np.ndarray, centres: np.ndarray, target: np.ndarray) -> int:
    """Index of the camera centre [C, 3] that sees `target` [3] from the direction most like `position` [3]."""
    wanted = position - target
    directions = centres - target
    cosines = directions @ wanted / (np.linalg.norm(directions, axis=1) * np.linalg.norm(wanted) + 1e-12)
    return int(np.argmax(cosines))


def canvas_size(width: int, height: int, scale: float, most_pixels: int) -> tuple[int, int]:
    """The picture's size for a canvas, at most `most_pixels`, with the canvas's aspect and even numbers."""
    scale = min(scale, math.sqrt(most_pixels / max(width * height, 1)))
    if scale >= 1:
        return width, height
    return max(2 * round(width * scale / 2), 16), max(2 * round(height * scale / 2), 16)
