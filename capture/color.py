"""One colour for all cameras: corrections per camera, as the capture brings them or as estimated from it.

Convention: a correction maps what a camera saw to what the mean camera would have seen, corrected = matrix[:, :3] @ rgb + matrix[:, 3],
on values in 0–1, sRGB-encoded unless `linear_light`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from avatars.progress import Progress, silent
from avatars.types import Cameras
from capture.hull import carve, visible
from capture.matte import make_matter

if TYPE_CHECKING:
    from capture.formats import Capture


@dataclass(frozen=True)
class ColorCorrection:
    """An affine map of colours."""

    matrix: np.ndarray  # [3, 4] float64
    linear_light: bool = False  # whether it acts on linear light rather than on sRGB values

    def __post_init__(self) -> None:
        if self.matrix.shape != (3, 4) or not np.isfinite(self.matrix).all():
            raise ValueError(f"ColorCorrection: matrix must be [3, 4] and finite, got {self.matrix.shape}")

    @staticmethod
    def identity() -> ColorCorrection:
        """Changes nothing."""
        return ColorCorrection(np.eye(3, 4))

    @property
    def is_identity(self) -> bool:
        """Whether it changes nothing."""
        return bool(np.array_equal(self.matrix, np.eye(3, 4)))

    def inverse(self) -> ColorCorrection:
        """The map that undoes this one (but for rounding and clipping)."""
        inverse = np.linalg.inv(self.matrix[:, :3])
        return ColorCorrection(np.concatenate([inverse, -inverse @ self.matrix[:, 3:]], 1), self.linear_light)

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """uint8 RGB [H, W, 3] → uint8 RGB [H, W, 3], rounded and clipped."""
        if self.is_identity:
            return picture
        if self.linear_light:
            linear = cv2.transform(_TO_LINEAR[picture], self.matrix.astype(np.float32))
            return np.rint(255 * _from_linear(np.clip(linear, 0, 1))).astype(np.uint8)
        scaled = self.matrix.copy()
        scaled[:, 3] *= 255
        return cv2.transform(picture, scaled)


def estimate_corrections(capture: Capture, progress: Progress = silent) -> dict[str, ColorCorrection]:
    """Camera → correction: those of the capture where it brings them for all, else estimated from the first frames of up to two sequences.

    Fewer than three calibrated cameras cannot be compared, and get identities.
    """
    given = capture.color_corrections
    if all(name in given for name in capture.camera_names):
        return {name: given[name] for name in capture.camera_names}
    if capture.cameras is None or len(capture.cameras) < 3:
        return {name: ColorCorrection.identity() for name in capture.camera_names}
    sequences = capture.sequences[:2]
    total = len(sequences) * len(capture.camera_names)
    width, height = capture.image_size
    shrink = min(1.0, 600 / height)  # means over centimetres need no more pixels
    cameras = capture.cameras.resized(round(width * shrink), round(height * shrink))
    observed, weights, selfie = [], [], None
    for k, sequence in enumerate(sequences):
        pictures, alphas = [], []
        for j, name in enumerate(capture.camera_names):
            plate = capture.clean_plate(name)
            if plate is None:
                matter = selfie = selfie or make_matter(None)
            else:
                matter = make_matter(_shrunk(plate, cameras))
            pictures.append(_shrunk(next(iter(capture.frames(sequence, name, 0, 1))), cameras))
            alphas.append(matter(pictures[-1]))
            progress("comparing the cameras' colours", k * len(capture.camera_names) + j + 1, total, None)
        colors, weight = surface_colors(np.stack(pictures), np.stack(alphas), cameras)
        observed.append(colors)
        weights.append(weight)
    matrices = fit_matrices(np.concatenate(observed, 1), np.concatenate(weights, 1))
    return {
        name: ColorCorrection(np.concatenate([matrix, np.zeros((3, 1))], 1))
        for name, matrix in zip(capture.camera_names, matrices, strict=True)
    }


def surface_colors(pictures: np.ndarray, alphas: np.ndarray, cameras: Cameras) -> tuple[np.ndarray, np.ndarray]:
    """What each camera sees of the points of the visual hull.

    pictures uint8 [C, H, W, 3], alphas [C, H, W] → colours float [C, P, 3] in 0–1, and weights [C, P]: the squared cosine of the viewing angle,
    0 where the point is hidden, seen at more than 60°, or so near to the silhouette that background would leak in.
    """
    hull = carve(alphas > 0.5, cameras)
    colors = np.zeros((len(cameras), len(hull.points), 3))
    weights = np.zeros((len(cameras), len(hull.points)))
    if not len(hull.points):
        return colors, weights
    for camera in range(len(cameras)):
        pixels, seen, cosine = visible(hull, cameras, camera)
        depth = np.linalg.norm(cameras.centers[camera].double().numpy() - hull.points.mean(0))
        block = max(1, int(hull.voxel * float(cameras.Ks[camera, 0, 0]) / depth))
        solid = cv2.erode((alphas[camera] > 0.95).astype(np.uint8), np.ones((2 * block + 1, 2 * block + 1), np.uint8)) > 0
        blurred = cv2.GaussianBlur(pictures[camera].astype(np.float32) / 255, (0, 0), float(block))
        ids = np.flatnonzero(seen & (cosine > 0.5))
        x, y = np.floor(pixels[ids]).astype(int).T
        ids, x, y = ids[solid[y, x]], x[solid[y, x]], y[solid[y, x]]
        colors[camera, ids] = blurred[y, x]
        weights[camera, ids] = cosine[ids] ** 2
    return colors, weights


def fit_matrices(colors: np.ndarray, weights: np.ndarray, ridge: float = 0.01, robust: float = 0.02, rounds: int = 30) -> np.ndarray:
    """[C, 3, 3] so that matrix @ colour agrees across cameras; their mean is the identity.

    Alternates between the consensus colour of every point and a ridge regression of each camera onto it, with residuals beyond `robust`
    down-weighted (Huber): gloss depends on the view, and a hull is not the surface. No offset: measured on a capture with known responses it
    follows the shading instead and doubles the error (.5 against 1.2 of 255), and the ridge matters (.5 against 1.3 with a tenth of it).

    colors [C, P, 3] in 0–1, weights [C, P] with 0 for what is not seen.
    """
    C = len(colors)
    shared = (weights > 0).sum(0) >= 2
    colors, weights = colors[:, shared], weights[:, shared]
    matrices = np.tile(np.eye(3), (C, 1, 1))
    if shared.sum() < 100:
        return matrices
    trust = np.ones_like(weights)
    for _ in range(rounds):
        corrected = np.einsum("cpj,ckj->cpk", colors, matrices)
        w = weights * trust
        consensus = (w[..., None] * corrected).sum(0) / w.sum(0)[:, None]
        trust = 1 / np.maximum(np.linalg.norm(corrected - consensus, axis=-1) / robust, 1)
        for camera in range(C):
            w = weights[camera] * trust[camera] / max((weights[camera] > 0).sum(), 1)
            normal = (colors[camera] * w[:, None]).T @ colors[camera] + ridge * np.eye(3)
            matrices[camera] = np.eye(3) + np.linalg.solve(normal, (colors[camera] * w[:, None]).T @ (consensus - colors[camera])).T
        matrices = np.linalg.inv(matrices.mean(0)) @ matrices  # the gauge: the mean camera changes nothing
    return matrices


def _shrunk(picture: np.ndarray, cameras: Cameras) -> np.ndarray:
    size = (cameras.width, cameras.height)
    return picture if picture.shape[1::-1] == size else cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _to_linear(srgb: np.ndarray) -> np.ndarray:
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _from_linear(linear: np.ndarray) -> np.ndarray:
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 1e-8) ** (1 / 2.4) - 0.055)


_TO_LINEAR = _to_linear(np.arange(256) / 255).astype(np.float32)
