"""What both NeRSemble layouts share: the calibration, clean plates and colour files of one participant's folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from avatars.errors import AvatarError, CaptureError
from avatars.files import read_json
from avatars.types import Cameras
from capture.truth import Truth

BACKGROUND = "BACKGROUND"  # the folder of clean plates, also where sequences are
UNITS = {"metres": 1.0, "meters": 1.0, "m": 1.0, "centimetres": 0.01, "cm": 0.01, "millimetres": 0.001, "millimeters": 0.001, "mm": 0.001}
"""Factors to metres of the optional key "units"; NeRSemble itself has none and is in metres."""


@dataclass(frozen=True)
class Participant:
    """What a folder in either layout has in common. See `capture.formats.Capture` for the contract."""

    path: Path
    camera_names: tuple[str, ...]
    cameras: Cameras
    sequences: tuple[str, ...]
    fps: float
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def image_size(self) -> tuple[int, int]:
        return self.cameras.width, self.cameras.height

    def clean_plate(self, camera: str) -> np.ndarray | None:
        path = plate_path(self.path, camera)
        return None if path is None else read_picture(path, self.image_size)

    def audio(self, sequence: str) -> Path | None:
        for folder in (self.path / "sequences" / sequence, self.path / "sequences" / sequence / "audio"):
            found = sorted(folder.glob("*.wav"))
            if found:
                return found[0]
        return None

    @property
    def color_corrections(self) -> dict[str, Any]:
        return color_corrections(self.path, self.camera_names)

    @property
    def calibration_path(self) -> Path | None:
        return calibration_path(self.path)

    @property
    def truth(self) -> Truth | None:
        return Truth(self.path / "truth") if (self.path / "truth").is_dir() else None


def calibration_path(folder: Path) -> Path | None:
    """The calibration of a participant's folder; None when there is none."""
    candidates = (folder / "calibration" / "camera_params.json", folder / "camera_params.json")
    return next((p for p in candidates if p.exists()), None)


def read_calibration(path: Path) -> dict[str, Any]:
    """The calibration as JSON, with its keys checked; CaptureError names the one that is missing or malformed."""
    try:
        calibration = read_json(path, "calibration")
    except AvatarError as error:
        raise CaptureError(str(error)) from None
    for key in ("world_2_cam", "intrinsics"):
        if not isinstance(calibration, dict) or key not in calibration:
            raise CaptureError(f'{path} has no "{key}": it is not a NeRSemble calibration.')
    if not isinstance(calibration["world_2_cam"], dict) or not calibration["world_2_cam"]:
        raise CaptureError(f'{path}: "world_2_cam" names no camera.')
    if calibration.get("units", "metres") not in UNITS:
        raise CaptureError(f'{path}: unknown "units" {calibration["units"]!r}; known: {", ".join(UNITS)}.')
    return calibration


def calibrated_cameras(path: Path, calibration: dict[str, Any], names: Sequence[str], size: tuple[int, int]) -> tuple[Cameras, list[str]]:
    """Cameras `names` for pictures of `size` (width, height), and notes on what had to be assumed.

    Intrinsics are 3×3, shared or per serial. They belong to `image_size` where it is given. Where it is not, NeRSemble's rule holds that
    videos may be a half or a quarter of the size that was calibrated: the scale is the one that puts the principal point in the middle.
    """
    notes: list[str] = []
    matrices = {name: _matrix(path, f"world_2_cam of camera {name}", calibration["world_2_cam"][name], (4, 4)) for name in names}
    intrinsics = calibration["intrinsics"]
    if isinstance(intrinsics, dict):
        missing = [n for n in names if n not in intrinsics]
        if missing:
            raise CaptureError(f"{path}: no intrinsics for camera {', '.join(missing)}. Calibrate it, or leave it out.")
        Ks = np.stack([_matrix(path, f"intrinsics of camera {n}", intrinsics[n], (3, 3)) for n in names])
    else:
        Ks = np.repeat(_matrix(path, "intrinsics", intrinsics, (3, 3))[None], len(names), 0)
    width, height = size
    if "image_size" in calibration:
        try:
            calibrated = np.asarray(calibration["image_size"], float)
        except (TypeError, ValueError):
            calibrated = np.zeros(0)
        if calibrated.shape != (2,) or not (calibrated > 0).all():
            raise CaptureError(f'{path}: "image_size" must be [width, height], got {calibration["image_size"]}.')
        scale_x, scale_y = width / calibrated[0], height / calibrated[1]
        if abs(scale_x / scale_y - 1) > 0.01:
            raise CaptureError(
                f"{path} was made for pictures of {calibrated[0]:.0f}×{calibrated[1]:.0f}, the videos are {width}×{height}: "
                "another shape. Give the uncropped videos, or the calibration of these."
            )
        if abs(scale_x - 1) > 1e-6:
            notes.append(f"intrinsics scaled by {scale_x:.3g} from {calibrated[0]:.0f}×{calibrated[1]:.0f} to {width}×{height}")
    else:
        centre = np.median(Ks[:, :2, 2], axis=0) / (width, height)
        scales = [s for s in (1.0, 0.5, 0.25, 0.125) if np.all(np.abs(centre * s - 0.5) < 0.1)]
        if not scales:
            raise CaptureError(
                f"{path} states no image_size, and its principal points ({np.median(Ks[:, 0, 2]):.0f}, {np.median(Ks[:, 1, 2]):.0f}) "
                f'fit the videos ({width}×{height}) at no scale. Add "image_size": [width, height] of the calibrated pictures.'
            )
        scale_x = scale_y = scales[0]
        if scale_x != 1:
            notes.append(f"{path.name} states no image_size; its principal points say that the videos have {scale_x:g} of its size")
    viewmats = np.stack([matrices[n] for n in names])
    viewmats[:, :3, 3] *= UNITS[calibration.get("units", "metres")]
    Ks = Ks * np.array([scale_x, scale_y, 1.0])[:, None]
    return Cameras(tuple(names), torch.from_numpy(Ks).float(), torch.from_numpy(viewmats).float(), width, height), notes


def plate_path(folder: Path, serial: str) -> Path | None:
    """The picture of the empty studio that belongs to a camera."""
    for parent in (folder / BACKGROUND, folder / "sequences" / BACKGROUND):
        for suffix in (".png", ".jpg", ".jpeg"):
            path = parent / f"image_{serial}{suffix}"
            if path.exists():
                return path
    return None


def read_picture(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """uint8 RGB [H, W, 3]; CaptureError when it is missing, damaged or not of `size` (width, height)."""
    import cv2

    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        state = "is damaged or not a picture" if path.exists() else "does not exist"
        raise CaptureError(f"{path} {state}. Restore it.")
    if size is not None and picture.shape[1::-1] != size:
        raise CaptureError(f"{path} is {picture.shape[1]}×{picture.shape[0]}, the capture is {size[0]}×{size[1]}. {WRONG_SIZE}")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


WRONG_SIZE = "Export it again at the size of the others, or leave this camera out."


def color_corrections(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """Corrections of calibration/color_calibration.json for `names`: 3×3 in linear light (v2) or 4×3 affine in sRGB (v1); others are left out."""
    from capture.color import ColorCorrection

    candidates = (folder / "calibration" / "color_calibration.json", folder / "color_calibration.json")
    path = next((p for p in candidates if p.exists()), None)
    if path is None:
        return {}
    try:
        matrices = {name: np.asarray(values, float) for name, values in read_json(path).items() if name in names}
    except (AvatarError, AttributeError, TypeError, ValueError) as error:
        raise CaptureError(f"{path} is damaged ({error}). Restore it, or remove it: corrections are then estimated.") from None
    corrections = {}
    for name, matrix in matrices.items():
        if matrix.shape in ((3, 3), (4, 3)) and not (np.isfinite(matrix).all() and abs(np.linalg.det(matrix[:3])) > 1e-4):
            raise CaptureError(
                f"{path}: the matrix of camera {name} maps all colours to few. Restore it, or remove it: corrections are then estimated."
            )
        if matrix.shape == (3, 3):
            corrections[name] = ColorCorrection(np.concatenate([matrix, np.zeros((3, 1))], 1), linear_light=True)
        elif matrix.shape == (4, 3):
            corrections[name] = ColorCorrection(matrix.T, linear_light=False)
    return corrections


def sequence_notes(folder: Path, sequences: Sequence[str]) -> list[str]:
    """What to say of folders among the sequences that hold no picture of any camera: a lost recording, or one not copied yet."""
    there = sorted(p.name for p in (folder / "sequences").glob("*") if p.is_dir() and not p.name.startswith("."))
    empty = [name for name in there if name not in sequences and name != BACKGROUND]
    return [f"without any picture, left out: sequence {', '.join(empty)}"] if empty else []


def color_notes(folder: Path, names: Sequence[str]) -> list[str]:
    """What to say when a colour calibration is there but does not serve every camera."""
    there = any((folder / p).exists() for p in ("calibration/color_calibration.json", "color_calibration.json"))
    if there and len(color_corrections(folder, names)) < len(names):
        return ["color_calibration.json does not hold a 3×3 or 4×3 matrix for every camera: corrections are estimated instead"]
    return []


def _matrix(path: Path, what: str, values: Any, shape: tuple[int, int]) -> np.ndarray:
    try:
        matrix = np.asarray(values, float)
    except (TypeError, ValueError):
        matrix = np.empty(0)
    if matrix.shape != shape or not np.isfinite(matrix).all():
        raise CaptureError(f"{path}: {what} must be {shape[0]}×{shape[1]} finite numbers, got shape {matrix.shape}.")
    return matrix
