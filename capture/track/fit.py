"""Fitting poses and identity to terms: sets of observed points of the head with an energy each.

Poses of all frames are found together by Gauss–Newton with temporal smoothness (`solve`). The identity is found from
some frames, with every one of their pose parameters solved for at the same time and eliminated, so that a smile cannot leak into the shape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from avatars.head import HeadModel
from avatars.types import HeadPose, Identity
from capture.track.config import Priors
from capture.track.energies import Quadratic
from capture.track.points import Linearised, linearise, vertex_head
from capture.track.priors import frame_priors
from capture.track.solve import Smoothness, minimise

_CHUNK = 24  # frames whose Jacobians are in memory at a time


@dataclass(frozen=True)
class Term:
    """Points of the head, and an energy of where they are."""

    points: HeadModel  # P vertices
    on_points: Callable[[Identity], Identity]  # the identity with the offsets of these points
    energy: Callable[[Linearised, Tensor], Quadratic]  # of the linearised points in these frames [B] (ids)


def vertex_term(head: HeadModel, ids: Tensor, energy: Callable[[Linearised, Tensor], Quadratic]) -> Term:
    """An energy of the vertices `ids` [P]; the head must be settled."""
    return Term(vertex_head(head, ids), lambda i: i if i.offsets is None else replace(i, offsets=i.offsets[ids]), energy)


def evaluate(terms: Sequence[Term], identity: Identity, pose: HeadPose) -> Quadratic:
    """Sum of the terms' local models over all frames of `pose`."""
    total: Quadratic | None = None
    for term in terms:
        shaped = term.points.shape(term.on_points(identity))
        parts = [term.energy(linearise(term.points, shaped, pose[ids]), ids) for ids in torch.arange(len(pose)).split(_CHUNK)]
        joined = Quadratic(torch.cat([p.H for p in parts]), torch.cat([p.g for p in parts]), torch.stack([p.cost for p in parts]).sum())
        total = joined if total is None else total + joined
    if total is None:
        raise ValueError("evaluate: no terms")
    return total


def fit_poses(
    head: HeadModel, terms: Sequence[Term], identity: Identity, pose: HeadPose, segments: Sequence[tuple[int, int]],
    priors: Priors, smooth: Smoothness, neutral: Tensor, iterations: int,
) -> tuple[HeadPose, list[float]]:  # fmt: skip
    """Poses and expressions of all frames for a fixed identity, and the cost of each iteration; neutral [T] bool."""

    def energy(candidate: HeadPose) -> Quadratic:
        return evaluate(terms, identity, candidate) + frame_priors(head, candidate, priors, neutral)

    return minimise(pose, energy, smooth, segments, iterations)


def fit_identity(
    head: HeadModel, terms: Sequence[Term], identity: Identity, pose: HeadPose, frames: Tensor, priors: Priors, neutral: Tensor,
    *, free_scale: bool = True, free_pose: bool = True, largest_step: float = 1.0,
) -> Identity:  # fmt: skip
    """One Gauss–Newton step of coefficients and scale from `frames` (ids), their poses eliminated unless held (`free_pose`)."""
    some = pose[frames]
    K = head.I + 1
    H: Tensor | None = None
    g: Tensor | None = None
    for term in terms:
        lin = linearise(term.points, term.points.shape(term.on_points(identity)), some)
        shape_part = torch.einsum("tpij,kpj->tpik", lin.blend, term.points.identity_basis)
        scale_part = (lin.positions - some.translation[:, None])[..., None]  # d/d log scale: it acts about the root
        quadratic = term.energy(replace(lin, jacobian=torch.cat([shape_part, scale_part, lin.jacobian], -1)), frames)
        H = quadratic.H if H is None else H + quadratic.H
        g = quadratic.g if g is None else g + quadratic.g
    if H is None or g is None:
        raise ValueError("fit_identity: no terms")
    S, r = H[:, :K, :K].sum(0), g[:, :K].sum(0)
    if free_pose:
        prior = frame_priors(head, some, priors, neutral[frames])
        inner = H[:, K:, K:] + prior.H
        inner = inner + torch.diag_embed(1e-6 * torch.diagonal(inner, dim1=1, dim2=2) + 1e-6)
        right = torch.cat([H[:, K:, :K], (g[:, K:] + prior.g)[..., None]], -1)
        solved = torch.linalg.solve(inner, right)
        S = S - (H[:, :K, K:] @ solved[..., :K]).sum(0)
        r = r - (H[:, :K, K:] @ solved[..., K:])[..., 0].sum(0)
    precision = torch.ones(K, dtype=torch.float64)
    precision[-1] = 0.15**-2 if free_scale else 1e12
    scale = torch.tensor([float(identity.scale)], dtype=torch.float64)
    current = torch.cat([identity.coefficients.double(), scale.log()])
    delta = -torch.linalg.solve(S + torch.diag(precision), r + precision * current)
    delta = delta * min(1.0, largest_step / max(float(delta[: head.I].abs().max()), 1e-9))
    new = current + delta
    coefficients = new[: head.I].clamp(-5, 5).to(identity.coefficients)
    return replace(identity, coefficients=coefficients, scale=float(new[-1].exp()))
