"""Shoulders and neck: brought onto the outlines, and held still where nothing says otherwise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scene import arc
from torch import Tensor

from avatars.head import HeadModel
from avatars.types import Identity
from capture.track.clothes import clothes_to_outline, still_term
from capture.track.fit import evaluate
from capture.track.silhouette import contour_evidence
from capture.track.warp import see_mesh, vertex_normals

CAMERAS = arc(9, 400, 500)


@pytest.fixture(scope="module")
def dressed(toy_head: HeadModel) -> HeadModel:
    """The toy head with its lower end called torso, which only the root moves."""
    regions = toy_head.face_regions.clone()
    height = toy_head.template[toy_head.faces].mean(1)[:, 1]
    regions[height < -0.05] = toy_head.region_names.index("torso")
    weights = toy_head.skin_weights.clone()
    weights[toy_head.template[:, 1] < -0.08] = torch.eye(toy_head.J + 1)[-1]
    return replace(toy_head, face_regions=regions, skin_weights=weights)


def _masks(head: HeadModel, vertices: Tensor) -> list[np.ndarray]:
    return [np.where(s.face_ids >= 0, 255, 0).astype(np.uint8) for s in see_mesh(vertices, head.faces, CAMERAS)]


def _apart(head: HeadModel, vertices: Tensor, masks: list[np.ndarray]) -> int:
    return sum(int(((a > 0) != (b > 0)).sum()) for a, b in zip(_masks(head, vertices), masks, strict=True))


def test_clothes_come_onto_the_outlines(dressed: HeadModel) -> None:
    """The person wears a coat that stands off by up to 10 mm; the face must not follow it."""
    torso = torch.zeros(dressed.V, dtype=torch.bool)
    torso[dressed.region_vertices("torso")] = True
    below = (-0.05 - dressed.template[:, 1]).clamp_min(0)
    coat = (0.01 * torch.sin(below / 0.06 * np.pi).clamp_min(0))[:, None] * vertex_normals(dressed.template, dressed.faces)
    masks = _masks(dressed, dressed.template + torch.where(torso[:, None], coat, 0.0))
    before = _apart(dressed, dressed.template, masks)
    identity = clothes_to_outline(dressed, dressed.mean_identity(), dressed.neutral(), CAMERAS, masks, 15)
    after = _apart(dressed, dressed.vertices(identity, dressed.neutral())[0], masks)
    assert before > 2000 and after < 0.25 * before
    assert identity.offsets is not None and not identity.offsets[~torso].any()


def test_the_open_rim_is_no_outline(dressed: HeadModel) -> None:
    """The person goes on where the mesh ends: nothing pulls the end of the mesh down."""
    rim = dressed.template[:, 1] == dressed.template[:, 1].min()
    longer = dressed.template.clone()
    longer[rim, 1] -= 0.03
    evidence = contour_evidence(dressed, dressed.template, CAMERAS, _masks(dressed, longer), "torso")
    assert not evidence.weight[rim].any()
    assert (evidence.weight > 0).sum() > 50 and float(evidence.displacement[evidence.weight > 0].median()) == pytest.approx(0, abs=3e-4)


def test_heads_without_shoulders_are_left_alone(toy_head: HeadModel) -> None:
    bare = replace(toy_head, face_regions=torch.full_like(toy_head.face_regions, toy_head.region_names.index("face")))
    assert clothes_to_outline(bare, bare.mean_identity(), bare.neutral(), CAMERAS, _masks(bare, bare.template), 3).offsets is None
    assert still_term(bare, bare.mean_identity(), bare.neutral(), 0, 0.3) is None


def test_still_shoulders_resist_little_motion_and_give_way_to_large(dressed: HeadModel) -> None:
    identity, pose = Identity(torch.zeros(dressed.I)), dressed.neutral(4)
    away = torch.tensor([0.0, 0.001, 0.002, 0.03])
    moved = replace(pose, translation=pose.translation + away[:, None] * torch.tensor([1.0, 0, 0]))
    term = still_term(dressed, identity, pose, 0, 0.3)
    assert term is not None
    pull = evaluate([term], identity, moved).g[:, -3]  # along the root's x
    assert pull[0] == 0 and pull[1] > 0
    assert pull[1] / 0.001 > pull[2] / 0.002 > 20 * pull[3] / 0.03
