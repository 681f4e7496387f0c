"""Codes in time: interpolation, rates, cuts, mirrors, and the signs of the angles."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from avatars.drive.codes import ARKIT_NAMES, Codes, arkit_name, constant_rate, to_yaw_pitch_roll, yaw_pitch_roll
from avatars.head.model import ARKIT
from avatars.transforms import axis_angle_to_matrix


def ramp(frames: int = 5, fps: float = 10.0) -> Codes:
    u = np.arange(frames, dtype=np.float32)
    turn = np.stack([u * 0, u * 0.1, u * 0], 1)
    return Codes(("jawOpen", "eyeBlinkLeft"), np.stack([u, -u], 1), constant_rate(frames, fps), {"head": turn}, nominal_fps=fps)


def test_the_names_are_the_heads() -> None:
    assert sorted(ARKIT_NAMES) == sorted(ARKIT) and len(set(ARKIT_NAMES)) == 52


@pytest.mark.parametrize("name", ["EyeBlinkLeft", "eyeBlink_L", "EYEBLINKLEFT", " blendShapes.eyeBlinkLeft"])
def test_spellings(name: str) -> None:
    assert arkit_name(name) == "eyeBlinkLeft"
    assert arkit_name("earWiggle") is None


def test_at_is_linear_between_frames_and_holds_outside() -> None:
    codes = ramp()
    assert codes.at(0.25).weights[0].tolist() == pytest.approx([2.5, -2.5])
    np.testing.assert_allclose(codes.at(0.25).joints["head"], [[0, 0.25, 0]], atol=1e-6)
    assert codes.at(-3).weights[0, 0] == 0 and codes.at(99).weights[0, 0] == 4
    assert codes.at(0.3).fps == codes.fps == 10


def test_rotations_take_the_short_way_round() -> None:
    # 3.1 rad and -3.1 rad about x lie 0.08 rad apart, across π; the mean of the numbers would be no turn at all.
    turn = np.array([[3.1, 0, 0], [-3.1, 0, 0]], np.float32)
    codes = Codes(("a",), np.zeros((2, 1), np.float32), constant_rate(2, 1), rotation=turn, translation=turn)
    middle = codes.at(0.5).rotation
    assert np.linalg.norm(middle) == pytest.approx(np.pi, abs=1e-5)


def test_duration_counts_the_last_frame_and_resampling_keeps_it() -> None:
    codes = ramp(24, 24)
    assert codes.duration == pytest.approx(1)
    twice = codes.resampled(48)
    assert len(twice) == 48 and twice.fps == 48 and twice.duration == pytest.approx(1)
    np.testing.assert_allclose(twice.weights[::2], codes.weights, atol=1e-5)


def test_cut() -> None:
    part = ramp(10, 10).cut(0.2, 0.5)
    assert part.weights[:, 0].tolist() == [2, 3, 4] and part.times[0] == 0
    assert len(ramp(10, 10).cut(0.7)) == 3 and len(ramp(10, 10).cut(5)) == 1


def test_the_first_frame_of_a_single_frame_clip() -> None:
    codes = ramp(1)
    assert codes.at(7).weights.tolist() == [[0, 0]] and codes.fps == 10


@pytest.mark.parametrize(
    ("angles", "probe", "moves"),
    [
        ((0.3, 0, 0), [0, 0, 1], [1, 0, 0]),  # yaw > 0: the nose goes to the subject's left (+x)
        ((0, 0.3, 0), [0, 0, 1], [0, -1, 0]),  # pitch > 0: the nose goes down
        ((0, 0, 0.3), [0, 1, 0], [-1, 0, 0]),  # roll > 0: the crown goes to the subject's right
    ],
)
def test_signs(angles: tuple, probe: list, moves: list) -> None:
    vector = yaw_pitch_roll(*(np.array([a]) for a in angles))
    R = axis_angle_to_matrix(torch.from_numpy(vector).double())[0].numpy()
    change = R @ np.array(probe) - np.array(probe)
    assert change @ np.array(moves) > 0.25


def test_angles_come_back() -> None:
    angles = np.random.default_rng(0).uniform(-1.2, 1.2, (3, 50))
    for a, b in zip(to_yaw_pitch_roll(yaw_pitch_roll(*angles)), angles, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_mirror_swaps_sides_and_is_its_own_inverse() -> None:
    codes = ramp()
    mirror = codes.mirrored()
    assert mirror.names == ("jawOpen", "eyeBlinkRight")
    np.testing.assert_allclose(mirror.joints["head"], -codes.joints["head"])
    np.testing.assert_array_equal(mirror.mirrored().joints["head"], codes.joints["head"])
    eyes = Codes(("jawLeft",), np.ones((1, 1), np.float32), np.zeros(1), {"eye_left": np.array([[0.1, 0.2, 0]], np.float32)}).mirrored()
    assert eyes.names == ("jawRight",)
    np.testing.assert_allclose(eyes.joints["eye_right"], [[0.1, -0.2, 0]])


def test_inverted_changes_only_the_head() -> None:
    turn = np.array([[0.1, 0.2, 0.3]], np.float32)
    codes = Codes(("a",), np.zeros((1, 1), np.float32), np.zeros(1), {"head": turn, "jaw": turn})
    flipped = codes.inverted(["pitch", "roll"])
    np.testing.assert_allclose(flipped.joints["head"], [[-0.1, 0.2, -0.3]])
    np.testing.assert_allclose(flipped.joints["jaw"], turn)


@pytest.mark.parametrize(
    "arguments",
    [
        {"weights": np.zeros((2, 3)), "times": np.zeros(2)},
        {"weights": np.zeros((0, 1)), "times": np.zeros(0)},
        {"weights": np.zeros((2, 1)), "times": np.array([1.0, 0.0])},
        {"weights": np.zeros((2, 1)), "times": np.arange(2.0), "joints": {"jaw": np.zeros((1, 3))}},
    ],
)
def test_shapes_are_checked(arguments: dict) -> None:
    with pytest.raises(ValueError, match="Codes"):
        Codes(("jawOpen",), **arguments)
