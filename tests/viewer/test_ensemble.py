"""Several avatars on one stage, performances lent from one head to another, codes in files, exports."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic import BallStage
from test_parts import make_session

from avatars.errors import UserError
from avatars.types import Identity
from viewer.avatar_stage import AvatarStage, open_stage
from viewer.codes_file import FORMATS, read_codes, write_codes
from viewer.ensemble import MOST
from viewer.gaze import Gaze
from viewer.posing import for_head
from viewer.shelf import nearby
from viewer.stage import Controls, Request


def somebody_else(avatar):
    """Another identity with another recording: other sequences, so that it is not the same capture."""
    line = avatar.timeline
    from avatars.sequence import Segment

    codes = replace(line.codes, expression=line.codes.expression.flip(0) * 0.5, translation=line.codes.translation + 3.0)
    other = replace(line, codes=codes, segments=(Segment("TALK", 0, line.frame_count),))
    return replace(avatar, identity=Identity(avatar.identity.coefficients + 0.8), timeline=other)


def test_an_avatar_of_somebody_else_does_what_the_first_one_does_in_its_place(toy_stage) -> None:
    stage = AvatarStage(toy_stage.avatar, None, [somebody_else(toy_stage.avatar)], name="toy")
    for controls in (Controls(), Controls(held=(("jawOpen", 1.0),), head=(20.0, 0.0, 0.0))):
        own, theirs = (stage._ensemble.pose(name, 2.0, controls) for name in ("toy", "avatar"))
        assert torch.allclose(own.expression, theirs.expression) and torch.allclose(own.translation, theirs.translation)
        assert torch.allclose(own.joints, theirs.joints)
    a, b = (stage._ensemble.posed(name, 2.0, Controls())[1].means for name in ("toy", "avatar"))
    assert float((a - b).abs().max()) > 1e-3  # another face


def test_an_avatar_of_the_same_capture_plays_its_own_tracking(toy_stage) -> None:
    line = toy_stage.avatar.timeline
    again = replace(toy_stage.avatar, timeline=replace(line, codes=replace(line.codes, expression=line.codes.expression * 0.5)))
    stage = AvatarStage(toy_stage.avatar, None, [again], name="toy")
    own, theirs = (stage._ensemble.pose(name, 2.0, Controls()).expression for name in ("toy", "avatar"))
    assert torch.allclose(theirs, own * 0.5) and float(own.max()) > 0
    # Beyond the frames that both know, as in an added take, it follows the first.
    stage.add_take("more.npz", stage.save_take(stage.timeline.segments[0].name, {}, ".npz"))
    late = float(line.frame_count)
    assert torch.allclose(
        stage._ensemble.pose("avatar", late, Controls()).expression, stage._ensemble.pose("toy", late, Controls()).expression
    )


def test_names_are_matched_and_what_a_head_lacks_is_left_out(toy_stage) -> None:
    head = toy_stage.avatar.head
    swapped = replace(head, expression_names=(*head.expression_names[1:], "unknown"), joint_names=tuple(reversed(head.joint_names)))
    pose = toy_stage._ensemble.pose("", 2.0, Controls(head=(10.0, 5.0, 0.0)))
    found = for_head(pose, head, swapped)
    assert torch.equal(found.expression[:, :-1], pose.expression[:, 1:]) and float(found.expression[0, -1]) == 0
    assert torch.equal(found.joints, pose.joints.flip(1))


def test_a_performance_is_lent_from_where_it_began(toy_stage) -> None:
    other = somebody_else(toy_stage.avatar)
    stage = AvatarStage(toy_stage.avatar, None, [other], name="toy")
    assert stage.performances() == (("avatar", "TALK"),)
    name = stage.borrow("avatar", "TALK")
    assert name == "TALK of avatar" and stage.timeline.segments[-1].name == name
    start = stage.timeline.segments[-1].start
    for t in range(len(other.timeline.codes)):
        assert np.allclose(stage.weights(start + t), other.timeline.codes.expression[t], atol=1e-4)
    # Their world is three metres away; the performance begins where this avatar rests.
    assert torch.allclose(stage._ensemble.pose("", float(start), Controls()).translation, stage._ensemble.rest.translation, atol=1e-4)


def test_opening_and_closing(toy_stage, stage_folder: Path, tmp_path: Path) -> None:
    stage = open_stage(stage_folder, None, [stage_folder])
    assert stage.avatars == ("person", "person (B)") and stage.references == ("Truth", "person", "person (B)")
    with pytest.raises(UserError, match="not an avatar"):
        stage.open_avatar(str(tmp_path))
    for _ in range(MOST - 2):
        stage.open_avatar(str(stage_folder))
    with pytest.raises(UserError, match="close one"):
        stage.open_avatar(str(stage_folder))
    stage.close_avatar("person (B)")
    assert "person (B)" not in stage.avatars and len(set(stage.avatars)) == MOST - 1
    with pytest.raises(ValueError):
        stage.close_avatar("person")
    with pytest.raises(ValueError):
        stage.close_avatar("nobody")
    beside = nearby(stage_folder.parent.parent / "other" / "avatar")
    assert beside == {"person": str(stage_folder)} and nearby(None) == {}


def test_a_session_lets_go_of_a_closed_avatar() -> None:
    session, clock, _ = make_session(BallStage())
    session.set_subject("Rival")
    assert session.take(clock.now).subject == "Rival"
    session.set_against("Test <b>head</b>")
    session.set_mode("Wipe")
    session.stage.close_avatar("Rival")
    session.tidy()
    assert session.subject == "" and session.against == "Truth"
    with pytest.raises(ValueError):
        session.set_subject("Rival")


@pytest.mark.parametrize("suffix", FORMATS.values())
def test_an_expression_comes_back_from_its_file(suffix: str) -> None:
    session, _, _ = make_session()
    session.follow = False
    session.desk.from_json('{"jawOpen": 0.25, "mouthSmileLeft": 0.5, "eyeBlinkRight": 1}')
    session.head, session.gaze.angles = (20.0, -10.0, 5.0), (8.0, 4.0)
    content = write_codes(session, suffix)
    other, _, _ = make_session()
    read_codes(other, f"expression{suffix}", content)
    held = {k: v for k, v in other.desk.held.items() if v}
    assert held == {"jawOpen": pytest.approx(0.25), "mouthSmileLeft": pytest.approx(0.5), "eyeBlinkRight": pytest.approx(1.0)}
    assert other.head == pytest.approx((20.0, -10.0, 5.0), abs=0.05) and other.gaze.angles == pytest.approx((8.0, 4.0), abs=0.05)


@pytest.mark.parametrize(("name", "content"), [
    ("a.json", b""), ("a.json", b"[]"), ("a.json", b'{"expressions": 3}'), ("a.json", b'{"expressions": {"jawOpen": 1}, "head": 3}'),
    ("a.json", b'{"expressions": {"jawOpen": 1}, "gaze": {"up": "x"}}'), ("a.json", b'{"expressions": {"jawOpen": 1}, "head": {"turn": NaN}}'),
    ("a.csv", b"x,y\n1,2\n"), ("a.npz", b"PK\x03\x04"), ("a.exe", b"MZ"), ("a.json", b"[" * 100_000), ("a.csv", b"x" * 33_000_000),
])  # fmt: skip
def test_bad_expressions_are_refused_and_nothing_changes(name: str, content: bytes) -> None:
    session, _, _ = make_session()
    with pytest.raises((ValueError, UserError)):
        read_codes(session, name, content)
    assert session.desk.held == {} and session.head == (0.0, 0.0, 0.0)


def test_the_gaze_target_is_the_camera_or_a_point_before_the_face() -> None:
    session, clock, _ = make_session()
    assert session.take(clock.now).controls.target is None
    session.gaze.choose("At the camera")
    assert session.request_now().controls.target == pytest.approx((0.0, 0.0, 1.0), abs=1e-4)
    session.look_through("side")
    assert session.request_now().controls.target == pytest.approx((np.sin(np.pi / 3), 0.0, 0.5), abs=1e-4)
    gaze = Gaze("At a point", point=(10.0, 20.0, 50.0))
    assert gaze.target(BallStage.place, np.eye(4)) == pytest.approx((0.1, 0.2, 0.5))
    with pytest.raises(ValueError):
        gaze.choose("Elsewhere")


def test_exports_hold_the_pose_that_is_shown(toy_stage) -> None:
    assert {"ply", "ga", "avatar"} <= set(toy_stage.exports)
    request = Request(64, 64, (0.0,) * 16, 0.4, time=2.0)
    name, plain = toy_stage.export("ply", request)
    _, open_mouth = toy_stage.export("ply", replace(request, controls=Controls(held=(("jawOpen", 1.0),))))
    assert name == "toy.ply" and plain.startswith(b"ply") and len(plain) == len(open_mouth) and plain != open_mouth
    name, content = toy_stage.export("ga", request)
    assert name == "toy.zip" and content[:2] == b"PK"
    with pytest.raises(UserError):
        toy_stage.export("nothing", request)
    json.dumps(dict(toy_stage.exports))
