"""Landmarks of many calibrated cameras → points in space, and the similarity that puts a head there.

A detector invents what it cannot see (the far side of a turned face), consistently wrong by centimetres; the weights of the robust
estimate begin wide, so that the majority of cameras decides, and narrow down to its scatter.
"""

from __future__ import annotations

import torch
from torch import Tensor

from avatars.transforms import similarity_from_points
from avatars.types import Cameras
from capture.track.energies import reprojection


def triangulate(observed: Tensor, weights: Tensor, cameras: Cameras, rounds: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    """Rays [T, C, L, 2] (`energies.rays`) with weights [T, C, L] → points [T, L, 3], residuals [T, C, L] in metres, trust [T, L].

    Trust is how many cameras agree (to a few millimetres); points that fewer than two cameras see are NaN with trust 0.
    """
    T, C, L, _ = observed.shape
    seen = (weights > 0).sum(1) >= 2  # [T, L]
    # Begin where the optical axes of all cameras come closest to one another.
    centers, axes = cameras.centers, cameras.viewmats[:, 2, :3]
    across = torch.eye(3, dtype=axes.dtype) - axes[:, :, None] * axes[:, None, :]
    middle = torch.linalg.lstsq(across.sum(0), (across @ centers[..., None]).sum(0)).solution[:, 0]
    points = middle.expand(T, L, 3)
    residual = observed.new_zeros(T, C, L)
    eye = torch.eye(3, dtype=observed.dtype) * 1e-3
    for i in range(rounds):
        robust_mm = 1e4 if i == 0 else max(3.0, 60.0 * 0.6**i)
        quadratic, residual = reprojection(points, cameras, observed, weights, robust_mm)
        points = points - torch.linalg.solve(quadratic.A + eye, quadratic.gradient[..., None])[..., 0]
    agree = (weights / (1 + (residual / 4e-3) ** 2)).sum(1)
    trust = torch.where(seen, agree, 0.0)
    return torch.where(seen[..., None], points, torch.nan), residual, trust


def place_head(template: Tensor, points: Tensor, trust: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scale, rotation [3, 3] and translation [3] that put template points [L, 3] onto points [L, 3], robustly."""
    usable = torch.isfinite(points[:, 0]) & (trust > 0)
    source, target, weights = template[usable], points[usable], trust[usable]
    s, R, t = similarity_from_points(source, target, weights)
    for _ in range(5):
        distance = (target - (s * source @ R.T + t)).norm(dim=-1)
        s, R, t = similarity_from_points(source, target, weights / (1 + (distance / 5e-3) ** 2))
    return s, R, t
