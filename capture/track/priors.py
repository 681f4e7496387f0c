"""What is known about a face before looking at it: rest, bounds, symmetry of the eyes, and how fast it can change."""

from __future__ import annotations

import torch
from torch import Tensor

from avatars.head import HeadModel
from avatars.types import HeadPose
from capture.track.config import Priors, Smooth
from capture.track.energies import Quadratic, bounds, gaussian_prior
from capture.track.points import pack, parameter_count
from capture.track.solve import Smoothness

_ALIKE = ("eyeBlink", "eyeLookUp", "eyeLookDown", "eyeSquint", "eyeWide")


def rest_precision(head: HeadModel, priors: Priors) -> Tensor:
    """[D] inverse variances of a frame's parameters about rest; the root is free."""
    precision = torch.zeros(parameter_count(head), dtype=torch.float64)
    precision[: head.E] = priors.expression**-2
    for j, name in enumerate(head.joint_names):
        at = head.E + 3 * j
        sigma = {"neck": priors.neck, "head": priors.head, "jaw": priors.jaw}.get(name, priors.eyes)
        precision[at : at + 3] = sigma**-2
        if name == "jaw":
            precision[at + 1 : at + 3] = priors.jaw_aside**-2
        if name.startswith("eye_"):
            precision[at + 2] = 0.01**-2  # eyes do not roll
    for e, name in enumerate(head.expression_names):
        # The eyes' joints turn them, and nothing in a picture shows the tongue: two ways to say one thing would wander.
        if name == "tongueOut":
            precision[e] = 0.02**-2
    return precision


def frame_priors(head: HeadModel, pose: HeadPose, priors: Priors, neutral: Tensor | None = None) -> Quadratic:
    """Priors of T frames; `neutral` [T] bool marks those in which the face is at rest."""
    values = pack(pose)
    precision = rest_precision(head, priors).expand_as(values).clone()
    if neutral is not None:
        precision[neutral, : head.E] = priors.neutral**-2
    low, high = torch.full((2, values.shape[1]), torch.inf).unbind()
    low = -low
    low[: head.E], high[: head.E] = 0, 1
    return gaussian_prior(values, precision) + bounds(values, low, high, priors.bound**-2) + _eyes_alike(head, values, priors.eyes_alike)


def _eyes_alike(head: HeadModel, values: Tensor, sigma: float) -> Quadratic:
    pairs = [(head.expression_index(f"{n}Left"), head.expression_index(f"{n}Right")) for n in _ALIKE if f"{n}Left" in head.expression_names]
    left, right = head.joint_names.index("eye_left"), head.joint_names.index("eye_right")
    pairs += [(head.E + 3 * left + axis, head.E + 3 * right + axis) for axis in range(2)]
    rows = torch.zeros(len(pairs), values.shape[1], dtype=torch.float64)
    for row, (a, b) in zip(rows, pairs, strict=True):
        row[a], row[b] = 1, -1
    H = rows.T @ rows / sigma**2
    g = values.double() @ H
    return Quadratic(H.expand(len(values), -1, -1), g, 0.5 * (g * values.double()).sum())


def smoothness(head: HeadModel, smooth: Smooth, fps: float, calibrated: bool) -> Smoothness:
    """Per parameter; at a higher frame rate the same motion has smaller differences."""
    D, E, J = parameter_count(head), head.E, head.J
    ratio = 24.0 / max(fps, 1.0)
    acceleration = torch.zeros(D, dtype=torch.float64)
    acceleration[:E] = (smooth.expression * ratio) ** -2
    acceleration[E : E + 3 * J] = (smooth.joints * ratio) ** -2
    for j, name in enumerate(head.joint_names):
        if name.startswith("eye_"):
            acceleration[E + 3 * j : E + 3 * j + 3] = (smooth.eyes * ratio) ** -2
    acceleration[E + 3 * J :] = ((smooth.root if calibrated else smooth.free_root) * ratio) ** -2
    velocity = torch.zeros(D, dtype=torch.float64)
    velocity[E + 3 * J :] = ((smooth.root_drift if calibrated else smooth.free_root_drift) * ratio) ** -2
    return Smoothness(velocity, acceleration)
