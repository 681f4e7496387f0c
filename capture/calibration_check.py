"""Whether a calibration can be true: rotations, intrinsics, units, and that the cameras look at one head-sized place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from avatars.types import Cameras
from capture.findings import Finding
from capture.hull import look_at_point

NEAREST, FARTHEST = 0.15, 6.0  # metres between a camera and the head


def check_calibration(cameras: Cameras, where: str) -> list[Finding]:
    """Findings about calibrated cameras; `where` names the file or folder in them."""
    findings = _check_rotations(cameras, where) + _check_intrinsics(cameras, where)
    if any(f.severity == "error" for f in findings) or len(cameras) < 2:
        return findings
    return findings + _check_arrangement(cameras, where)


def _check_rotations(cameras: Cameras, where: str) -> list[Finding]:
    findings = []
    views = cameras.viewmats.double().numpy()
    for name, view in zip(cameras.names, views, strict=True):
        R = view[:3, :3]
        error = float(np.abs(R @ R.T - np.eye(3)).max())
        if not np.isfinite(view).all() or error > 5e-3 or np.abs(view[3] - (0, 0, 0, 1)).max() > 1e-6:
            findings.append(Finding(
                "error", where, f"camera {name}: world_2_cam is no rigid motion (its rotation is off by {error:.2g}).",
                "Write [R t; 0 0 0 1] with an orthonormal R and no scale in it.",
            ))  # fmt: skip
        elif np.linalg.det(R) < 0:
            findings.append(
                Finding(
                    "error",
                    where,
                    f"camera {name}: the rotation mirrors (determinant −1).",
                    "Two axes are swapped, or one is negated: OpenCV's are x right, y down, z forward.",
                )
            )
    return findings


def _check_intrinsics(cameras: Cameras, where: str) -> list[Finding]:
    findings = []
    for name, K in zip(cameras.names, cameras.Ks.double().numpy(), strict=True):
        fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
        size = max(cameras.width, cameras.height)
        if not (0.3 * size < fx < 30 * size and 0.3 * size < fy < 30 * size):
            findings.append(Finding(
                "error", where, f"camera {name}: focal lengths {fx:.0f}, {fy:.0f} px are not plausible for {cameras.width}×{cameras.height} pictures.",
                "Intrinsics must be in pixels of these pictures, not in millimetres and not normalised.",
            ))  # fmt: skip
        elif abs(fx / fy - 1) > 0.05:
            findings.append(
                Finding(
                    "warning",
                    where,
                    f"camera {name}: pixels are {100 * abs(fx / fy - 1):.0f} % from square.",
                    "Check fx and fy; or the pictures were stretched.",
                )
            )
        if not (0 < cx < cameras.width and 0 < cy < cameras.height):
            findings.append(Finding(
                "error", where, f"camera {name}: the principal point ({cx:.0f}, {cy:.0f}) lies outside of the {cameras.width}×{cameras.height} picture.",
                'The calibration belongs to another image size: give "image_size", or scale the intrinsics.',
            ))  # fmt: skip
        elif abs(cx / cameras.width - 0.5) > 0.25 or abs(cy / cameras.height - 0.5) > 0.25:
            findings.append(
                Finding(
                    "warning",
                    where,
                    f"camera {name}: the principal point ({cx:.0f}, {cy:.0f}) is far from the middle.",
                    "Right for cropped pictures only.",
                )
            )
    return findings


def _check_arrangement(cameras: Cameras, where: str) -> list[Finding]:
    findings = []
    centres = cameras.centers.double().numpy()
    if _misses(cameras) > 0.3:
        found = next((words for words, other in _other_readings(cameras) if _misses(other) < 0.15), None)
        remedy = f"Read as {found} they agree: convert them to world → camera with OpenCV axes (x right, y down, z forward)." if found else (
            "Check that world_2_cam maps world to camera with OpenCV axes, and that serials are not mixed up.")  # fmt: skip
        return [Finding("error", where, "the cameras do not look at one common place in front of them.", remedy)]
    target = look_at_point(cameras)
    distances = np.linalg.norm(centres - target, axis=1)
    distance = float(np.median(distances))
    if not NEAREST <= distance <= FARTHEST:
        for unit, factor in (("millimetres", 0.001), ("centimetres", 0.01)):
            if 0.25 <= distance * factor <= 4:
                return [Finding(
                    "error", where, f"the cameras stand {distance:.0f} from the place they look at: these are {unit}, not metres.",
                    f'Add "units": "{unit}" to the calibration, or divide the translations by {round(1 / factor)}.',
                )]  # fmt: skip
        return [Finding(
            "error", where, f"the cameras stand {distance:.3g} m from the place they look at; a head is filmed from {NEAREST} to {FARTHEST:.0f} m.",
            "The calibration has an arbitrary scale. Multiply the translations so that they are metres.",
        )]  # fmt: skip
    covered = float(np.median(cameras.Ks[:, 1, 1].double().numpy() / distances)) * 0.25 / cameras.height
    if not 0.12 < covered < 2.5:
        findings.append(
            Finding(
                "warning", where, f"a head would cover {100 * covered:.0f} % of the pictures' height.", "Check focal lengths and units."
            )
        )
    between = np.linalg.norm(centres[:, None] - centres[None], axis=-1) + np.eye(len(cameras)) * 1e9
    i, j = np.unravel_index(between.argmin(), between.shape)
    if between[i, j] < 0.005:
        findings.append(
            Finding(
                "error",
                where,
                f"cameras {cameras.names[i]} and {cameras.names[j]} stand at the same place.",
                "One was calibrated under the other's name: leave one out.",
            )
        )
    for name, own in zip(cameras.names, distances, strict=True):
        if not 1 / 3 < own / distance < 3:
            findings.append(
                Finding(
                    "warning",
                    where,
                    f"camera {name} stands {own:.2f} m from the common place, the others about {distance:.2f} m.",
                    "Check its translation.",
                )
            )
    return findings


def _misses(cameras: Cameras) -> float:
    """How far optical axes pass the common point, as a share of the distance (median over cameras); large when it lies behind them."""
    target = look_at_point(cameras)
    towards = target - cameras.centers.double().numpy()
    axes = cameras.viewmats[:, 2, :3].double().numpy()
    ahead = (towards * axes).sum(1)
    beside = np.linalg.norm(towards - ahead[:, None] * axes, axis=1)
    return float(np.median(np.where(ahead > 0, beside / np.maximum(np.abs(ahead), 1e-9), 10.0)))


def _other_readings(cameras: Cameras) -> list[tuple[str, Cameras]]:
    """The same matrices under the conventions that people mix up."""
    flip = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
    inverse = torch.linalg.inv(cameras.viewmats)
    return [
        ("camera → world", replace(cameras, viewmats=inverse)),
        ("world → camera with OpenGL's axes (z backward)", replace(cameras, viewmats=flip @ cameras.viewmats)),
        ("camera → world with OpenGL's axes (z backward)", replace(cameras, viewmats=flip @ inverse)),
    ]
