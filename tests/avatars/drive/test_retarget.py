"""Retargeting by name: onto a head with all expressions, with some, and with none."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from avatars.drive import ARKIT_NAMES, Codes, retarget
from avatars.drive.codes import constant_rate
from avatars.drive.retarget import GAZE, JAW_OPEN
from avatars.errors import UserError
from avatars.transforms import axis_angle_to_matrix
from avatars.types import HeadPose

JOINTS = ("neck", "head", "jaw", "eye_left", "eye_right")


@dataclass(frozen=True)
class Rig:
    expression_names: tuple[str, ...]
    joint_names: tuple[str, ...] = JOINTS


def codes_of(joints: dict | None = None, frames: int = 1, root: np.ndarray | None = None, **weights: float) -> Codes:
    values = np.tile(np.array(list(weights.values()), np.float32), (frames, 1))
    return Codes(tuple(weights), values, constant_rate(frames, 30), joints or {}, root, root)


def base() -> HeadPose:
    return HeadPose(torch.zeros(1, 3), torch.zeros(1, 5, 3), torch.tensor([[0.0, 0.5, 0.0]]), torch.tensor([[1.0, 2.0, 3.0]]))


def test_by_name_not_by_place() -> None:
    rig = Rig(tuple(reversed(ARKIT_NAMES)))
    pose = retarget(codes_of(jawOpen=0.7, cheekPuff=0.2), rig)
    assert pose.expression[0, rig.expression_names.index("jawOpen")] == pytest.approx(0.7)
    assert pose.expression.sum() == pytest.approx(0.9) and not pose.joints.any()


def test_halves_and_wholes_stand_for_one_another() -> None:
    split = retarget(codes_of(browInnerUp=0.6), Rig(("browInnerUp_L", "browInnerUp_R")))
    assert split.expression[0].tolist() == pytest.approx([0.6, 0.6])
    whole = retarget(codes_of(browInnerUp_L=0.2, browInnerUp_R=0.4), Rig(("browInnerUp",)))
    assert whole.expression[0].tolist() == pytest.approx([0.3])
    assert retarget(codes_of(mouthLeft=1.0, jawOpen=0), Rig(("mouthRight", "jawOpen")), quiet=True).expression[0].tolist() == [0, 0]


def test_the_turn_of_the_head_is_shared_with_the_neck() -> None:
    turn = np.array([[0.1, 0.4, -0.2]], np.float32)
    pose = retarget(codes_of({"head": turn}, jawOpen=0), Rig(("jawOpen",)))
    R = axis_angle_to_matrix(pose.joints[0, 0]) @ axis_angle_to_matrix(pose.joints[0, 1])
    torch.testing.assert_close(R, axis_angle_to_matrix(torch.from_numpy(turn))[0])
    both = retarget(codes_of({"head": turn, "neck": turn}, jawOpen=0), Rig(("jawOpen",)))
    torch.testing.assert_close(both.joints[0, :2], torch.from_numpy(turn).expand(2, 3))


def test_a_head_without_jaw_and_gaze_expressions_turns_joints() -> None:
    pose = retarget(
        codes_of(mouthSmileLeft=1, jawOpen=0.5, eyeLookOutLeft=1, eyeLookInRight=1, eyeLookUpRight=0.5), Rig(("mouthSmileLeft",))
    )
    assert pose.joints[0, 2].tolist() == pytest.approx([0.5 * JAW_OPEN, 0, 0])  # > 0 about x: the chin goes down
    assert pose.joints[0, 3].tolist() == pytest.approx([0, GAZE["Out"], 0])  # the left eye outwards: to the subject's left
    assert pose.joints[0, 4].tolist() == pytest.approx([-0.5 * GAZE["Up"], GAZE["In"], 0])  # the right eye inwards: also left
    with_gaze = retarget(codes_of(eyeLookOutLeft=1), Rig(("eyeLookOutLeft",)))
    assert not with_gaze.joints.any(), "a head whose expression turns the eye must not turn it twice"


def test_what_is_missing_is_named_once_and_only_if_it_moves() -> None:
    with pytest.warns(UserWarning, match="no tongueOut; "):
        retarget(codes_of(jawOpen=1, tongueOut=0.4, cheekPuff=0.0), Rig(("jawOpen",)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        retarget(codes_of(jawOpen=1, tongueOut=0.0), Rig(("jawOpen",)))
        retarget(codes_of(jawOpen=1, tongueOut=1.0), Rig(("jawOpen",)), quiet=True)


def test_nothing_in_common_is_an_error() -> None:
    with pytest.raises(UserError, match="share no expression.*expr_0"):
        retarget(codes_of(tongueOut=1), Rig(("expr_0", "expr_1")))


def test_the_root() -> None:
    rig = Rig(("jawOpen", "a", "b"))
    root = np.array([[0, 0, 0], [0, 0.3, 0]], np.float32)
    codes = codes_of(frames=2, root=root, jawOpen=1)
    still = retarget(codes, rig, base(), "still")
    torch.testing.assert_close(still.translation, base().translation.repeat(2, 1))
    absolute = retarget(codes, rig, base(), "absolute")
    torch.testing.assert_close(absolute.rotation, torch.from_numpy(root))
    relative = retarget(codes, rig, base(), "relative")
    torch.testing.assert_close(relative.rotation[0], base().rotation[0])
    torch.testing.assert_close(relative.translation[0], base().translation[0])
    torch.testing.assert_close(relative.rotation[1], torch.tensor([0.0, 0.8, 0.0]))
    torch.testing.assert_close(relative.translation[1], torch.tensor([1.0, 2.3, 3.0]))
    assert retarget(codes_of(jawOpen=1), rig).translation.tolist() == [[0, 0, 0]]


def test_relative_motion_is_seen_from_the_head_of_the_first_frame() -> None:
    # The performer faces away (π about y) and steps towards their own front, which is -z in their world.
    rotation = np.array([[0, np.pi, 0]] * 2, np.float32)
    translation = np.array([[0, 0, 0], [0, 0, -1]], np.float32)
    codes = Codes(("jawOpen",), np.zeros((2, 1), np.float32), constant_rate(2, 30), {}, rotation, translation)
    upright = HeadPose(torch.zeros(1, 1), torch.zeros(1, 5, 3), torch.zeros(1, 3), torch.zeros(1, 3))
    pose = retarget(codes, Rig(("jawOpen",)), upright, "relative")
    torch.testing.assert_close(pose.translation[1], torch.tensor([0.0, 0.0, 1.0]), atol=1e-5, rtol=0)
