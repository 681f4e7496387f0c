"""Gauss–Newton over all frames at once: per-frame normal equations coupled by temporal smoothness.

Smoothness couples a frame with the two before and after it, so the system of T·D unknowns is banded and its Cholesky
factor costs T·D·(3D)²: a second for 120 frames of 73 parameters. Nothing is sequential in time, so there is no drift.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import solveh_banded
from torch import Tensor

from avatars.types import HeadPose
from capture.track.energies import Quadratic
from capture.track.points import pack, step


@dataclass(frozen=True)
class Smoothness:
    """Inverse variances of the change, and of the change of the change, of each parameter from frame to frame."""

    velocity: Tensor  # [D]
    acceleration: Tensor  # [D]


def smoothness_matrix(segments: Sequence[tuple[int, int]], frames: int, order: int) -> np.ndarray:
    """L [R, T]: first (order 1) or second (order 2) differences within each segment [start, stop), never across two."""
    stencil = np.array([-1.0, 1.0]) if order == 1 else np.array([1.0, -2.0, 1.0])
    rows = []
    for start, stop in segments:
        for t in range(start, stop - order):
            row = np.zeros(frames)
            row[t : t + order + 1] = stencil
            rows.append(row)
    return np.stack(rows) if rows else np.zeros((0, frames))


def minimise(
    pose: HeadPose,
    energy: Callable[[HeadPose], Quadratic],
    smoothness: Smoothness,
    segments: Sequence[tuple[int, int]],
    iterations: int,
    free: Tensor | None = None,
    tolerance: float = 1e-4,
) -> tuple[HeadPose, list[float]]:
    """The pose [T] that minimises energy(pose) plus smoothness, and the cost before each accepted step.

    free [D] bool: parameters that may move (None: all). A step that does not lower the cost is halved through damping.
    """
    T = len(pose)
    pairs = [(smoothness_matrix(segments, T, o), w.double().numpy()) for o, w in ((1, smoothness.velocity), (2, smoothness.acceleration))]
    locked = None if free is None else ~free
    damping, history = 1e-6, []
    quadratic, rough = energy(pose), _roughness(pose, pairs)
    cost = float(quadratic.cost) + rough
    for _ in range(iterations):
        history.append(cost)
        for _attempt in range(5):
            delta = _solve(quadratic, pose, pairs, damping, locked)
            candidate = step(pose, delta.to(pose.expression))
            new, new_rough = energy(candidate), _roughness(candidate, pairs)
            new_cost = float(new.cost) + new_rough
            if np.isfinite(new_cost) and new_cost <= cost * (1 + 1e-6):
                break
            damping = max(damping * 30, 1e-4)
        else:
            break  # at a minimum to within rounding
        gain = (cost - new_cost) / max(cost, 1e-12)
        pose, quadratic, cost = candidate, new, new_cost
        damping = max(damping / 10, 1e-6)
        if gain < tolerance:
            break
    return pose, [*history, cost]


def _roughness(pose: HeadPose, pairs) -> float:
    values = pack(pose).double().numpy()
    return float(sum(0.5 * (w * (L @ values) ** 2).sum() for L, w in pairs))


def _solve(quadratic: Quadratic, pose: HeadPose, pairs, damping: float, locked: Tensor | None) -> Tensor:
    T, D = quadratic.g.shape
    H, g = quadratic.H.numpy().copy(), quadratic.g.numpy().copy()
    values = pack(pose).double().numpy()
    couplings = []
    for L, w in pairs:
        LtL = L.T @ L  # [T, T], band of width 2
        couplings.append((LtL, w))
        g += (LtL @ values) * w
    index = np.arange(D)
    diagonal = H[:, index, index]
    H[:, index, index] = diagonal * (1 + damping) + 1e-9
    for LtL, w in couplings:
        H[:, index, index] += np.diagonal(LtL)[:, None] * w
    if locked is not None:
        ids = np.flatnonzero(locked.numpy())
        H[:, ids], H[:, :, ids], g[:, ids] = 0, 0, 0
        H[:, ids, ids] = 1
    band = 2 * D  # the farthest coupled unknown
    ab = np.zeros((band + 1, T * D))  # upper form: ab[band + i − j, j] = M[i, j]
    for j in range(D):
        ab[band - j : band + 1, j::D] = H[:, : j + 1, j].T
    free = np.ones(D) if locked is None else (~locked.numpy()).astype(float)
    for offset in (1, 2):
        if offset < T:
            off = np.sum([np.diagonal(LtL, offset)[:, None] * (w * free) for LtL, w in couplings], axis=0)  # [T − offset, D]
            ab[band - offset * D, offset * D :] = off.reshape(-1)
    delta = solveh_banded(ab, -g.reshape(-1), overwrite_ab=True, overwrite_b=True, check_finite=False)
    return torch.from_numpy(delta.reshape(T, D))
