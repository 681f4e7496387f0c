"""The energies of the fit, as functions of tensors that return their local quadratic model.

Everything observed in pictures is a 2D position, so one form serves all: the residual of a point X in a camera is
e = (x − z·u, y − z·v) with X in camera axes and (u, v) the observed ray. It is the reprojection error in metres at the
point's depth, independent of resolution, and linear in X. Over cameras it sums to a 3×3 matrix and a vector per
point; the number of cameras then no longer matters (`Quadratic3`). Robustness by iterated reweighting (Cauchy).

Weights are inverse variances in 1/mm², priors inverse variances of their own unit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from avatars.types import Cameras

_MM2 = 1e6  # 1/mm² in 1/m²


@dataclass(frozen=True)
class Quadratic3:
    """½ Xᵀ A X − bᵀ X + const, of P points in T frames, and its value at the positions where it was made."""

    A: Tensor  # [T, P, 3, 3]
    gradient: Tensor  # [T, P, 3] A X − b at those positions
    cost: Tensor  # scalar


@dataclass(frozen=True)
class Quadratic:
    """½ δᵀ H δ + gᵀ δ + cost in the step δ [T, D] of all frames."""

    H: Tensor  # [T, D, D] float64
    g: Tensor  # [T, D] float64
    cost: Tensor  # scalar

    def __add__(self, other: Quadratic) -> Quadratic:
        return Quadratic(self.H + other.H, self.g + other.g, self.cost + other.cost)

    def scaled(self, factor: float) -> Quadratic:
        """This energy times a factor."""
        return Quadratic(self.H * factor, self.g * factor, self.cost * factor)


def rays(targets: Tensor, cameras: Cameras) -> Tensor:
    """Observed pixels [T, C, P, 2] → (u, v) at depth one."""
    focal = torch.stack([cameras.Ks[:, 0, 0], cameras.Ks[:, 1, 1]], -1)[:, None]
    center = cameras.Ks[:, None, :2, 2]
    return (targets - center) / focal


def reprojection(positions: Tensor, cameras: Cameras, observed: Tensor, weights: Tensor, robust_mm: float) -> tuple[Quadratic3, Tensor]:
    """Distance of points [T, P, 3] to the rays `observed` [T, C, P, 2] (from `rays`), weights [T, C, P] ≥ 0.

    Residuals beyond `robust_mm` lose influence. Also returns the residuals [T, C, P] in metres; entries of weight zero
    may hold anything finite.
    """
    R, t = cameras.viewmats[:, :3, :3], cameras.viewmats[:, :3, 3]
    local = torch.einsum("cij,tpj->tcpi", R, positions) + t[:, None]
    e = local[..., :2] - local[..., 2:] * observed
    return _sum_over_cameras(e, R, observed, weights, robust_mm)


def differences(
    positions: Tensor, pairs: Tensor, cameras: Cameras, observed: Tensor, weights: Tensor, robust_mm: float
) -> tuple[Quadratic3, Tensor]:
    """The same for the difference of the points of each pair [Q, 2]: where lids and lips stand relative to each other.

    A detector's common error cancels, so that eyes and lips close when they do in the picture. weights [T, C, Q].
    The quadratic is in the difference X_first − X_second.
    """
    first, second = pairs.unbind(1)
    R, t = cameras.viewmats[:, :3, :3], cameras.viewmats[:, :3, 3]
    local = torch.einsum("cij,tpj->tcpi", R, positions) + t[:, None]
    e = local[..., :2] - local[..., 2:] * observed
    return _sum_over_cameras(e[:, :, first] - e[:, :, second], R, observed[:, :, first], weights, robust_mm)


def _sum_over_cameras(e: Tensor, R: Tensor, observed: Tensor, weights: Tensor, robust_mm: float) -> tuple[Quadratic3, Tensor]:
    squared = (e * e).sum(-1)
    scale = (robust_mm * 1e-3) ** 2
    influence = weights / (1 + squared / scale)  # Cauchy
    # rows of d e / d X: R₀ − u R₂ and R₁ − v R₂
    G = R[:, None, :2] - observed[..., None] * R[:, None, 2:]  # [T, C, P, 2, 3]
    weighted = G * (influence * _MM2)[..., None, None]
    A = torch.einsum("tcpai,tcpaj->tpij", weighted, G)
    gradient = torch.einsum("tcpai,tcpa->tpi", weighted, e)
    cost = 0.5 * _MM2 * (weights * scale * torch.log1p(squared / scale)).sum()
    return Quadratic3(A, gradient, cost.double()), squared.sqrt()


def pull_back(quadratic: Quadratic3, jacobian: Tensor) -> Quadratic:
    """The quadratic in points, [T, P], as one in the parameters that move them by `jacobian` [T, P, 3, D]."""
    T, D = jacobian.shape[0], jacobian.shape[-1]
    AJ = (quadratic.A @ jacobian).reshape(T, -1, D)
    J = jacobian.reshape(T, -1, D)
    H = J.transpose(1, 2) @ AJ
    g = (J.transpose(1, 2) @ quadratic.gradient.reshape(T, -1, 1))[..., 0]
    return Quadratic(H.double(), g.double(), quadratic.cost)


def gaussian_prior(values: Tensor, precision: Tensor) -> Quadratic:
    """½ Σ precision·value² for values [T, D] and precisions [D] or [T, D]."""
    precision = precision.double().expand_as(values)
    return Quadratic(torch.diag_embed(precision), precision * values.double(), 0.5 * (precision * values.double() ** 2).sum())


def bounds(values: Tensor, low: Tensor, high: Tensor, precision: float) -> Quadratic:
    """Soft walls: quadratic beyond [low, high] ([D], may be infinite), nothing between."""
    values = values.double()
    outside = values - torch.minimum(torch.maximum(values, low.double()), high.double())
    active = (outside != 0).double() * precision
    return Quadratic(torch.diag_embed(active), active * outside, 0.5 * (active * outside**2).sum())
