"""Playing and filming an avatar: poses, cameras and paths."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from avatars.avatar import Avatar
from avatars.camera_path import frontal_camera, looped, orbit, read_path, still, subject_of, turntable, zoomed
from avatars.drive import retarget
from avatars.errors import UserError
from avatars.playback import draw, play, rest_pose, tracked_codes, tracked_poses
from avatars.transforms import project_points
from avatars.types import Cameras


@pytest.fixture
def cameras(toy_avatar: Avatar) -> Cameras:
    return toy_avatar.timeline.cameras


def test_a_replay_of_the_codes_is_the_tracked_motion(toy_avatar: Avatar) -> None:
    codes = tracked_codes(toy_avatar, "ONE")
    assert codes.fps == 24 and len(codes) == 4
    poses = retarget(codes, toy_avatar.head, rest_pose(toy_avatar), "absolute")
    for name in ("expression", "joints", "rotation", "translation"):
        torch.testing.assert_close(getattr(poses, name), getattr(tracked_poses(toy_avatar, "ONE"), name))


def test_the_rest_pose_is_neutral(toy_avatar: Avatar) -> None:
    rest = rest_pose(toy_avatar)
    assert len(rest) == 1 and not rest.expression.any()


def test_play_gives_every_frame_in_order(toy_avatar: Avatar, cameras: Cameras) -> None:
    poses, seen = tracked_poses(toy_avatar, "ONE"), []
    pictures = list(
        play(toy_avatar, poses, cameras[0], (0, 0, 0), "reference", lambda what, done, total, figures=None: seen.append((done, total)))
    )
    assert len(pictures) == 4 and pictures[0].shape == (56, 48, 3) and pictures[0].dtype == np.uint8
    assert seen == [(i + 1, 4) for i in range(4)] and pictures[0].max() > 50
    assert (pictures[0] != pictures[2]).any(), "the mouth moves"
    with pytest.raises(ValueError, match="4 poses need as many cameras or one, got 3"):
        next(play(toy_avatar, poses, cameras[[0, 1, 2]]))


def test_the_background_is_what_was_asked_for_also_where_the_camera_has_colours(toy_avatar: Avatar, cameras: Cameras) -> None:
    for index in (0, 1, 3):  # identity, darker, unknown to the avatar
        image = draw(toy_avatar, rest_pose(toy_avatar), cameras[index], (1.0, 0.5, 0.0), "reference")
        torch.testing.assert_close(image.color[0, 0, 0], torch.tensor([1.0, 0.5, 0.0]))
    plain = draw(toy_avatar, rest_pose(toy_avatar), cameras[1], (0, 0, 0), "reference")
    from avatars.render import render

    raw = render(toy_avatar.at(rest_pose(toy_avatar)), cameras[1], torch.zeros(3), "reference")
    torch.testing.assert_close(plain.color, (0.8 * raw.color).clamp(0, 1))


def test_the_frontal_camera(toy_avatar: Avatar, cameras: Cameras) -> None:
    assert cameras.names[frontal_camera(cameras, subject_of(rest_pose(toy_avatar)))] == "b"


def test_turning_cameras_keep_their_distance_and_their_aim(toy_avatar: Avatar, cameras: Cameras) -> None:
    subject = subject_of(rest_pose(toy_avatar))
    for path in (turntable(cameras[1], subject, 8), orbit(cameras[1], subject, 8, yaw=30, pitch=10)):
        distance = (path.centers - subject.center).norm(dim=-1)
        torch.testing.assert_close(distance, distance[:1].expand(8), atol=1e-5, rtol=0)
        pixels, depth = project_points(subject.center[None], path.viewmats, path.Ks)
        torch.testing.assert_close(pixels, pixels[:1].expand_as(pixels), atol=2e-2, rtol=0)
        torch.testing.assert_close(path.viewmats[0], cameras.viewmats[1], atol=1e-6, rtol=0)
    round_ = turntable(cameras[1], subject, 4)
    torch.testing.assert_close(round_.centers[2, [0, 2]], -cameras.centers[1, [0, 2]], atol=1e-5, rtol=0)
    assert round_.centers[1, 0] > 0.5, "first to the subject's left"
    sway = orbit(cameras[1], subject, 40, yaw=30, pitch=10)
    assert sway.centers[:, 1].max() > cameras.centers[1, 1] + 0.05 and sway.centers[:, 1].min() > cameras.centers[1, 1] - 1e-4
    assert len(still(cameras[2], 5)) == 5 and still(cameras[2], 5).names == ("c",) * 5


def test_zoom_and_size(cameras: Cameras) -> None:
    middle = torch.tensor([[0.0, 0.02, 0.0]])
    before, _ = project_points(middle, cameras.viewmats, cameras.Ks)
    same = zoomed(cameras, 1.0, 96, 112)
    after, _ = project_points(middle, same.viewmats, same.Ks)
    torch.testing.assert_close(after, 2 * before)
    wide = zoomed(cameras, 1.0, 112, 56)
    after, _ = project_points(middle, wide.viewmats, wide.Ks)
    torch.testing.assert_close(after[..., 1], before[..., 1])
    torch.testing.assert_close(after[..., 0] - 56, before[..., 0] - 24)
    assert (zoomed(cameras, 1.0, 0, 112).width, zoomed(cameras, 1.0, 24, 0).height) == (96, 28)
    closer, _ = project_points(middle, cameras.viewmats, zoomed(cameras, 2.0).Ks)
    torch.testing.assert_close(closer - torch.tensor([24.0, 28.0]), 2 * (before - torch.tensor([24.0, 28.0])))


def test_paths_from_json(toy_avatar: Avatar, tmp_path: Path) -> None:
    subject = subject_of(rest_pose(toy_avatar))
    ours = {
        "fps": 12,
        "width": 40,
        "height": 50,
        "frames": [{"position": [0, 0, 1], "fov": 90}, {"position": [1, 0, 0], "look_at": [0, 0.1, 0]}],
    }
    (tmp_path / "ours.json").write_text(json.dumps(ours))
    path, fps = read_path(tmp_path / "ours.json", subject)
    assert fps == 12 and len(path) == 2 and (path.width, path.height) == (40, 50)
    torch.testing.assert_close(path.centers[0], torch.tensor([0.0, 0.0, 1.0]))
    pixels, depth = project_points(torch.tensor([[0.0, 1.0, 0.0]]), path.viewmats[:1], path.Ks[:1])
    assert pixels[0, 0].tolist() == pytest.approx([20, 0], abs=1e-4), "45 degrees up is the upper edge of a view of 90"
    matrices = {"width": 40, "height": 50, "frames": [{"K": path.Ks[1].tolist(), "viewmat": path.viewmats[1].tolist()}]}
    (tmp_path / "matrices.json").write_text(json.dumps(matrices))
    torch.testing.assert_close(read_path(tmp_path / "matrices.json", subject)[0].viewmats[0], path.viewmats[1])
    # Nerfstudio: OpenGL camera → world; the identity looks along -z.
    c2w = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 1]
    theirs = {"render_width": 40, "render_height": 50, "fps": 24, "camera_path": [{"camera_to_world": c2w, "fov": 90}]}
    (tmp_path / "theirs.json").write_text(json.dumps(theirs))
    torch.testing.assert_close(read_path(tmp_path / "theirs.json", subject)[0].viewmats[0], path.viewmats[0])
    assert math.isclose(len(looped(path, 5)), 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "has no frames"),
        ('{"frames": [{"position": [0,0,1]}]}', "width and height"),
        ('{"width": 40, "height": 40, "frames": [{"position": [0,0]}]}', "frame 0: .*three numbers"),
        ('{"width": 40, "height": 40, "frames": [{"look_at": [0,0,0]}]}', "frame 0: 'position' is missing"),
        ('{"width": 40, "height": 40, "frames": [{"K": [1,2], "viewmat": 3}]}', "frame 0"),
        ('{"width": 40, "height": 40, "frames": [{"position": [0,0,1], "fov": 0}]}', "frame 0: a field of view of 0 degrees"),
        ('{"width": -5, "height": 40, "frames": [{"position": [0,0,1]}]}', "-5×40 at 24 frames a second: give 16 to"),
        ('{"width": 40, "height": 40, "fps": 0, "frames": [{"position": [0,0,1]}]}', "at 0 frames a second"),
        ('{"width": 40, "height": 40, "fps": "x", "frames": [{"position": [0,0,1]}]}', "fps as a number"),
    ],
)
def test_bad_paths(toy_avatar: Avatar, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "path.json").write_text(text)
    with pytest.raises(UserError, match=message):
        read_path(tmp_path / "path.json", subject_of(rest_pose(toy_avatar)))
    with pytest.raises(UserError, match="does not exist"):
        read_path(tmp_path / "none.json", subject_of(rest_pose(toy_avatar)))
