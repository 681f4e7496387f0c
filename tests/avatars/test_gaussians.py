"""Binding, initialisation, densification."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from avatars.avatar import bound
from avatars.gaussians import (
    CanonicalGaussians,
    bind_points,
    face_frames,
    plan_refinement,
    refine,
    sample_surface,
    triangle_areas,
    with_colors,
)
from avatars.head import HeadModel


@pytest.fixture
def surface(tiny_head: HeadModel) -> CanonicalGaussians:
    return sample_surface(tiny_head, tiny_head.template, 500, torch.Generator().manual_seed(0))


def test_frames_are_right_handed_orthonormal(tiny_head: HeadModel) -> None:
    frames = face_frames(tiny_head.template, tiny_head.faces)
    eye = torch.eye(3).expand(len(frames.axes), 3, 3)
    assert torch.allclose(frames.axes.transpose(1, 2) @ frames.axes, eye, atol=1e-5)
    assert torch.allclose(torch.linalg.det(frames.axes), torch.ones(len(frames.axes)), atol=1e-5)
    assert ((frames.normals * frames.origins).sum(1) > 0).all()  # outward on a ball


def test_bind_points_is_undone_by_bound(tiny_head: HeadModel) -> None:
    generator = torch.Generator().manual_seed(3)
    points, scales = torch.randn(50, 3, generator=generator), torch.rand(50, 3, generator=generator) + 0.1
    face_ids = torch.randint(0, tiny_head.F, (50,), generator=generator)
    local = bind_points(points, face_ids, scales, face_frames(tiny_head.template, tiny_head.faces), 0.3)
    means, _, sizes = bound(local, tiny_head.template, tiny_head.faces)
    assert torch.allclose(means, points, atol=1e-4)
    assert torch.allclose(sizes, scales, rtol=1e-4)
    assert torch.allclose(local.logit_opacities.sigmoid(), torch.tensor(0.3))


def test_surface_follows_area_and_lies_on_the_mesh(tiny_head: HeadModel) -> None:
    flat = sample_surface(tiny_head, tiny_head.template, 4000, torch.Generator().manual_seed(0), {})
    assert abs(len(flat) - 4000) < 0.1 * 4000
    areas = triangle_areas(tiny_head.template, tiny_head.faces)
    counts = torch.bincount(flat.face_ids, minlength=tiny_head.F).float()
    assert (counts / 4000 - areas / areas.sum()).abs().max() < 1e-3
    assert flat.means[:, 1].abs().max() < 1e-4  # the second axis is the normal


def test_denser_regions_get_more(tiny_head: HeadModel) -> None:
    lips = tiny_head.region_faces("lips")
    dense = sample_surface(tiny_head, tiny_head.template, 1000, torch.Generator().manual_seed(0), {"lips": 8.0})
    even = sample_surface(tiny_head, tiny_head.template, 1000, torch.Generator().manual_seed(0), {})
    assert torch.isin(dense.face_ids, lips).sum() > 3 * torch.isin(even.face_ids, lips).sum()


def test_shapes_are_checked(surface: CanonicalGaussians) -> None:
    with pytest.raises(ValueError, match="means"):
        replace(surface, means=surface.means[:-1])
    with pytest.raises(ValueError, match="1, 4, 9 or 16"):
        replace(surface, sh=torch.zeros(len(surface), 5, 3))


def test_refinement_keeps_bindings_aligned(surface: CanonicalGaussians) -> None:
    # A tag in the colour tells which Gaussian a row came from: it must sit on the same triangle ever after.
    tags = torch.arange(len(surface)).float()[:, None].expand(-1, 3) / len(surface)
    tagged = with_colors(surface, tags)
    gradients = torch.rand(len(surface), generator=torch.Generator().manual_seed(2))
    logits = tagged.logit_opacities.clone()
    logits[::7] = -9  # transparent: to be dropped
    tagged = replace(tagged, logit_opacities=logits)
    sizes = torch.full((len(surface),), 0.001)
    sizes[::2] = 0.01
    plan = plan_refinement(tagged, gradients, torch.ones(len(surface)), sizes, grow=60, split_size=0.005)
    assert len(plan.parents) == 60
    assert len(plan.keep) == len(surface) - len(range(0, len(surface), 7))
    refined = refine(tagged, plan, torch.Generator().manual_seed(0))
    assert len(refined) == len(plan.keep) + 60
    origin = ((refined.sh[:, 0, 0] * 0.28209479 + 0.5) * len(surface)).round().long()
    assert torch.equal(refined.face_ids, surface.face_ids[origin])
    new = refined[torch.arange(len(plan.keep), len(refined))]
    assert torch.equal(new.face_ids, surface.face_ids[plan.parents])
    # Split ones move apart symmetrically and shrink; doubled ones stay and share their opacity.
    old = refined[:][torch.searchsorted(plan.keep, plan.parents)]
    assert torch.allclose((old.means + new.means) / 2, surface.means[plan.parents], atol=1e-5)
    assert (new.log_scales[plan.split] < surface.log_scales[plan.parents][plan.split]).all()
    same = ~plan.split
    a, b = new.logit_opacities[same].sigmoid(), tagged.logit_opacities[plan.parents][same].sigmoid()
    assert torch.allclose(1 - (1 - a) ** 2, b, atol=1e-3)


def test_refinement_survives_poison(surface: CanonicalGaussians) -> None:
    means = surface.means.clone()
    means[3] = float("nan")
    bad = replace(surface, means=means)
    n = len(surface)
    plan = plan_refinement(bad, torch.ones(n), torch.ones(n), torch.full((n,), 1e-3), grow=10_000, split_size=1.0)
    assert 3 not in plan.keep and 3 not in plan.parents
    assert refine(bad, plan, torch.Generator()).means.isfinite().all()


def test_refinement_chooses_the_largest_gradients(surface: CanonicalGaussians) -> None:
    n = len(surface)
    gradients = torch.arange(n).float()
    seen = torch.ones(n)
    seen[-1] = 0  # never in view: not chosen however large
    plan = plan_refinement(surface, gradients, seen, torch.full((n,), 1e-3), grow=5, split_size=1.0)
    assert plan.parents.tolist() == list(range(n - 6, n - 1))
