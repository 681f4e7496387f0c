"""Driving the real head: what the names and signs promise happens to the mesh."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from avatars.drive import Codes, retarget
from avatars.drive.codes import ARKIT_NAMES, yaw_pitch_roll
from avatars.head import HeadModel, load_head


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head()


@pytest.fixture(scope="module")
def moved(head: HeadModel) -> Callable[..., torch.Tensor]:
    """Mean displacement [3] of regions when a frame of codes is driven, in metres."""
    rest = head.vertices(head.mean_identity(), head.neutral())[0]

    def move(regions: tuple[str, ...], joints: dict | None = None, **weights: float) -> torch.Tensor:
        names = tuple(weights) or ("jawOpen",)
        values = np.array([list(weights.values()) or [0.0]], np.float32)
        codes = Codes(names, values, np.zeros(1), {k: np.array([v], np.float32) for k, v in (joints or {}).items()})
        posed = head.vertices(head.mean_identity(), retarget(codes, head))[0]
        return (posed - rest)[head.region_vertices(*regions)].mean(0)

    return move


def turn(yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> np.ndarray:
    return yaw_pitch_roll(np.array([yaw]), np.array([pitch]), np.array([roll]))[0]


def test_all_names_are_known(head: HeadModel) -> None:
    codes = Codes(ARKIT_NAMES, np.ones((1, 52), np.float32), np.zeros(1))
    assert retarget(codes, head).expression.sum() == 52


def test_the_head_turns_where_the_signs_say(moved: Callable) -> None:
    assert moved(("nose",), {"head": turn(yaw=0.4)})[0] > 0.02, "yaw > 0: to the subject's left"
    assert moved(("nose",), {"head": turn(pitch=0.4)})[1] < -0.02, "pitch > 0: the nose goes down"
    assert moved(("nose",), {"head": turn(roll=0.4)})[0] < -0.01, "roll > 0: the head tilts to the right shoulder"


def test_the_jaw_opens_downwards(moved: Callable) -> None:
    assert moved(("teeth_lower",), jawOpen=1.0)[1] < -0.005
    assert moved(("teeth_upper",), jawOpen=1.0).abs().max() < 1e-3


def test_the_eyes_look_where_the_names_say(moved: Callable) -> None:
    assert moved(("pupil_left",), eyeLookOutLeft=1.0)[0] > 0.002
    assert moved(("pupil_right",), eyeLookOutRight=1.0)[0] < -0.002
    assert moved(("pupil_left",), eyeLookUpLeft=1.0)[1] > 0.001
    assert moved(("pupil_left",), eyeLookDownLeft=1.0)[1] < -0.001
    # Angles of the eyes agree with the weights.
    assert moved(("pupil_left",), {"eye_left": turn(yaw=0.4)})[0] > 0.002
    assert moved(("pupil_left",), {"eye_left": turn(pitch=0.4)})[1] < -0.002
