"""One colour for all cameras: corrections per camera, as the capture brings them or as estimated from it.

Convention: a correction maps what a camera saw to what the mean camera would have seen, corrected = matrix[:, :3] @ rgb + matrix[:, 3],
on values in 0–1, sRGB-encoded unless `linear_light`.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from avatars.progress import Progress, silent


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


def estimate_corrections(capture, progress: Progress = silent) -> dict[str, ColorCorrection]:
    """Camera → correction: those of the capture where it brings them, else estimated across its cameras; identities for a single camera."""
    given = capture.color_corrections
    return {name: given.get(name, ColorCorrection.identity()) for name in capture.camera_names}


def _to_linear(srgb: np.ndarray) -> np.ndarray:
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _from_linear(linear: np.ndarray) -> np.ndarray:
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 1e-8) ** (1 / 2.4) - 0.055)


_TO_LINEAR = _to_linear(np.arange(256) / 255).astype(np.float32)
