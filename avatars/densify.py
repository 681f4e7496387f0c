"""Densification: which Gaussians are dropped and which become two, and the change itself, in place.

Order means nothing to Gaussians, so only rows that change are touched: a new one takes the place of a dropped one, and what is left over is
appended or filled from the end. Copying every parameter and both its moments would cost as much as the rest of ten training steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from avatars.gaussians import CanonicalGaussians
from avatars.transforms import quat_to_matrix


@dataclass(frozen=True)
class Refinement:
    """What one densification does to N rows."""

    count: int  # N before
    dropped: Tensor  # [D] rows that go, ascending
    parents: Tensor  # [M] rows that stay and get a child, ascending
    split: Tensor  # [M] bool: the parent shrinks and both move apart; else both stay at the spot

    @cached_property
    def result(self) -> int:
        """N afterwards."""
        return self.count - len(self.dropped) + len(self.parents)

    @property
    def empty(self) -> bool:
        return not len(self.dropped) and not len(self.parents)

    @cached_property
    def places(self) -> Tensor:
        """[M] rows of the children: those of dropped ones first, then at the end."""
        taken = self.dropped[: len(self.parents)]
        return torch.cat([taken, torch.arange(self.count, self.count + len(self.parents) - len(taken), device=taken.device)])

    @cached_property
    def moves(self) -> tuple[Tensor, Tensor]:
        """Rows from the end that go into the holes no child fills: where from, where to."""
        holes = self.dropped[len(self.parents) :]
        tail = torch.ones(self.count - min(self.result, self.count), dtype=torch.bool, device=holes.device)
        tail[holes[holes >= self.result] - self.result] = False
        return self.result + tail.nonzero()[:, 0], holes[holes < self.result]


def plan_refinement(
    gaussians: CanonicalGaussians,
    gradients: Tensor,  # [N] mean screen-space gradient
    seen: Tensor,  # [N] how often it was in view since the last time
    world_sizes: Tensor,  # [N] largest standard deviation, metres
    *,
    goal: int,
    split_size: float,
    min_opacity: float = 0.02,
    max_size: float = 0.03,
    gradient_floor: float = 1e-7,
) -> Refinement:
    """Drop what is transparent, huge or no longer finite; duplicate the Gaussians of the largest gradient until there are `goal`.

    A budget instead of a gradient threshold (Kerbl et al. 2023, section 5.2, thresholds 2e-4): the threshold depends on image size, batch and
    loss, a count does not. Bindings are rows as well, so they follow by construction.
    """
    opacity = gaussians.logit_opacities.sigmoid()
    finite = gaussians.means.isfinite().all(1) & gaussians.log_scales.isfinite().all(1) & opacity.isfinite()
    keep = finite & (opacity > min_opacity) & (world_sizes < max_size)
    dropped = (~keep).nonzero()[:, 0]
    score = torch.where(keep & (seen > 0), gradients, torch.zeros_like(gradients))
    grow = min(max(goal - (len(gaussians) - len(dropped)), 0), int((score > gradient_floor).sum()))
    parents = score.topk(grow).indices.sort().values
    return Refinement(len(gaussians), dropped, parents, world_sizes[parents] > split_size)


def divide(parents: CanonicalGaussians, split: Tensor, generator: torch.Generator) -> tuple[CanonicalGaussians, CanonicalGaussians]:
    """Two Gaussians for each of M, `split` [M] or doubled: what becomes of the parent, and the child."""
    # The displacement is drawn in the triangle's own frame and units, where means and scales live.
    spread = torch.randn(len(parents), 3, generator=generator).to(parents.means) * parents.log_scales.exp()
    offset = (quat_to_matrix(parents.quats) @ spread[..., None])[..., 0] * split[:, None]
    log_scales = parents.log_scales - math.log(1.6) * split[:, None]
    # Two Gaussians where there was one: opacities that together cover as before (Bulò et al. 2024, eq. 8).
    opacity = 1 - (1 - parents.logit_opacities.sigmoid()).clamp_min(1e-6).sqrt()
    logits = torch.where(split, parents.logit_opacities, torch.logit(opacity.clamp(1e-4, 1 - 1e-4)))
    rest = (log_scales, logits, parents.sh)
    return (
        CanonicalGaussians(parents.face_ids, parents.means - offset, parents.quats, *rest),
        CanonicalGaussians(parents.face_ids, parents.means + offset, parents.quats, *rest),
    )


@torch.no_grad()
def replace_rows(tensor: Tensor, plan: Refinement, children: Tensor | None, capacity: int) -> Tensor:
    """Carry out a plan on a per-Gaussian tensor [N, ...] in place; `children` [M, ...], zeros when None.

    The same tensor when N stays. Otherwise a view of the same memory while that suffices, else of new memory for `capacity` rows.
    """
    rows = tensor.detach()
    room = rows.untyped_storage().nbytes() // rows.element_size() - rows.storage_offset()  # elements
    if plan.result > plan.count and room < plan.result * math.prod(rows.shape[1:]):
        rows = rows.new_empty(max(capacity, plan.result), *rows.shape[1:])
        rows[: plan.count] = tensor
    elif plan.result > plan.count:
        rows = _view(rows, plan.result)
    if len(plan.parents):
        rows[plan.places] = rows.new_zeros(()) if children is None else children
    if plan.result < plan.count:
        source, target = plan.moves
        rows[target] = rows[source]
    return tensor if plan.result == plan.count else _view(rows, plan.result)


def _view(rows: Tensor, count: int) -> Tensor:
    """The first `count` rows of the memory that `rows` begins."""
    return rows.new_empty(0).set_(rows.untyped_storage(), rows.storage_offset(), (count, *rows.shape[1:]), rows.stride())
