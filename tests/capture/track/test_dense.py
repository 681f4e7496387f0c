"""Dense correspondence: pictures of a textured head through another mesh, the neutral surface, and the motion of the skin."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scene import arc, performance

from avatars.head import HeadModel
from avatars.transforms import transform
from avatars.types import Cameras, Identity
from capture.track.motion import correspond, followed_vertices
from capture.track.parts import carry_parts, tuck_teeth
from capture.track.points import displaced
from capture.track.shape import SurfaceEvidence, bend_to, laplacian, neighbours, surface_evidence
from capture.track.silhouette import merged, signed_distance, silhouette_evidence
from capture.track.surface import closest_points
from capture.track.warp import Flow, correlation, even_out, sample, see_mesh, vertex_normals, warp
from cuda_ext import ops

CAMERAS = arc(4, 400, 500).resized(200, 250)


def _paint(points: torch.Tensor) -> torch.Tensor:
    """Grey value 0–255 at rest positions [.., 3]: blobs of 1 to 4 cm."""
    value = torch.zeros(points.shape[:-1])
    generator = torch.Generator().manual_seed(0)
    for k in range(24):
        direction = torch.nn.functional.normalize(torch.randn(3, generator=generator), dim=0)
        value = value + torch.sin(points @ direction * (150 + 20 * k) + k)
    return (128 + 22 * value).clamp(0, 255)


def _photograph(rest: torch.Tensor, vertices: torch.Tensor, faces: torch.Tensor, cameras: Cameras) -> list[np.ndarray]:
    """uint8 [H, W] of a mesh `vertices` [V, 3] painted by its rest positions, in every camera."""
    local = transform(cameras.viewmats, vertices.expand(len(cameras), -1, 3)).contiguous()
    ids, barycentrics, _ = ops.rasterize_mesh(local, faces, cameras.Ks.contiguous(), cameras.width, cameras.height)
    points = (rest[faces[ids.clamp_min(0).long()]] * barycentrics[..., None]).sum(-2)
    return [np.where(i >= 0, p, 90).astype(np.uint8) for i, p in zip(ids.numpy(), _paint(points).numpy(), strict=True)]


@pytest.fixture(scope="module")
def still(toy_head: HeadModel) -> tuple[torch.Tensor, list[np.ndarray]]:
    """The toy head at rest and its pictures."""
    vertices = toy_head.template
    return vertices, _photograph(vertices, vertices, toy_head.faces, CAMERAS)


def test_sample_is_bilinear_at_pixel_centres() -> None:
    image = np.arange(12, dtype=np.float32).reshape(3, 4)
    at = np.array([[0.5, 0.5], [1.0, 0.5], [3.5, 2.5], [-40.0, 0.5]])
    assert sample(image, at).tolist() == pytest.approx([0, 0.5, 11, 0])


def test_evening_out_removes_light(still) -> None:
    picture = still[1][0]
    darker = (picture * np.linspace(0.5, 0.8, 200)).astype(np.uint8)
    inner = (slice(80, 170), slice(70, 130))
    difference = np.abs(even_out(picture, 5)[inner].astype(float) - even_out(darker, 5)[inner])
    assert difference.mean() < 6
    assert np.abs(picture[inner].astype(float) - darker[inner]).mean() > 30


def test_warp_through_the_true_mesh_gives_the_other_picture(toy_head: HeadModel, still) -> None:
    vertices, pictures = still
    seen = see_mesh(vertices, toy_head.faces, CAMERAS)
    Ks, views = CAMERAS.Ks.numpy(), CAMERAS.viewmats.numpy()
    carried, valid = warp(pictures[1], seen[1], (Ks[1], views[1]), seen[2], toy_head.faces.numpy())
    assert valid.mean() > 0.15
    assert np.abs(carried[valid].astype(float) - pictures[2][valid]).mean() < 12
    flow, trust = Flow()(carried, valid, pictures[2])
    assert np.abs(flow[trust > 0.8]).mean() < 0.25
    assert (trust[~valid] == 0).all()


def test_flow_finds_a_shift_and_distrusts_nonsense(still) -> None:
    picture = still[1][1]
    valid = np.zeros(picture.shape, bool)
    valid[60:200, 50:150] = True
    flow, trust = Flow()(picture, valid, np.roll(picture, (1, 2), (0, 1)))
    inner = (slice(90, 170), slice(75, 125))
    assert np.abs(flow[inner] - [2, 1]).mean() < 0.2 and trust[inner].mean() > 0.9
    noise = np.random.default_rng(0).integers(0, 255, picture.shape).astype(np.uint8)
    assert Flow()(picture, valid, noise)[1][inner].mean() < 0.2
    assert Flow()(picture, np.zeros_like(valid), picture)[1].max() == 0
    assert correlation(picture, picture)[inner].min() > 0.8


def test_the_surface_is_found_from_a_wrong_one(toy_head: HeadModel, still) -> None:
    """The mesh is 2 mm too small at the cheek; the pictures say so, and the offsets bring it back."""
    truth, pictures = still
    dent = 0.002 * torch.exp(-(((truth - torch.tensor([0.03, -0.02, 0.08])).norm(dim=-1) / 0.03) ** 2))
    wrong = truth - dent[:, None] * vertex_normals(truth, toy_head.faces)
    front = (truth[:, 2] > 0.03).nonzero()[:, 0]
    evidence = surface_evidence(wrong, toy_head.faces, front, CAMERAS, pictures)
    measured = evidence.weight > 0.5
    assert measured[front].float().mean() > 0.5
    assert (evidence.displacement - dent)[measured].abs().median() < 4e-4
    corrected = wrong + bend_to(evidence, toy_head.faces, wrong, torch.full((toy_head.V,), 0.3))
    before, after = ((v - truth).norm(dim=-1)[dent > 1e-3].mean() for v in (wrong, corrected))
    assert after < 0.45 * before


def test_the_outline_is_met_by_skin_and_respected_by_hair(toy_head: HeadModel) -> None:
    """The person is 2 mm thicker than the mesh, and wears hair 10 mm thick: the bare skin grows, the scalp does not."""
    vertices = toy_head.template
    normals = vertex_normals(vertices, toy_head.faces)
    scalp = torch.zeros(toy_head.V, dtype=torch.bool)
    scalp[toy_head.region_vertices("scalp")] = True
    person = vertices + normals * torch.where(scalp, 0.01, 0.002)[:, None]
    cameras = arc(9, 400, 500)
    masks = [np.where(s.face_ids >= 0, 255, 0).astype(np.uint8) for s in see_mesh(person, toy_head.faces, cameras)]
    found = silhouette_evidence(toy_head, vertices, cameras, masks)
    skin = (found.weight > 0) & ~scalp
    assert skin.sum() > 20 and float(found.displacement[skin].median()) == pytest.approx(0.002, abs=6e-4)
    assert float(found.weight[scalp].max()) == 0
    fat = vertices + 0.004 * normals  # sticks out everywhere
    found = silhouette_evidence(
        toy_head, fat, cameras, [np.where(s.face_ids >= 0, 255, 0).astype(np.uint8) for s in see_mesh(vertices, toy_head.faces, cameras)]
    )
    assert (found.weight[scalp] > 0).sum() > 20 and float(found.displacement[scalp & (found.weight > 0)].median()) < -0.002
    both = merged(found, found, 0.5)
    assert torch.allclose(both.displacement, found.displacement, atol=1e-7)


def test_signed_distance_is_positive_inside() -> None:
    mask = np.zeros((9, 9), bool)
    mask[2:7, 2:7] = True
    distance = signed_distance(mask)
    assert distance[4, 4] == pytest.approx(2.5, abs=0.2) and distance[4, 2] == pytest.approx(0.5) and distance[4, 1] == pytest.approx(-0.5)


def test_bending_follows_evidence_and_rests_without(toy_head: HeadModel) -> None:
    vertices, V = toy_head.template, toy_head.V
    normals = vertex_normals(vertices, toy_head.faces)
    nothing = SurfaceEvidence(torch.zeros(V), torch.zeros(V), normals)
    assert bend_to(nothing, toy_head.faces, vertices, torch.ones(V)).abs().max() < 1e-9
    everywhere = SurfaceEvidence(torch.full((V,), 0.004), torch.ones(V), normals)
    moved = bend_to(everywhere, toy_head.faces, vertices, torch.full((V,), 0.1))
    assert (moved * normals).sum(-1).median() == pytest.approx(0.004, rel=0.1)


def test_laplacian_vanishes_on_constants(toy_head: HeadModel) -> None:
    assert np.abs(laplacian(toy_head.faces.numpy(), toy_head.V) @ np.ones(toy_head.V)).max() < 1e-12


def test_the_skin_is_followed_over_time(toy_head: HeadModel) -> None:
    """Poses a little wrong; the correspondences point to where the vertices really are."""
    identity = toy_head.mean_identity()
    pose = performance(toy_head, 3, turn=0.3)
    truth = toy_head.vertices(identity, pose)
    shots = [_photograph(toy_head.template, v, toy_head.faces, CAMERAS) for v in truth]
    guess = replace(pose, joints=pose.joints + torch.tensor([0.0, 0.02, 0.0]) * (torch.arange(3) > 0)[:, None, None])
    ids = followed_vertices(toy_head, toy_head.template, most=150)
    assert len(ids) < 190 and len(torch.unique(ids)) == len(ids)
    ticks = []
    seen = correspond(toy_head, identity, guess, 0, CAMERAS, lambda t, c: shots[t][c], ids, 6.0, tick=lambda: ticks.append(1))
    assert len(ticks) == 3 and seen.weights.shape == (3, 4, len(ids))
    local = transform(CAMERAS.viewmats[None].expand(3, -1, 4, 4), truth[:, None, ids].expand(3, 4, -1, 3))
    error = (seen.rays - local[..., :2] / local[..., 2:]).norm(dim=-1) * 800  # pixels
    wrong = toy_head.vertices(identity, guess)[:, ids]
    off = transform(CAMERAS.viewmats[None].expand(3, -1, 4, 4), wrong[:, None].expand(3, 4, -1, 3))
    before = (off[..., :2] / off[..., 2:] - local[..., :2] / local[..., 2:]).norm(dim=-1) * 800
    good = seen.weights > 0.5
    assert good[1:].float().mean() > 0.15
    assert error[1:][good[1:]].median() < 0.35 * before[1:][good[1:]].median()


def test_neighbours_are_near_but_apart() -> None:
    found = neighbours(arc(5), torch.zeros(3))
    assert found[0][0] == 1 and 4 not in found[0]
    assert all(i not in others for i, others in enumerate(found))


def test_closest_points_is_exact() -> None:
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [9, 9, 9.0]])
    faces = np.array([[0, 1, 2]])
    points = np.array([[0.2, 0.2, 0.5], [2, 0, 0], [-1, -1, 0], [0.5, 0.5, 0.0], [1, 1, 0]])
    distance, face = closest_points(points, vertices, faces)
    assert distance.tolist() == pytest.approx([0.5, 1, 2**0.5, 0, 0.5**0.5])
    assert (face == 0).all()


def test_parts_follow_the_skin(toy_head: HeadModel) -> None:
    regions = toy_head.face_regions.clone()
    ball = toy_head.faces[:, 0] >= toy_head.V - 200  # pretend that the bottom is an eyeball, not connected by meaning
    regions[ball] = toy_head.region_names.index("eyeball_left")
    middle = toy_head.template[toy_head.faces].mean(1)
    regions[(middle[:, 2] > 0.05) & ~ball] = toy_head.region_names.index("eyelids")
    head = replace(toy_head, face_regions=regions)
    moved = carry_parts(head, head.template, torch.full((head.V, 3), 0.002))
    assert torch.allclose(moved, torch.full_like(moved, 0.002), atol=1e-6)


def test_teeth_go_behind_the_lips(toy_head: HeadModel) -> None:
    """A patch of the front, pretended to be teeth and standing 2 mm proud of a second skin, is moved back until it is hidden."""
    front = toy_head.template[:, 2] > 0.06
    V = toy_head.V
    both = torch.cat([toy_head.template, toy_head.template + torch.tensor([0.0, 0.0, 0.002])])
    patch = toy_head.faces[front[toy_head.faces].all(1)] + V
    regions = torch.cat([toy_head.face_regions, torch.full((len(patch),), toy_head.region_names.index("teeth_upper"), dtype=torch.uint8)])
    faces = torch.cat([toy_head.faces, patch])
    twice = {"template": both, "skin_weights": toy_head.skin_weights.repeat(2, 1), "identity_basis": toy_head.identity_basis.repeat(1, 2, 1),
             "expression_basis": toy_head.expression_basis.repeat(1, 2, 1), "uv_faces": faces % V}  # fmt: skip
    head = replace(toy_head, faces=faces, face_regions=regions, **twice)
    moved = tuck_teeth(head, both, torch.tensor([0.0, 0.0, -1.0]), arc(1))
    assert (moved[:V] == 0).all()
    assert 0.002 < float(-moved[V:][front, 2].median()) < 0.0045
    assert (tuck_teeth(toy_head, toy_head.template, torch.tensor([0.0, 0.0, -1.0]), arc(1)) == 0).all()


def test_evidence_needs_a_neighbour(toy_head: HeadModel) -> None:
    lonely = arc(2, 100, 100)
    with pytest.raises(ValueError, match="neighbour"):
        surface_evidence(toy_head.template, toy_head.faces, torch.arange(5), lonely, [np.zeros((100, 100), np.uint8)] * 2)


def test_offsets_survive_a_round_trip(toy_head: HeadModel) -> None:
    """What `refine_shape` does: a displacement in the world becomes an offset at rest that causes it."""
    pose = performance(toy_head, 5)[3]
    identity = Identity(torch.zeros(toy_head.I), None, 1.1)
    delta = 0.002 * torch.randn(toy_head.V, 3, generator=torch.Generator().manual_seed(0))
    moved = toy_head.vertices(displaced(toy_head, identity, pose, delta), pose)[0] - toy_head.vertices(identity, pose)[0]
    assert torch.allclose(moved, delta, atol=1e-5)
