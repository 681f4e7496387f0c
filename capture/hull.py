"""The visual hull of one moment: what the silhouettes of calibrated cameras leave of space. Coarse, but it needs no face and no model.

Conventions: metres, the world of the calibration; a voxel is known by its centre.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.ndimage import binary_erosion, gaussian_filter

from avatars.types import Cameras


@dataclass(frozen=True)
class Hull:
    """Occupied voxels, and the surface between them and the outside."""

    voxel: float  # edge, metres
    inside: np.ndarray  # [M, 3] centres of all occupied voxels
    points: np.ndarray  # [P, 3] centres of those at the surface
    normals: np.ndarray  # [P, 3] unit, outward


def look_at_point(cameras: Cameras) -> np.ndarray:
    """[3] the point nearest to all optical axes in the least-squares sense; needs two cameras that are not parallel."""
    axes = cameras.viewmats[:, 2, :3].double().numpy()
    axes = axes / np.linalg.norm(axes, axis=1, keepdims=True)
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]
    return np.linalg.lstsq(across.sum(0), np.einsum("cij,cj->i", across, cameras.centers.double().numpy()), rcond=None)[0]


def carve(masks: np.ndarray, cameras: Cameras, resolution: int = 72) -> Hull:
    """Carve a cube of resolution³ voxels around the point all cameras look at; it just covers their pictures.

    masks: bool [C, H, W], foreground. A voxel outside of a picture is not carved by it, but it must lie
    inside of at least half of them. [P] may be 0 where calibration and masks disagree.
    """
    if masks.shape != (len(cameras), cameras.height, cameras.width):
        raise ValueError(f"carve: masks must be [{len(cameras)}, {cameras.height}, {cameras.width}], got {masks.shape}")
    target = look_at_point(cameras)
    distances = np.linalg.norm(cameras.centers.double().numpy() - target, axis=1)
    focal = cameras.Ks[:, 0, 0].double().numpy()
    half = float(np.median(distances / focal)) * min(cameras.width, cameras.height) / 2 * 1.15
    voxel = 2 * half / resolution
    axis = (np.arange(resolution) + 0.5) * voxel - half
    centres = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3) + target
    occupied = np.ones(len(centres), bool)
    views = np.zeros(len(centres), np.int32)
    for camera in range(len(cameras)):
        ids = np.flatnonzero(occupied)
        pixels, depths = project(centres[ids], cameras, camera)
        x, y = np.floor(pixels).astype(int).T
        seen = (x >= 0) & (y >= 0) & (x < cameras.width) & (y < cameras.height) & (depths > 0)
        views[ids[seen]] += 1
        occupied[ids[seen]] = masks[camera, y[seen], x[seen]]
    occupied &= 2 * views >= len(cameras)
    volume = occupied.reshape(resolution, resolution, resolution)
    surface: np.ndarray = volume & ~np.asarray(binary_erosion(volume), bool)
    density = np.asarray(gaussian_filter(volume.astype(np.float32), 1.5))
    slope = -np.stack([np.gradient(density, axis=k) for k in range(3)], -1)[surface]
    normals = slope / np.maximum(np.linalg.norm(slope, axis=1, keepdims=True), 1e-9)
    return Hull(voxel, centres[occupied], centres[surface.ravel()], normals)


def project(points: np.ndarray, cameras: Cameras, camera: int) -> tuple[np.ndarray, np.ndarray]:
    """World points [P, 3] → pixels [P, 2] and depths [P] in one camera."""
    view, K = cameras.viewmats[camera].double().numpy(), cameras.Ks[camera].double().numpy()
    local = points @ view[:3, :3].T + view[:3, 3]
    image = local @ K.T
    return image[:, :2] / np.maximum(image[:, 2:], 1e-9), local[:, 2]


def visible(hull: Hull, cameras: Cameras, camera: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For a hull's surface points in one camera: pixels [P, 2], whether each is seen there [P] bool, cosine of its normal to the ray [P]."""
    pixels, depths = project(hull.points, cameras, camera)
    inside, inside_depths = project(hull.inside, cameras, camera)
    block = max(1, int(hull.voxel * float(cameras.Ks[camera, 0, 0]) / max(np.median(inside_depths), 1e-6)))  # pixels a voxel covers
    nearest = np.full((cameras.height // block + 1, cameras.width // block + 1), np.inf, np.float32)
    x, y = np.floor(inside / block).astype(int).T
    ok = (x >= 0) & (y >= 0) & (x < nearest.shape[1]) & (y < nearest.shape[0])
    np.minimum.at(nearest, (y[ok], x[ok]), inside_depths[ok].astype(np.float32))
    nearest = cv2.erode(nearest, np.ones((3, 3), np.uint8))
    seen = (pixels >= 0).all(1) & (pixels[:, 0] < cameras.width) & (pixels[:, 1] < cameras.height)
    x, y = np.floor(pixels[seen] / block).astype(int).T
    seen[seen] = depths[seen] < nearest[y, x] + 2.5 * hull.voxel
    towards = cameras.centers[camera].double().numpy() - hull.points
    cosine = (towards * hull.normals).sum(1) / np.linalg.norm(towards, axis=1)
    return pixels, seen & (cosine > 0), cosine
