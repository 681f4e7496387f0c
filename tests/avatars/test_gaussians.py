"""Binding and initialisation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from avatars import deform
from avatars.gaussians import (
    CanonicalGaussians,
    bind_points,
    face_frames,
    sample_surface,
    triangle_areas,
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


def test_bind_points_is_undone_by_carrying(tiny_head: HeadModel) -> None:
    generator = torch.Generator().manual_seed(3)
    points, scales = torch.randn(50, 3, generator=generator), torch.rand(50, 3, generator=generator) + 0.1
    face_ids = torch.randint(0, tiny_head.F, (50,), generator=generator)
    local = bind_points(points, face_ids, scales, face_frames(tiny_head.template, tiny_head.faces), 0.3)
    means, _, sizes, _ = deform.carried(None, {}, local, torch.zeros(0), tiny_head.template, tiny_head.faces)
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
