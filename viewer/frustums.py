"""The capture's cameras as they stand around the head: pyramids that carry their pictures, drawn over a picture of the stage.

Cameras behind the head are hidden by it, those nearer than the head lie over it; they never intersect it, so one
comparison of distances is enough. Numpy; world in metres, pixels with y down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from avatars.transforms import project_points
from avatars.types import Cameras

DEPTH = 0.24  # of a pyramid, relative to the camera's distance from the head
NEAREST = 0.02  # metres before the eye; what reaches behind it is not drawn
SEEN, UNSEEN, POINTED = (0.86, 0.89, 0.93), (0.88, 0.64, 0.35), (0.29, 0.62, 1.0)  # edges: trained with, held out, under the pointer
_SHIFT = 3


@dataclass(frozen=True)
class Frustum:
    """One camera: its centre and the corners of its picture in pixels of the viewer, and how far away it is."""

    name: str
    apex: np.ndarray  # [2]
    corners: np.ndarray  # [4, 2] top left, top right, bottom right, bottom left of its picture
    depth: float  # metres before the viewer's eye


def frustums(cameras: Cameras, centre: np.ndarray, eye: Cameras) -> list[Frustum]:
    """Those of C cameras that lie wholly before the viewer's camera `eye`, farthest first; `centre` [3] is the head's."""
    found = []
    pixels = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float64) * [cameras.width, cameras.height]
    for c, name in enumerate(cameras.names):
        K = cameras.Ks[c].double().cpu().numpy()
        view = cameras.viewmats[c].double().cpu().numpy()
        position = -view[:3, :3].T @ view[:3, 3]
        length = DEPTH * float(np.linalg.norm(position - centre))
        rays = np.concatenate([pixels, np.ones((4, 1))], 1) @ np.linalg.inv(K).T
        corners = position + length * rays @ view[:3, :3]
        points = eye.Ks.new_tensor(np.concatenate([position[None], corners]))
        projected, depth = project_points(points, eye.viewmats[0], eye.Ks[0])
        if float(depth.min()) > NEAREST and float(projected.abs().max()) < 30_000:
            where = projected.double().cpu().numpy()
            found.append(Frustum(name, where[0], where[1:], float(depth.mean())))
    return sorted(found, key=lambda f: -f.depth)


def camera_at(found: Iterable[Frustum], x: float, y: float, reach: float = 10.0) -> str | None:
    """The nearest camera whose picture or centre lies under pixel (x, y)."""
    for frustum in sorted(found, key=lambda f: f.depth):
        inside = cv2.pointPolygonTest(frustum.corners.astype(np.float32), (x, y), False) >= 0
        if inside or np.hypot(*(frustum.apex - (x, y))) < reach:
            return frustum.name
    return None


def draw_frustums(
    picture: np.ndarray, cover: np.ndarray, head_depth: float, found: Iterable[Frustum], thumbnail: Callable[[str], np.ndarray | None],
    held_out: frozenset[str], pointed: str | None,
) -> np.ndarray:  # fmt: skip
    """Over a picture [H, W, 3] whose head covers `cover` [H, W] and is `head_depth` away; `thumbnail` gives RGB uint8 or None."""
    result = picture.copy()
    for frustum in found:
        layer, mask = _pyramid(
            frustum, (picture.shape[0], picture.shape[1]), thumbnail(frustum.name), frustum.name in held_out, frustum.name == pointed
        )
        if frustum.depth > head_depth:
            mask = mask * (1 - cover)
        result += mask[..., None] * (layer - result)
    if pointed is not None:
        for frustum in found:
            if frustum.name == pointed:
                _name(result, frustum, pointed + (" (held out)" if pointed in held_out else ""))
    return result


def _pyramid(
    frustum: Frustum, size: tuple[int, int], thumb: np.ndarray | None, unseen: bool, pointed: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Colours [H, W, 3] and how far they cover [H, W]."""
    height, width = size
    color, mask = np.zeros((height, width, 3), np.float32), np.zeros((height, width), np.float32)
    if thumb is not None:
        h, w = thumb.shape[:2]
        M = cv2.getPerspectiveTransform(np.array([[0, 0], [w, 0], [w, h], [0, h]], np.float32), frustum.corners.astype(np.float32))
        color = cv2.warpPerspective(thumb, M, (width, height), flags=cv2.INTER_LINEAR).astype(np.float32) / 255
        mask = cv2.warpPerspective(np.full((h, w), 1.0 if pointed else 0.92, np.float32), M, (width, height), flags=cv2.INTER_LINEAR)
    edges = np.zeros((height, width), np.uint8)
    lines = [frustum.corners, *(np.stack([frustum.apex, corner]) for corner in frustum.corners)]
    for i, line in enumerate(lines):
        points = np.round(line * (1 << _SHIFT)).astype(np.int32)
        cv2.polylines(edges, [points], i == 0, 255, 2 if pointed else 1, cv2.LINE_AA, _SHIFT)
    strength = edges.astype(np.float32) / 255 * (1.0 if pointed else 0.85)
    tint = np.asarray(POINTED if pointed else UNSEEN if unseen else SEEN, np.float32)
    color = color + strength[..., None] * (tint - color) if thumb is not None else np.broadcast_to(tint, color.shape)
    return color, np.maximum(mask, strength)


def _name(picture: np.ndarray, frustum: Frustum, text: str) -> None:
    """The camera's name above its picture, light on dark."""
    printable = "".join(c if 32 <= ord(c) < 127 else "?" for c in text)[:40]
    (w, h), base = cv2.getTextSize(printable, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)
    x = int(np.clip(frustum.corners[:, 0].mean() - w / 2, 4, max(picture.shape[1] - w - 4, 4)))
    y = int(np.clip(frustum.corners[:, 1].min() - 8, h + 6, picture.shape[0] - base - 4))
    cv2.rectangle(picture, (x - 4, y - h - 4), (x + w + 4, y + base + 2), (0.08, 0.09, 0.1), -1)
    cv2.putText(picture, printable, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0.93, 0.95, 0.97), 1, cv2.LINE_AA)
