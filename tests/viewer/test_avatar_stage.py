"""The stage of a real avatar: the toy person, posed, drawn, and set beside its pictures."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from avatars.errors import AvatarError
from avatars.gaussians import with_colors
from viewer.avatar_stage import AvatarStage, open_stage
from viewer.cameras import orbit
from viewer.session import Session
from viewer.stage import LAYERS, Controls, Request


@pytest.fixture
def stage(toy_stage) -> AvatarStage:
    return toy_stage


def front(stage: AvatarStage, **changes) -> Request:
    camera = orbit(stage.place, "Front", 4 / 3)
    z = camera.look_at - camera.position
    z /= np.linalg.norm(z)
    x = np.cross(z, camera.up) / np.linalg.norm(np.cross(z, camera.up))
    T = np.eye(4)
    T[:3, :3] = np.stack([x, np.cross(z, x), z])
    T[:3, 3] = -T[:3, :3] @ camera.position
    return replace(Request(96, 72, tuple(T.ravel()), camera.fov, background=(0, 0, 0)), **changes)


def middle(picture: np.ndarray) -> tuple[float, float]:
    """Where the figure is, as fractions of the picture."""
    mass = (picture.max(-1) > 10).astype(float)
    ys, xs = np.mgrid[: mass.shape[0], : mass.shape[1]]
    return (mass * (xs + 0.5)).sum() / mass.sum() / mass.shape[1], (mass * (ys + 0.5)).sum() / mass.sum() / mass.shape[0]


def test_facts(stage: AvatarStage) -> None:
    assert stage.timeline is not None and stage.timeline.length == 6 and stage.references == ("Truth",)
    assert stage.held_out == {"b", "TWO"} and stage.camera_names == ("a", "b", "c", "d")
    assert np.allclose(stage.place.forward, (0, 0, 1), atol=1e-5) and 0.05 < stage.place.radius < 0.3
    assert stage.trained_range().shape == (3, 2)
    assert stage.weights(2)[0] == pytest.approx(float(stage.avatar.timeline.codes.expression[2, 0]))
    between = (stage.weights(2)[0] + stage.weights(3)[0]) / 2
    assert stage.weights(2.5)[0] == pytest.approx(between, abs=1e-5)
    assert np.array_equal(stage.weights(3.9), stage.weights(3))  # the next frame belongs to another sequence


@pytest.mark.parametrize("layer", LAYERS)
def test_every_layer_shows_the_head_in_the_middle(stage: AvatarStage, layer: str) -> None:
    picture = stage.render(front(stage, layer=layer))
    assert picture.shape == (72, 96, 3) and picture.dtype == np.uint8
    x, y = middle(picture)
    assert abs(x - 0.5) < 0.06 and abs(y - 0.5) < 0.1
    assert picture[:3].max() == 0  # nothing is cut off


def test_controls_move_what_they_name(stage: AvatarStage) -> None:
    rest = stage.render(front(stage))
    blink = stage.render(front(stage, controls=Controls(held=(("jawOpen", 1.0),))))
    changed = np.abs(blink.astype(int) - rest).max(-1) > 8
    assert changed[36:].sum() > 10 * max(changed[:24].sum(), 1)  # the lower face
    pose = stage._ensemble.pose("", 0.0, Controls(head=(30.0, 0.0, 0.0), gaze=(10.0, 5.0)))
    names = stage.avatar.head.joint_names
    turned = pose.joints[0, names.index("neck")] + pose.joints[0, names.index("head")]
    assert float(turned[1]) == pytest.approx(math.radians(30), abs=1e-4)
    eye = pose.joints[0, names.index("eye_left")]
    assert float(eye[1]) > 0.1 and float(eye[0]) < -0.05
    assert not np.array_equal(stage.render(front(stage, time=2.0)), rest)
    still = stage._ensemble.pose("", 2.0, Controls(still=True))
    assert torch.equal(still.rotation, stage._ensemble.rest.rotation) and float(still.expression[0, 0]) == pytest.approx(
        stage.weights(2)[0]
    )
    neutral = stage._ensemble.pose("", 2.0, Controls(follow=False))
    assert float(neutral.expression.abs().max()) == 0


def through(camera: str, mode: str, **changes) -> Request:
    return Request(200, 140, (0.0,) * 16, 0.4, time=1.0, camera=camera, mode=mode, background=(30, 60, 90), **changes)


@pytest.mark.parametrize("camera", ["a", "d"])
def test_truth_and_render_lie_on_each_other(stage: AvatarStage, camera: str) -> None:
    truth, render = (stage.render(through(camera, m)).astype(int) for m in ("Reference", "Render"))
    assert np.array_equal(truth[70, 2], (30, 60, 90)) and np.array_equal(render[70, 2], (30, 60, 90))
    assert np.abs(truth - render).mean() < 6
    error = stage.render(through(camera, "Error", gain=1.0))
    assert error.max(-1).mean() < 12
    wipe = stage.render(through(camera, "Wipe", wipe=0.5)).astype(int)
    inside = slice(60, 140)  # where the capture's picture lies
    assert np.abs(wipe[:, 60:98] - truth[:, 60:98]).max() <= 1 and np.abs(wipe[:, 102:140] - render[:, 102:140]).mean() < 1
    both = stage.render(through(camera, "Side by side")).astype(int)
    assert np.abs(both[:, :100] - both[:, 100:]).mean() < 6 and both[:, inside].std() > 5


def test_psnr_falls_when_the_avatar_is_wrong(stage: AvatarStage) -> None:
    right = stage.measure(1, "c", "")
    wrong = AvatarStage(
        replace(stage.avatar, gaussians=with_colors(stage.avatar.gaussians, torch.zeros(len(stage.avatar.gaussians), 3))), stage.tracked
    )
    assert right.shape == (2, 3) and right[0, 0] > 20 and right[1, 0] > 0.8
    worse = wrong.measure(1, "c", "")
    assert worse[0, 0] < right[0, 0] - 8 and worse[1, 0] < right[1, 0]
    assert stage.measure(1, "nowhere", "") is None


def test_mesh_lines_lie_on_the_person(stage: AvatarStage) -> None:
    for mode in ("Render", "Reference"):
        plain, lined = (stage.render(through("b", mode, lines=lines)).astype(int) for lines in (False, True))
        changed = np.abs(plain - lined).max(-1) > 10
        figure = np.abs(plain - (30, 60, 90)).max(-1) > 12
        assert changed.sum() > 200 and changed[figure].sum() > 0.9 * changed.sum()


def test_a_rival_is_posed_alike_and_seen_from_anywhere(stage: AvatarStage) -> None:
    dark = replace(stage.avatar, gaussians=with_colors(stage.avatar.gaussians, torch.full((len(stage.avatar.gaussians), 3), 0.2)))
    both = AvatarStage(stage.avatar, stage.tracked, [dark], name="toy")
    assert both.avatars == ("toy", "avatar") and both.references == ("Truth", "toy", "avatar")
    request = front(both, time=2.0, mode="Wipe", against="avatar", background=(255, 255, 255), controls=Controls(held=(("jawOpen", 1.0),)))
    picture = both.render(request).astype(int)
    own = stage.render(replace(request, mode="Render")).astype(int)
    rival = AvatarStage(dark, None).render(replace(request, mode="Render")).astype(int)
    assert np.abs(picture[:, 50:] - own[:, 50:]).max() <= 1 and np.abs(picture[:, :46] - rival[:, :46]).max() <= 1
    assert np.abs(own - rival).max() > 50
    # Any two: the other one shown, the first beside it; through the truth's camera each is measured.
    swapped = both.render(replace(request, subject="avatar", against="toy")).astype(int)
    assert np.abs(swapped[:, 50:] - rival[:, 50:]).max() <= 1 and np.abs(swapped[:, :46] - own[:, :46]).max() <= 1
    assert both.measure(1, "c", "avatar")[0, 0] < both.measure(1, "c", "")[0, 0] - 3


def test_a_missing_picture_is_named(stage: AvatarStage) -> None:
    tracked = replace(stage.tracked, valid=np.zeros_like(stage.tracked.valid))
    with pytest.raises(AvatarError, match="no picture"):
        AvatarStage(stage.avatar, tracked).render(through("a", "Reference"))


def test_without_a_tracked_folder_there_is_no_truth(stage: AvatarStage) -> None:
    class Loop:
        def wake(self) -> None: ...

    alone = AvatarStage(stage.avatar, None)
    session = Session(alone, Loop(), None, lambda _: None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tracked"):
        session.set_mode("Reference")
    assert "Truth" in alone.figures


def test_a_folder_opens_with_its_capture(stage: AvatarStage, stage_folder, tmp_path) -> None:
    opened = open_stage(stage_folder)
    assert opened.name == "person" and opened.references == ("Truth",)
    assert np.abs(opened.render(front(stage)).astype(int) - stage.render(front(stage))).max() <= 1
    with pytest.raises(AvatarError):
        open_stage(tmp_path)


def test_takes_of_two_browsers_at_once_are_both_kept(stage: AvatarStage, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading
    import time

    import viewer.repertoire as room

    content = stage.save_take(stage.timeline.segments[0].name, {}, ".npz")
    fresh = AvatarStage(stage.avatar, None)
    frames = fresh.timeline.length
    quick = room.Track

    def slow(codes):
        time.sleep(0.05)
        return quick(codes)

    monkeypatch.setattr(room, "Track", slow)
    threads = [threading.Thread(target=fresh.add_take, args=("smile.npz", content)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    added = [s for s in fresh.timeline.segments if s.name.startswith("smile")]
    assert [s.name for s in added] == ["smile", "smile 2", "smile 3"] and added[0].start == frames
    assert fresh.timeline.length == len(fresh._repertoire.track.codes) == frames + 3 * len(added[0])
