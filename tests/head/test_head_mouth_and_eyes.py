"""What would look wrong at once: eyes that do not close, teeth in front of lips, holes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from avatars.head import ARKIT, HeadModel, load_head
from avatars.head.sheet import SHOTS, portrait, random_identity, weights_for
from avatars.transforms import transform
from cuda_ext.ops import rasterize_mesh

PEOPLE = (0, 1, 2, 3)
TEETH = ("teeth_upper", "teeth_lower", "gums_upper", "gums_lower")


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head()


def seen(head: HeadModel, shaped, weights: torch.Tensor, shot: str, yaw: float, size: int = 160) -> np.ndarray:
    """The region name at every pixel, '' where there is nothing."""
    vertices = head.vertices(shaped, replace(head.neutral(), expression=weights))
    camera = portrait(head, shaped, SHOTS[shot], yaw, 0, size)
    ids, _, _ = rasterize_mesh(transform(camera.viewmats, vertices), head.faces, camera.Ks, size, size)
    names = np.array([*head.region_names, ""])
    return names[np.where(ids[0] >= 0, head.face_regions.numpy()[ids[0].clamp_min(0)], len(names) - 1)]


@pytest.mark.parametrize("person", PEOPLE)
def test_blink_closes_the_eyes(head: HeadModel, person: int) -> None:
    """No pixel of an eyeball is left, on anyone, from the front and from the sides; at rest there are many."""
    shaped = head.shape(random_identity(head, person, 0.8))
    balls = [n for n in head.region_names if n.startswith(("eyeball", "iris", "pupil"))]
    for yaw in (0, 30):
        at_rest = np.isin(seen(head, shaped, head.neutral().expression, "eyes", yaw), balls).sum()
        closed = np.isin(seen(head, shaped, head.expression(eyeBlinkLeft=1, eyeBlinkRight=1), "eyes", yaw), balls).sum()
        assert at_rest > 200 and closed <= 2, (yaw, at_rest, closed)


@pytest.mark.parametrize("person", PEOPLE)
def test_blink_brings_the_margins_together(head: HeadModel, person: int) -> None:
    """In the middle of the eye the upper margin ends on the lower one, whoever it is."""
    closures = head.closures
    assert closures is not None
    shaped = head.shape(random_identity(head, person, 0.8))
    closed = head.vertices(shaped, replace(head.neutral(), expression=head.expression(eyeBlinkLeft=1, eyeBlinkRight=1)))[0]
    on_margin = (closures.moving == closures.vertices[:, None]).any(1) & (closures.moving_weights.amax(1) > 0.999)
    on_margin &= closures.shares > 0.95
    rows = on_margin.nonzero()[:, 0]
    assert len(rows) > 10
    resting = (closed[closures.resting[rows]] * closures.resting_weights[rows, :, None]).sum(1)
    assert (closed[closures.vertices[rows]] - resting).norm(dim=1).max() < 0.0012


@pytest.mark.parametrize("person", PEOPLE)
def test_no_teeth_show_at_rest(head: HeadModel, person: int) -> None:
    shaped = head.shape(random_identity(head, person, 0.5))
    picture = seen(head, shaped, head.neutral().expression, "mouth", 0)
    lips = (picture == "lips").sum()
    assert lips > 500 and np.isin(picture, TEETH).sum() < 0.03 * lips


@pytest.mark.parametrize("name", ARKIT)
def test_teeth_stay_behind_the_skin(head: HeadModel, name: str) -> None:
    """Whatever the face does, a tooth is seen only inside of the outline of the lips, never through cheek, lip or chin."""
    shaped = head.shape(head.mean_identity())
    for yaw in (0, 60):
        picture = seen(head, shaped, weights_for(head, name), "mouth", yaw, 120)
        teeth = np.isin(picture, TEETH)
        if not teeth.any():
            continue
        # Every row of teeth pixels lies between mouth parts: grow the mouth's own pixels by one and look what is left out.
        mouth = np.isin(picture, (*TEETH, "lips", "mouth_bag", "tongue"))
        skin = ~mouth & (picture != "")
        touching = sum(np.roll(skin, shift, axis) & teeth for shift, axis in ((1, 0), (-1, 0), (1, 1), (-1, 1)))
        assert touching.sum() <= 4, (yaw, int(touching.sum()))


def test_lower_teeth_follow_the_jaw_on_an_arc(head: HeadModel) -> None:
    """Opening moves the lower row rigidly, to within a millimetre, and leaves the upper one where it is."""
    opened = head.vertices(head.mean_identity(), replace(head.neutral(), expression=head.expression(jawOpen=1)))[0]
    lower, upper = head.region_vertices("teeth_lower"), head.region_vertices("teeth_upper")
    assert (opened[upper] - head.template[upper]).norm(dim=1).max() < 2e-4
    before, after = torch.cdist(head.template[lower], head.template[lower]), torch.cdist(opened[lower], opened[lower])
    assert (before - after).abs().max() < 0.001
    assert (head.template[lower] - opened[lower])[:, 1].max() > 0.02


def test_nothing_is_inside_out(head: HeadModel) -> None:
    """Seen from the front and the sides no triangle shows its back, at rest and with the mouth open, but for slivers."""
    shaped = head.shape(head.mean_identity())
    for weights in (head.neutral().expression, head.expression(jawOpen=1)):
        vertices = head.vertices(shaped, replace(head.neutral(), expression=weights))
        for yaw in (0, 50, -50, 180):
            camera = portrait(head, shaped, SHOTS["face"], yaw, 0, 160)
            points = transform(camera.viewmats, vertices)
            ids = rasterize_mesh(points, head.faces, camera.Ks, 160, 160)[0][0]
            ids = ids[ids >= 0].long()
            ids = ids[head.face_regions[ids] != head.region_names.index("torso")]  # open where the arms are cut off
            a, b, c = points[0][head.faces[ids]].unbind(1)
            away = (torch.linalg.cross(b - a, c - a) * a).sum(1) > 0
            assert away.float().mean() < 0.004, (yaw, float(away.float().mean()))
