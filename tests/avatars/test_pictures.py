"""The picture cache, its schedule and its prefetching; losses and camera colours on pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from avatars import losses
from avatars.colors import CameraColors
from avatars.errors import AvatarError
from avatars.gaussians import face_frames, sample_surface
from avatars.head import HeadModel
from avatars.pictures import PictureCache, batches, load_batch, schedule
from avatars.sequence import TrackedSequence
from avatars.shell import View, carve, posed_points, sample_shell, seed_colors
from avatars.targets import Target
from avatars.types import Cameras
from cuda_ext import ops


def test_cache_stays_within_its_bound(tiny_tracked: TrackedSequence) -> None:
    one = 4 * tiny_tracked.mask(0, 0).nbytes
    cache = PictureCache(tiny_tracked, 3.5 * one / 1e6)
    for t in range(tiny_tracked.frame_count):
        for c in range(4):
            picture, solid = cache.get(t, c), tiny_tracked.mask(t, c) == 255
            assert np.array_equal(picture[solid, :3], tiny_tracked.image(t, c)[solid])
            assert np.array_equal(picture[..., 3], tiny_tracked.mask(t, c)) and (picture[picture[..., 3] == 0] == 0).all()
    assert cache.size <= 3.5 * one and len(cache.kept) == 3


def test_schedule_depends_on_seed_and_step_alone_and_visits_all() -> None:
    frames, usable = np.array([3, 4, 8, 9]), np.ones((10, 5), bool)
    usable[8, 2:] = False
    first = [schedule(frames, usable, 3, 7, s) for s in range(8)]
    assert first == [schedule(frames, usable, 3, 7, s) for s in range(8)]
    assert first != [schedule(frames, usable, 3, 8, s) for s in range(8)]
    assert sorted(t for t, _ in first[:4]) == sorted(t for t, _ in first[4:]) == [3, 4, 8, 9]
    for t, cameras in first:
        assert len(cameras) == (2 if t == 8 else 3) and all(usable[t, c] for c in cameras)


def test_batch_is_cut_to_the_subject(tiny_tracked: TrackedSequence) -> None:
    cache = PictureCache(tiny_tracked, 10)
    batch = load_batch(cache, 1, (0, 2), margin=1)
    c = batch.cameras
    assert batch.images.shape == (2, c.height, c.width, 4)
    assert c.width < tiny_tracked.cameras.width
    for i, camera in enumerate((0, 2)):
        x, y = (int(tiny_tracked.cameras.Ks[camera, k, 2] - c.Ks[i, k, 2]) for k in (0, 1))
        whole = tiny_tracked.mask(1, camera)
        assert np.array_equal(batch.images[i, ..., 3].numpy(), whole[y : y + c.height, x : x + c.width])
        assert (whole > 25).sum() == (batch.images[i, ..., 3] > 25).sum()  # nothing of the subject is lost


def test_prefetching_keeps_the_order_and_ends(tiny_tracked: TrackedSequence) -> None:
    cache, frames, usable = PictureCache(tiny_tracked, 10), np.arange(4), tiny_tracked.valid
    source = batches(cache, frames, usable, 2, 0, 5)
    got = [next(source) for _ in range(6)]
    source.close()
    assert [(b.t, b.camera_ids) for b in got] == [schedule(frames, usable, 2, 0, s) for s in range(5, 11)]


def test_missing_picture_reaches_the_caller(tiny_tracked: TrackedSequence) -> None:
    cache = PictureCache(tiny_tracked, 10)
    cache.get = lambda t, c: (_ for _ in ()).throw(AvatarError("gone"))  # type: ignore[method-assign]
    source = batches(cache, np.arange(4), tiny_tracked.valid, 2, 0, 0)
    with pytest.raises(AvatarError, match="gone"):
        next(source)


def test_composition_mixes_and_corrects() -> None:
    images = torch.tensor([[[[255, 255, 255, 255], [0, 0, 0, 0]], [[100, 50, 20, 128], [51, 102, 204, 255]]]], dtype=torch.uint8)
    background = torch.tensor([[0.2, 0.4, 0.6]])
    plain = torch.eye(3, 4)[None]
    target, mask, _ = ops.compose(images, plain, background)
    assert torch.allclose(target[0, 0, 1], background[0], atol=1e-6) and torch.allclose(target[0, 0, 0], torch.ones(3), atol=1e-6)
    half = torch.tensor([100, 50, 20]) / 255 + (1 - 128 / 255) * background[0]
    assert torch.allclose(target[0, 1, 0], half, atol=1e-6) and float(mask[0, 1, 0]) == pytest.approx(128 / 255)
    brighter = torch.cat([1.1 * torch.eye(3), torch.full((3, 1), 0.02)], 1)[None]
    target, _, _ = ops.compose(images, brighter, background)
    assert torch.allclose(target[0, 1, 1], 1.1 * torch.tensor([0.2, 0.4, 0.8]) + 0.02, atol=1e-5)
    assert torch.allclose(target[0, 0, 1], background[0], atol=1e-6)  # the background passed through no sensor


def test_pictures_that_agree_cost_nothing_and_mattes_that_do_not_their_weight() -> None:
    picture, mask = torch.rand(2, 14, 15, 3), torch.rand(2, 14, 15).round()
    assert float(losses.pictures(picture, mask[..., None], picture, mask, None, 0.2, 0.5)) == pytest.approx(0, abs=1e-5)
    assert float(losses.pictures(picture, 1 - mask[..., None], picture, mask, None, 0.2, 0.5)) == pytest.approx(0.5, abs=1e-5)
    black = torch.zeros_like(picture)
    assert float(losses.pictures(black, mask[..., None], black + 0.5, mask, 2 + 0 * mask, 0.0, 0.5)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("halved", [False, True])
def test_recorded_colours_are_those_that_targets_are_made_of(tiny_cameras: Cameras, halved: bool) -> None:
    images = torch.randint(0, 256, (4, 9, 11, 4), dtype=torch.uint8)
    black = torch.zeros(4, 3)
    pictures, mattes, _ = ops.compose(images, torch.eye(3, 4).expand(4, 3, 4), black, halve=halved)
    target = Target(tiny_cameras, [0, 1, 2, 3], images, halved, black, pictures, mattes, mattes)
    pixels = torch.arange(2, mattes.numel(), 3)
    assert torch.allclose(target.recorded(pixels), pictures.reshape(-1, 3)[pixels], atol=1e-6)


def weights_of(attention: losses.Attention, vertices: Tensor, cameras: Cameras, seen: Cameras) -> Tensor:
    """Windows found by `cameras`, in the pictures of `seen`."""
    images, C = torch.zeros(len(seen), seen.height, seen.width, 4, dtype=torch.uint8), len(seen)
    weights = ops.compose(images, torch.zeros(C, 3, 4), torch.zeros(C, 3), windows=attention.windows(vertices, cameras), Ks=seen.Ks)[2]
    assert weights is not None
    return weights


def test_attention_is_on_the_face_for_cameras_that_see_it(tiny_head: HeadModel, tiny_cameras: Cameras) -> None:
    cameras = tiny_cameras
    attention = losses.attention_of(tiny_head, 2.0, 3.0)
    weights = weights_of(attention, tiny_head.template, cameras, cameras)
    assert weights.shape == (4, cameras.height, cameras.width)
    assert weights.min() >= 1 and weights[1].max() > 3.5 and weights[1, 0, 0] < 1.01
    turned = weights_of(attention, tiny_head.template * torch.tensor([-1, 1, -1.0]), cameras, cameras)
    assert torch.allclose(turned, torch.ones_like(turned))


def test_attention_follows_the_cut_and_the_size(tiny_head: HeadModel, tiny_cameras: Cameras) -> None:
    attention = losses.attention_of(tiny_head, 2.0, 3.0)
    Ks = tiny_cameras.Ks.clone()
    Ks[:, 0, 2] -= 8
    Ks[:, 1, 2] -= torch.tensor([4.0, 0, 6, 2])
    cut = replace(tiny_cameras, Ks=Ks, width=tiny_cameras.width - 8, height=tiny_cameras.height - 6)
    whole = weights_of(attention, tiny_head.template, tiny_cameras, tiny_cameras)
    part = weights_of(attention, tiny_head.template, tiny_cameras, cut)
    for c, top in enumerate((4, 0, 6, 2)):
        assert torch.allclose(part[c], whole[c, top : top + cut.height, 8:], atol=1e-4)
    tall = replace(cut, Ks=Ks * torch.tensor([0.5, 2.0, 1.0])[:, None], width=cut.width // 2, height=2 * cut.height)
    assert torch.allclose(
        weights_of(attention, tiny_head.template, tiny_cameras, tall), weights_of(attention, tiny_head.template, tall, tall), atol=1e-4
    )
    assert weights_of(losses.attention_of(tiny_head, 0.0, 0.0), tiny_head.template, cut, cut).eq(1).all()


def test_camera_colors_are_recovered_up_to_the_gauge() -> None:
    g = torch.Generator().manual_seed(0)
    gains = torch.tensor([1.04, 1.0, 0.96])
    colors = CameraColors(4, ridge=1e-4)  # the fourth camera is never observed
    for c in range(3):
        x = torch.rand(4000, 3, generator=g)
        colors.observe(c, x, gains[c] * x + 0.01 * (c - 1))
    colors.solve()
    for c in range(3):
        assert torch.allclose(colors.affine[c, :, :3], gains[c] * torch.eye(3), atol=5e-3)
        assert torch.allclose(colors.affine[c, :, 3], torch.full((3,), 0.01 * (c - 1)), atol=3e-3)
    assert torch.allclose(colors.affine[:3].mean(0), torch.eye(3, 4), atol=1e-5)
    assert torch.equal(colors.affine[3], torch.eye(3, 4))
    x = torch.rand(2, 30, 3, generator=g)
    recorded = torch.stack([x[0] * gains[0] - 0.01, x[1] * gains[2] + 0.01])
    inverse = colors.inverse[[0, 2]]
    assert torch.allclose(recorded @ inverse[:, :, :3].transpose(1, 2) + inverse[:, None, :, 3], x, atol=0.01)


def _view(tracked: TrackedSequence, head: HeadModel, t: int) -> View:
    vertices = head.vertices(tracked.identity, tracked.codes[t])[0]
    pictures = np.stack([tracked.image(t, c) for c in range(4)]), np.stack([tracked.mask(t, c) for c in range(4)])
    return View(vertices, face_frames(vertices, head.faces), tracked.cameras, *pictures)


def test_shell_fills_what_the_masks_show_and_no_more(tiny_tracked: TrackedSequence, tiny_head: HeadModel) -> None:
    neutral = tiny_head.vertices(tiny_tracked.identity, tiny_head.neutral())[0]
    frames, views = face_frames(neutral, tiny_head.faces), [_view(tiny_tracked, tiny_head, t) for t in (0, 2)]
    shell = sample_shell(tiny_head, neutral, frames, views, 200, torch.Generator().manual_seed(0))
    assert len(shell) <= 200
    for view in views:
        for p, c in ((posed_points(shell, view.frames), c) for c in range(4)):
            from avatars.transforms import project_points

            pixels, _ = project_points(p, view.cameras.viewmats[c], view.cameras.Ks[c])
            x, y = pixels.floor().long().unbind(-1)
            ok = (x >= 0) & (y >= 0) & (x < view.cameras.width) & (y < view.cameras.height)
            assert (view.masks[c][y[ok].numpy(), x[ok].numpy()] > 127).all()


def test_carving_removes_what_lies_outside_of_the_masks(tiny_tracked: TrackedSequence, tiny_head: HeadModel) -> None:
    neutral = tiny_head.vertices(tiny_tracked.identity, tiny_head.neutral())[0]
    surface = sample_surface(tiny_head, neutral, 500, torch.Generator().manual_seed(0), {})
    views = [_view(tiny_tracked, tiny_head, t) for t in (0, 2)]
    assert len(carve(surface, tiny_head, views)) > 0.7 * len(surface)
    surface.means[200:260, 1] += 1  # above their triangles
    kept = carve(surface, tiny_head, views)
    assert len(kept) < len(carve(replace(surface, means=surface.means * torch.tensor([1, 0, 1.0])), tiny_head, views)) - 5
    assert carve(surface, tiny_head, []) is surface


def test_seeded_colors_are_those_of_the_pictures(tiny_tracked: TrackedSequence, tiny_head: HeadModel) -> None:
    view = _view(tiny_tracked, tiny_head, 0)
    neutral = tiny_head.vertices(tiny_tracked.identity, tiny_head.neutral())[0]
    surface = sample_surface(tiny_head, neutral, 500, torch.Generator().manual_seed(0), {})
    colors = seed_colors(surface, tiny_head, [view])
    where = neutral[tiny_head.faces[surface.face_ids]].mean(1)
    truth = 0.5 + 0.4 * torch.sin(where * torch.tensor([60.0, 45.0, 80.0]))
    facing = view.frames.normals[surface.face_ids, 2] > 0.7
    assert (colors - truth)[facing].abs().mean() < 0.12
    assert colors.isfinite().all()
    assert torch.allclose(seed_colors(surface, tiny_head, [], 0.4), torch.tensor(0.4))
