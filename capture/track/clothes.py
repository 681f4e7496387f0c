"""Shoulders and neck: little texture, large triangles, and yet a third of the picture. Their outlines say where they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from avatars.head import HeadModel
from avatars.types import Cameras, HeadPose, Identity
from capture.track.energies import Quadratic, Quadratic3, pull_back
from capture.track.fit import Term, vertex_term
from capture.track.points import Linearised, displaced
from capture.track.shape import bend_to
from capture.track.silhouette import contour_evidence

_HOLD = 0.02  # weight with which a vertex that no outline touches stays; most do not
_POINTS = 100  # of the shoulders, that are held still
_ROBUST_MM = 2.0


def clothes_to_outline(
    head: HeadModel, identity: Identity, pose: HeadPose, cameras: Cameras, masks: Sequence[np.ndarray], rounds: int
) -> Identity:
    """The identity with shoulders and neck on the outlines `masks` (uint8 [H, W]) of all cameras in the frame of `pose`; the rest stays.

    Each round bends the surface smoothly towards what is left, so that many small ones fit what a single one could not without creases.
    On a synthetic capture of 16 cameras, 15 rounds left 0.5 px of 4.
    """
    free = torch.zeros(head.V, dtype=torch.bool)
    free[head.region_vertices("torso", "neck")] = True
    for _ in range(rounds if bool(free.any()) else 0):
        vertices = head.vertices(identity, pose)[0]
        outline = contour_evidence(head, vertices, cameras, masks, "torso", "neck")
        weight = torch.where(free, outline.weight.clamp_min(_HOLD), 1.0)
        evidence = replace(outline, weight=weight, displacement=torch.where(free, outline.displacement, 0.0))
        delta = bend_to(evidence, head.faces, vertices, torch.ones(head.V))
        delta[~free] = 0
        identity = displaced(head, identity, pose, delta)
    return identity


def still_term(head: HeadModel, identity: Identity, pose: HeadPose, reference: int, sigma_mm: float) -> Term | None:
    """The shoulders stay where the `reference` frame of `pose` shows them, unless more than a few millimetres speak against it.

    Plain cloth has nothing that could be followed, and without this the root made up for what is wrong with the neck's joints: it
    wandered by millimetres, and the clothes with it. None for a head without shoulders.
    """
    torso = head.region_vertices("torso")
    ids = torso[head.skin_weights[torso, -1] > 0.98]  # what only the root moves
    if not len(ids):
        return None
    ids = ids[:: max(1, len(ids) // _POINTS)]
    home = head.vertices(identity, pose[reference])[0, ids]
    scale = (_ROBUST_MM * 1e-3) ** 2

    def energy(lin: Linearised, frames: Tensor) -> Quadratic:
        moved = lin.positions - home
        squared = moved.square().sum(-1)
        influence = 1e6 / (1 + squared / scale)  # Cauchy, 1/mm²
        A = influence[..., None, None] * torch.eye(3)
        cost = 0.5e6 * (scale * torch.log1p(squared / scale)).sum().double()
        return pull_back(Quadratic3(A, influence[..., None] * moved, cost), lin.jacobian).scaled(sigma_mm**-2)

    return vertex_term(head, ids, energy)
