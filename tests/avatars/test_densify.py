"""Densification keeps what belongs together in one row, and touches only the rows that change."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from avatars.densify import Refinement, divide, plan_refinement, replace_rows
from avatars.gaussians import CanonicalGaussians, sample_surface
from avatars.head import HeadModel


@pytest.fixture(scope="module")
def surface(tiny_head: HeadModel) -> CanonicalGaussians:
    return sample_surface(tiny_head, tiny_head.template, 500, torch.Generator().manual_seed(0))


def carried_out(tensor: torch.Tensor, plan: Refinement, children: torch.Tensor) -> torch.Tensor:
    """The rows after a plan, by the plain way: kept ones and children."""
    keep = torch.ones(plan.count, dtype=torch.bool)
    keep[plan.dropped] = False
    return torch.cat([tensor[keep], children])


@pytest.mark.parametrize(
    ("count", "dropped", "parents"),
    [
        (10, [], [3, 4]), (10, [2], [0]), (10, [2, 5], [9]), (10, [8, 9], [1]), (10, [7, 8, 9], []), (10, [0, 1, 2], [5]),
        (10, [0, 9], [1, 2, 3, 4]), (6, [0, 2, 4], []), (5, [], []), (4, [0, 1, 2, 3], []),
    ],
)  # fmt: skip
def test_rows_are_replaced_in_place(count: int, dropped: list[int], parents: list[int]) -> None:
    none = torch.zeros(0, dtype=torch.int64)
    plan = Refinement(
        count,
        torch.tensor(dropped) if dropped else none,
        torch.tensor(parents) if parents else none,
        torch.ones(len(parents), dtype=torch.bool),
    )
    rows = torch.arange(2 * count).reshape(count, 2).float()
    children = 100 + rows[plan.parents]
    expected = carried_out(rows, plan, children)
    assert plan.result == len(expected)
    untouched = set(range(min(count, plan.result))) - set(dropped)
    before = rows.clone()
    after = replace_rows(rows, plan, children, count + 3)
    assert sorted(after.tolist()) == sorted(expected.tolist())
    assert all(torch.equal(after[i], before[i]) for i in untouched)
    if 0 < plan.result <= count:
        assert after.data_ptr() == rows.data_ptr()
        fill = torch.arange(plan.result)[: count - plan.result]
        again = Refinement(plan.result, none, fill, torch.ones(len(fill), dtype=torch.bool))
        assert replace_rows(after, again, after[fill], count).data_ptr() == rows.data_ptr()  # what was given up is used again
    elif plan.result:  # memory for more than was asked
        assert after.untyped_storage().nbytes() == 4 * 2 * (count + 3)
    fresh = replace_rows(before.clone(), plan, None, count)
    assert sorted(fresh.tolist()) == sorted(carried_out(before, plan, torch.zeros_like(children)).tolist())


def test_refinement_keeps_bindings_aligned(surface: CanonicalGaussians) -> None:
    n = len(surface)
    gradients = torch.rand(n, generator=torch.Generator().manual_seed(2))
    logits = surface.logit_opacities.clone()
    logits[::7] = -9  # transparent: to be dropped
    tagged = replace(surface, logit_opacities=logits)
    sizes = torch.full((n,), 0.001)
    sizes[::2] = 0.01
    gone = len(range(0, n, 7))
    plan = plan_refinement(tagged, gradients, torch.ones(n), sizes, goal=n - gone + 60, split_size=0.005)
    assert len(plan.parents) == 60 and len(plan.dropped) == gone and plan.split.any() and not plan.split.all()
    assert plan.result == n - gone + 60
    assert not set(plan.parents.tolist()) & set(plan.dropped.tolist())
    # A tag tells which Gaussian a row came from: it must sit on the same triangle ever after.
    tags = replace_rows(torch.arange(n), plan, plan.parents, n)
    faces = replace_rows(surface.face_ids.clone(), plan, surface.face_ids[plan.parents], n)
    assert torch.equal(faces, surface.face_ids[tags])
    expected = torch.ones(n, dtype=torch.int64)
    expected[plan.dropped] = 0
    expected[plan.parents] = 2
    assert torch.equal(torch.bincount(tags, minlength=n), expected)


def test_divided_gaussians_cover_what_one_did(surface: CanonicalGaussians) -> None:
    split = torch.arange(len(surface)) % 3 == 0
    old, new = divide(surface, split, torch.Generator().manual_seed(0))
    # Split ones move apart symmetrically and shrink; doubled ones stay and share their opacity.
    assert torch.allclose((old.means + new.means) / 2, surface.means, atol=1e-5)
    assert (new.means - old.means)[split].norm(dim=1).min() > 0 and torch.equal(new.means[~split], old.means[~split])
    assert torch.allclose(new.log_scales[split].exp(), surface.log_scales[split].exp() / 1.6)
    assert torch.equal(new.log_scales[~split], surface.log_scales[~split])
    a, b = new.logit_opacities[~split].sigmoid(), surface.logit_opacities[~split].sigmoid()
    assert torch.allclose(1 - (1 - a) ** 2, b, atol=1e-3)


def test_refinement_survives_poison(surface: CanonicalGaussians) -> None:
    means = surface.means.clone()
    means[3] = float("nan")
    bad = replace(surface, means=means)
    n = len(surface)
    plan = plan_refinement(bad, torch.ones(n), torch.ones(n), torch.full((n,), 1e-3), goal=10_000, split_size=1.0)
    assert 3 in plan.dropped and 3 not in plan.parents and plan.result == 2 * (n - 1)
    old, new = divide(bad[plan.parents], plan.split, torch.Generator())
    means[plan.parents] = old.means
    assert replace_rows(means, plan, new.means, n).isfinite().all()


def test_refinement_chooses_the_largest_gradients(surface: CanonicalGaussians) -> None:
    n = len(surface)
    gradients = torch.arange(n).float()
    seen = torch.ones(n)
    seen[-1] = 0  # never in view: not chosen however large
    plan = plan_refinement(surface, gradients, seen, torch.full((n,), 1e-3), goal=n + 5, split_size=1.0)
    assert plan.parents.tolist() == list(range(n - 6, n - 1))
