"""Rays through volumes in plain torch: what include/volume.h says, line by line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Mirrors of include/semantics.h; tests/cuda_ext/test_interface.py compares them.
TAU_MAX = 80.0
MARCH_STEPS = 4194304.0
_DEPTH_ALPHA_MIN = 1e-10
_NEVER = 3.4e38

_POINTS = 1 << 22  # looked up at once; has no influence on the result


@dataclass(frozen=True)
class Stepping:
    """Where steps along a ray end: even ones at first, and in proportion to the distance once that is longer (`cone` > 0)."""

    near: float
    step: float
    cone: float

    @property
    def turn(self) -> float:
        """The distance at which steps begin to grow."""
        return max(self.near, self.step / self.cone) if self.cone > 0 else _NEVER

    @property
    def bend(self) -> float:
        """The number of steps before that."""
        return (self.turn - self.near) / self.step if self.cone > 0 else _NEVER

    @property
    def growth(self) -> float:
        """log2 of the factor from one step to the next."""
        return math.log2(1 + self.cone)

    def distance(self, x: Tensor) -> Tensor:
        """After x steps."""
        even = self.near + x * self.step
        return (
            torch.where(x <= self.bend, even, self.turn * torch.exp2((x - self.bend).clamp_min(0) * self.growth)) if self.cone > 0 else even
        )

    def count(self, far: float) -> float:
        """Steps to a distance."""
        return (far - self.near) / self.step if far <= self.turn else self.bend + math.log2(far / self.turn) / self.growth


def occupied(points: Tensor, occupancy: Tensor, box: Sequence[float]) -> Tensor:
    """Whether points [..., 3] lie in an occupied cell of the first grid [L, X, Y, Z] that contains them."""
    low, high = (points.new_tensor(corner) for corner in (box[:3], box[3:]))
    cells = torch.tensor(occupancy.shape[1:], device=points.device)
    from_centre = (points - low) / (high - low) - 0.5
    result = torch.zeros(points.shape[:-1], dtype=torch.bool, device=points.device)
    pending = torch.ones_like(result)
    for level, grid in enumerate(occupancy):
        index = ((from_centre * 0.5**level + 0.5) * cells).floor()
        inside = pending & (index >= 0).all(-1) & (index < cells).all(-1)
        i, j, k = index[inside].long().unbind(-1)
        result[inside] = grid[i, j, k] != 0
        pending = pending & ~inside
    return result


def march(
    origins: Tensor,  # [R, 3]
    directions: Tensor,  # [R, 3]
    jitter: Tensor | None,  # [R]
    occupancy: Tensor,  # [L, X, Y, Z]
    box: Sequence[float],
    near: float,
    far: float,
    step: float,
    cone: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """counts [R], then packed ray_ids [S], starts [S], ends [S]; every midpoint of every ray is looked up."""
    rays, dtype, device = len(origins), origins.dtype, origins.device
    valid = origins.isfinite().all(-1) & directions.isfinite().all(-1) & (directions != 0).any(-1)
    shift = torch.zeros(rays, dtype=dtype, device=device) if jitter is None else jitter
    valid = valid & shift.isfinite()
    steps = Stepping(near, step, cone)
    k = torch.arange(math.floor(steps.count(far)) + 1, dtype=dtype, device=device)
    chunk = max(1, _POINTS // len(k))
    ids, starts = [torch.zeros(0, dtype=torch.int64, device=device)], [torch.zeros(0, dtype=dtype, device=device)]
    ends = list(starts)
    for first in range(0, rays, chunk):
        some = slice(first, first + chunk)
        start, end = (steps.distance(k + shift[some, None] + more) for more in (0, 1))
        t = 0.5 * (start + end)
        points = origins[some, None] + t[..., None] * directions[some, None]
        kept = valid[some, None] & (t <= far) & occupied(points, occupancy, box)
        ray, index = kept.nonzero(as_tuple=True)
        ids.append(ray + first)
        starts.append(start[ray, index])
        ends.append(end[ray, index])
    ray_ids = torch.cat(ids)
    return torch.bincount(ray_ids, minlength=rays), ray_ids, torch.cat(starts), torch.cat(ends)


def composite(
    densities: Tensor,  # [S]
    colors: Tensor,  # [S, D]
    starts: Tensor,  # [S]
    ends: Tensor,  # [S]
    offsets: Tensor,  # [R + 1]
    backgrounds: Tensor | None,  # [R, D]
    stop: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """color [R, D], alpha [R], depth [R], weights [S]. The optical depth is summed in float64 whatever the inputs are."""
    rays, samples, dtype = len(offsets) - 1, len(densities), densities.dtype
    if int(offsets[0]) != 0 or bool((offsets.diff() < 0).any()) or int(offsets[-1]) > samples:
        raise ValueError(f"offsets must rise from 0 to at most the number of samples, {samples}")
    ids = torch.searchsorted(offsets[1:], torch.arange(samples, device=offsets.device), right=True)
    used = ids < rays
    ids = ids.clamp_max(rays - 1)
    with torch.no_grad():
        raw = densities * (ends - starts)
        moves = (raw > 0) & (raw < TAU_MAX)
        full = raw >= TAU_MAX
    length = torch.where(moves, ends, 0) - torch.where(moves, starts, 0)
    tau = (torch.where(moves, densities, 0) * length + TAU_MAX * full).double()
    before = torch.cumsum(tau, 0) - tau
    before = before - before[offsets[:-1].clamp_max(max(samples - 1, 0))][ids] if samples else before
    through = torch.exp(-before)
    weights = torch.where(used & (through >= stop), through * -torch.expm1(-tau), 0).to(dtype)
    middles = 0.5 * (starts + ends)
    middles = torch.where(middles.isfinite(), middles, 0)
    sane = torch.where(colors.isfinite(), colors, 0)
    color = sane.new_zeros(rays, colors.shape[1]).index_add(0, ids, weights[:, None] * sane)
    alpha = weights.new_zeros(rays).index_add(0, ids, weights)
    depth = weights.new_zeros(rays).index_add(0, ids, weights * middles) / alpha.clamp_min(_DEPTH_ALPHA_MIN)
    if backgrounds is not None:
        color = color + (1 - alpha[:, None]) * backgrounds
    return color, alpha, depth, weights
