"""Rays through volumes: where to sample them, and how the samples add up to a pixel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cuda_ext import native, reference
from cuda_ext.ops.checks import expect, same_device


@dataclass(frozen=True)
class Samples:
    """Intervals along R rays, packed ray after ray: those of ray r are offsets[r] … offsets[r + 1] - 1. No gradients."""

    offsets: Tensor  # [R + 1] int64
    ray_ids: Tensor  # [S] int64
    starts: Tensor  # [S] in lengths of the ray's direction
    ends: Tensor  # [S]
    needed: Tensor | None = None  # [] int64: samples there would be without a capacity

    @property
    def middles(self) -> Tensor:
        """[S] where to evaluate the field: origins[ray_ids] + middles · directions[ray_ids]."""
        return 0.5 * (self.starts + self.ends)


@dataclass(frozen=True)
class Composited:
    """What `composite` returns."""

    color: Tensor  # [R, D] over the background
    alpha: Tensor  # [R]
    depth: Tensor  # [R] expected distance along the ray, 0 where alpha is 0; times alpha: the accumulated one
    weights: Tensor  # [S] of each sample in its ray


def march(
    origins: Tensor,  # [R, 3]
    directions: Tensor,  # [R, 3] any length but zero
    occupancy: Tensor,  # [X, Y, Z] or [L, X, Y, Z] bool
    box: Sequence[float],
    *,
    step: float,
    far: float,
    near: float = 0.0,
    cone: float = 0.0,
    jitter: Tensor | None = None,  # [R] in 0..1
    capacity: int | None = None,
) -> Samples:
    """Sample rays inside the occupied cells of nested grids, empty space skipped (Müller et al. 2022).

    `box` (x0, y0, z0, x1, y1, z1) is the lowest and highest corner of the first grid in world units; grid l spans twice the size of
    grid l - 1 about the same centre. Samples are intervals of `step`, the first from near + jitter·step, with midpoints up to far, in
    lengths of the direction; a sample is kept when the cell of its midpoint is occupied. With `cone` c > 0 they are c times as long as
    they are far where that is more than `step`: of one width in the picture, in place of one in space. `capacity` fixes S, so that nothing waits for the device and a graph can be captured
    or compiled: what does not fit is dropped, ray by ray from the end, unused places are 0, and `needed` says what would have fitted.
    """
    R = len(origins)
    expect("origins", origins, (R, 3))
    expect("directions", directions, (R, 3), origins.dtype)
    occupancy = occupancy[None] if occupancy.dim() == 3 else occupancy
    L = occupancy.shape[0]
    if occupancy.dim() != 4 or occupancy.dtype != torch.bool or 0 in occupancy.shape or L > 16:
        raise ValueError(f"occupancy must be bool [X,Y,Z] or [1..16,X,Y,Z], got {occupancy.dtype} {list(occupancy.shape)}")
    if L > 1 and any(cells % 4 for cells in occupancy.shape[1:]):
        raise ValueError(f"nested grids need multiples of 4 cells, so that their borders meet, got {list(occupancy.shape)}")
    box = [float(x) for x in box]
    if len(box) != 6 or not all(map(math.isfinite, box)) or any(box[i] >= box[i + 3] for i in range(3)):
        raise ValueError(f"box must be x0, y0, z0, x1, y1, z1 with each lowest below its highest, got {box}")
    if not (0 < step < math.inf and -math.inf < near <= far < math.inf):
        raise ValueError(f"step must be positive and near ≤ far finite, got step {step}, near {near}, far {far}")
    if not 0 <= cone <= 1 or (cone > 0 and near < 0):
        raise ValueError(f"cone must be in 0..1, and steps that grow need near ≥ 0, got cone {cone}, near {near}")
    if (count := reference.Stepping(near, step, cone).count(far)) > reference.MARCH_STEPS:
        raise ValueError(f"far - near may hold {reference.MARCH_STEPS:.0f} steps, got {count:.3g}")
    if capacity is not None and capacity < 0:
        raise ValueError(f"capacity must not be negative, got {capacity}")
    if jitter is not None:
        expect("jitter", jitter, (R,), origins.dtype)
        same_device(origins, jitter)
    same_device(origins, directions, occupancy)
    if torch.compiler.is_compiling():
        if capacity is None:
            raise ValueError("march: under torch.compile the number of samples must be fixed: give a capacity")
        return Samples(*torch.ops.avatars.march(origins, directions, occupancy, box, step, far, near, cone, jitter, capacity))
    library = native.pick("av_march_count", origins, directions)
    if library is not None:
        return Samples(*native.march(library, origins, directions, jitter, occupancy, box, near, far, step, cone, capacity))
    with torch.no_grad():
        counts, ray_ids, starts, ends = reference.march(origins, directions, jitter, occupancy, box, near, far, step, cone)
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        needed = offsets[-1].clone()
        if capacity is not None:
            offsets = offsets.clamp_max(capacity)
            ray_ids, starts, ends = (torch.nn.functional.pad(t, (0, capacity - len(t))) for t in (ray_ids, starts, ends))  # may be negative
    return Samples(offsets, ray_ids, starts, ends, needed)


def composite(
    samples: Samples,
    densities: Tensor,  # [S]
    colors: Tensor,  # [S, D]
    *,
    backgrounds: Tensor | None = None,  # [R, D]
    stop: float = 0.0,
) -> Composited:
    """Add packed samples up along their rays (Max 1995); gradients to densities, colours, backgrounds, starts and ends.

    Densities are per unit of the distances in `samples`. τ_i = density_i·(end_i - start_i) in 0..80, T_i = exp(-Σ_{j<i} τ_j),
    w_i = T_i·(1 - exp(-τ_i)): color = Σ w_i c_i + (1 - alpha)·background, alpha = Σ w_i, depth = Σ w_i·½(start_i + end_i) / alpha. Samples
    that are reached with a transmittance T_i below `stop` do not count. Densities that are NaN count as 0, as do values of colours
    that are not finite; neither gets a gradient.
    """
    R, S = len(samples.offsets) - 1, len(densities)
    D = colors.shape[-1]
    expect("offsets", samples.offsets, (R + 1,), torch.int64)
    expect("densities", densities, (S,))
    expect("starts", samples.starts, (S,), densities.dtype)
    expect("ends", samples.ends, (S,), densities.dtype)
    expect("colors", colors, (S, D), densities.dtype)
    if R < 0 or D < 1:
        raise ValueError(
            f"offsets must be [R + 1] and colors [S, D] with D > 0, got {list(samples.offsets.shape)} and {list(colors.shape)}"
        )
    if backgrounds is not None:
        expect("backgrounds", backgrounds, (R, D), densities.dtype)
        same_device(densities, backgrounds)
    if not 0 <= stop <= 1:
        raise ValueError(f"stop is a transmittance in 0..1, got {stop}")
    same_device(densities, colors, samples.starts, samples.ends, samples.offsets)
    tensors = (densities, colors, samples.starts, samples.ends, samples.offsets, backgrounds)
    if torch.compiler.is_compiling():
        return Composited(*torch.ops.avatars.composite(*tensors, stop))
    library = native.pick("av_composite_forward", densities)
    if library is None:
        return Composited(*reference.composite(*tensors, stop))
    return Composited(*native.composite(library, *tensors, stop))
