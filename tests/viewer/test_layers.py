"""Diagnostic layers: ellipsoids, the baked texture, counts per triangle, and the capture's cameras in the scene."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from avatars.head import HeadModel
from avatars.render import render
from avatars.render.ellipsoids import FAINT, render_ellipsoids
from avatars.texture import bake_texture, render_textured
from avatars.types import Cameras, Gaussians
from viewer.cameras import overview, view_matrix
from viewer.frustums import camera_at, draw_frustums, frustums
from viewer.layers import BARE, density_colors, legend_of, splats_per_triangle
from viewer.stage import LAYERS, Place, Request


def one_camera(size: int = 200, focal: float = 400.0) -> Cameras:
    """Looks along +z from the origin."""
    K = torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]])
    return Cameras(("eye",), K[None], torch.eye(4)[None], size, size)


def gaussians(*rows: tuple[tuple[float, float, float], tuple[float, float, float], float, tuple[float, float, float]]) -> Gaussians:
    means, scales, opacities, colors = (torch.tensor(x) for x in zip(*rows, strict=True))
    quats = torch.tensor([[1.0, 0, 0, 0]]).repeat(len(rows), 1)
    return Gaussians(means, quats, scales, opacities, ((colors - 0.5) / 0.28209479)[:, None])


def test_an_ellipsoid_covers_what_its_axes_span() -> None:
    image = render_ellipsoids(gaussians(((0, 0, 2.0), (0.2, 0.1, 0.2), 0.9, (1.0, 0, 0))), one_camera(), (0, 0, 1.0))
    cover = image.alpha[0, ..., 0] > 0
    area = math.pi * (400 * 0.2 / 2) * (400 * 0.1 / 2)
    assert 0.9 * area < float(cover.sum()) < 1.1 * area
    rows, columns = cover.nonzero(as_tuple=True)
    assert (columns.max() - columns.min()) == pytest.approx(2 * 40, abs=8) and (rows.max() - rows.min()) == pytest.approx(2 * 20, abs=6)
    color = image.color[0]
    assert torch.equal(color[0, 0], torch.tensor([0, 0, 1.0])) and color[100, 100, 0] > 0.95 and color[100, 100, 1:].max() == 0
    assert color[100, 64, 0] < 0.8 * color[100, 100, 0]  # its rim is turned away from the light


def test_ellipsoids_hide_each_other_and_haze_is_left_out() -> None:
    near, far = ((0, 0, 1.0), (0.05, 0.05, 0.05), 0.9, (1.0, 0, 0)), ((0, 0, 2.0), (0.3, 0.3, 0.3), 0.9, (0, 1.0, 0))
    haze = ((0, 0, 0.5), (0.2, 0.2, 0.2), FAINT / 2, (0, 0, 1.0))
    color = render_ellipsoids(gaussians(far, haze, near), one_camera(), (0, 0, 0)).color[0]
    assert color[100, 100, 0] > 0.9 and color[100, 100, 1] == 0 and color[100, 140, 1] > 0.5 and color[..., 2].max() == 0
    nothing = render_ellipsoids(gaussians(haze), one_camera(), (0.5, 0.5, 0.5))
    assert float(nothing.alpha.max()) == 0 and torch.equal(nothing.color, torch.full_like(nothing.color, 0.5))
    with pytest.raises(ValueError, match="one camera"):
        render_ellipsoids(
            gaussians(near), Cameras(("a", "b"), *(x.repeat(2, 1, 1) for x in (one_camera().Ks, one_camera().viewmats)), 8, 8)
        )


def with_tiles(head: HeadModel) -> HeadModel:
    """The head with a tile of the texture for each triangle (the toy's own layout is noise)."""
    side = math.ceil(math.sqrt(head.F))
    corner = torch.tensor([[0.15, 0.15], [0.85, 0.15], [0.15, 0.85]])
    at = torch.stack([torch.arange(head.F) % side, torch.arange(head.F) // side], 1)
    return replace(head, uvs=((at[:, None] + corner) / side).reshape(-1, 2), uv_faces=torch.arange(3 * head.F).reshape(-1, 3))


def test_the_textured_mesh_looks_like_the_avatar(toy_stage) -> None:
    avatar = replace(toy_stage.avatar, head=with_tiles(toy_stage.avatar.head))
    texture = bake_texture(avatar, size=512)
    assert texture.shape == (512, 512, 3) and 0 <= float(texture.min()) and float(texture.max()) <= 1
    pose = avatar.head.neutral()
    camera = avatar.timeline.cameras[0]
    drawn = render_textured(avatar, avatar.vertices(pose)[0], texture, camera, (0, 0, 0))
    wanted = render(avatar.at(pose), camera, torch.zeros(3))
    both = (drawn.alpha[0, ..., 0] > 0) & (wanted.alpha[0, ..., 0] > 0.95)
    assert both.float().mean() > 0.05
    error = (drawn.color[0] - wanted.color[0])[both].abs().mean()
    spread = (wanted.color[0][both] - wanted.color[0][both].mean(0)).abs().mean()
    assert error < 0.35 * spread  # the pattern is there, not only its mean


def test_every_gaussian_is_counted_on_its_triangle(toy_stage) -> None:
    avatar = toy_stage.avatar
    counts = splats_per_triangle(avatar)
    assert int(counts.sum()) == len(avatar.gaussians) and len(counts) == avatar.head.F
    colors = density_colors(avatar)
    most, none = int(counts.argmax()), (counts == 0).nonzero()
    assert colors[most, 0] > colors[most, 2]  # red
    assert len(none) == 0 or torch.allclose(colors[none[0, 0]], torch.tensor(BARE))


def test_legends_say_what_colours_mean(toy_stage) -> None:
    base = Request(64, 64, (0.0,) * 16, 0.4)
    for layer in LAYERS:
        legend = legend_of(Request(64, 64, (0.0,) * 16, 0.4, layer=layer), toy_stage.avatar, toy_stage.place)
        assert (legend is not None) == (layer in ("Depth", "Normals", "Coverage", "Splats per triangle")), layer
    assert legend_of(base, toy_stage.avatar, toy_stage.place) is None
    assert legend_of(Request(64, 64, (0.0,) * 16, 0.4, mode="Error", gain=5.0), toy_stage.avatar, toy_stage.place).high == "51 of 255"


def from_above(stage) -> tuple[Request, Cameras]:
    """The overview of the toy's cameras."""
    centres = stage.avatar.timeline.cameras.centers.double().numpy()
    view = overview(stage.place, centres, 1.5)
    z = (view.look_at - view.position) / np.linalg.norm(view.look_at - view.position)
    x = np.cross(z, view.up) / np.linalg.norm(np.cross(z, view.up))
    T = np.eye(4)
    T[:3, :3] = np.stack([x, np.cross(z, x), z])
    T[:3, 3] = -T[:3, :3] @ view.position
    request = Request(480, 320, tuple(T.ravel()), view.fov, frustums=True, background=(0, 0, 0))
    focal = 160 / math.tan(view.fov / 2)
    eye = Cameras(
        ("eye",), torch.tensor([[[focal, 0, 240], [0, focal, 160], [0, 0, 1]]]), torch.tensor(T, dtype=torch.float32)[None], 480, 320
    )
    return request, eye


def test_the_cameras_of_the_capture_are_drawn_where_they_stand(toy_stage) -> None:
    request, eye = from_above(toy_stage)
    found = frustums(toy_stage.avatar.timeline.cameras, np.asarray(toy_stage.place.centre), eye)
    assert sorted(f.name for f in found) == ["a", "b", "c", "d"] and [f.depth for f in found] == sorted(
        (f.depth for f in found), reverse=True
    )
    for frustum in found:
        assert 0 <= frustum.apex[0] <= 480 and 0 <= frustum.apex[1] <= 320, "the overview shows every camera"
    plain, shown = (toy_stage.render(Request(**{**request.__dict__, "frustums": f})).astype(int) for f in (False, True))
    changed = np.abs(plain - shown).max(-1) > 20
    for frustum in found:
        x, y = (int(v) for v in frustum.corners.mean(0))
        assert changed[max(y - 12, 0) : y + 12, max(x - 12, 0) : x + 12].any()
    nearest = found[-1]
    assert toy_stage.camera_at(request, *nearest.corners.mean(0)) == nearest.name and toy_stage.camera_at(request, 0, 0) is None
    pointed = toy_stage.render(Request(**{**request.__dict__, "pointed": nearest.name})).astype(int)
    assert (np.abs(pointed - shown).max(-1) > 20).sum() > 50  # brighter, and its name above it
    # Through a camera of the capture there is no scene to stand in.
    through = Request(**{**request.__dict__, "camera": "a"})
    assert toy_stage.camera_at(through, 240, 160) is None


def test_cameras_behind_the_head_are_hidden_by_it(toy_stage) -> None:
    _, eye = from_above(toy_stage)
    found = frustums(toy_stage.avatar.timeline.cameras, np.asarray(toy_stage.place.centre), eye)
    picture, covered = np.zeros((320, 480, 3), np.float32), np.ones((320, 480), np.float32)
    hidden = draw_frustums(picture, covered, 0.0, found, lambda _: None, frozenset(), None)
    before = draw_frustums(picture, covered, 1e9, found, lambda _: None, frozenset(), None)
    assert hidden.max() == 0 and (before.max(-1) > 0.3).sum() > 100
    unseen = draw_frustums(picture, covered, 1e9, found, lambda _: None, frozenset({"a", "b", "c", "d"}), None)
    lit = unseen.max(-1) > 0.3
    assert (unseen[lit][:, 0] > unseen[lit][:, 2] + 0.1).all()  # held out: amber
    # A camera at the very place of the eye, or behind it, is left out.
    own = toy_stage.avatar.timeline.cameras[0]
    assert "a" not in [f.name for f in frustums(toy_stage.avatar.timeline.cameras, np.asarray(toy_stage.place.centre), own)]
    assert camera_at([], 0, 0) is None


def test_small_pictures_of_cameras(toy_stage) -> None:
    picture = toy_stage.thumbnail("b", 2)
    assert picture is not None and picture.shape[0] == 144 and picture.dtype == np.uint8 and picture.std() > 5
    assert toy_stage.thumbnail("b", 10**6) is None and toy_stage.thumbnail("nobody", 0) is None


def test_the_overview_sees_everything_from_outside() -> None:
    place = Place((0.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, 1.0, 0.0), 0.16)
    rng = np.random.default_rng(0)
    for aspect in (0.5, 1.0, 2.0):
        directions = rng.normal(size=(12, 3)) * [1, 0.4, 1]
        centres = directions / np.linalg.norm(directions, axis=1, keepdims=True)
        view = overview(place, centres, aspect)
        z = (view.look_at - view.position) / np.linalg.norm(view.look_at - view.position)
        x = np.cross(z, view.up) / np.linalg.norm(np.cross(z, view.up))
        local = (np.concatenate([centres, np.zeros((1, 3))]) - view.position) @ np.stack([x, np.cross(z, x), z]).T
        slope = math.tan(view.fov / 2)
        assert (
            (local[:, 2] > 0).all()
            and (np.abs(local[:, 1] / local[:, 2]) < slope).all()
            and (np.abs(local[:, 0] / local[:, 2]) < slope * aspect).all()
        )
    assert np.allclose(view_matrix(np.array([1.0, 0, 0, 0]), np.zeros(3)), np.eye(4))
