"""From a time and what hands have set to the pose of a head. Torch; angles of `Controls` are degrees, of poses radians."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from avatars.drive import retarget
from avatars.drive.gaze import looking_at
from avatars.head import HeadModel
from avatars.transforms import axis_angle_to_matrix, matrix_to_axis_angle, matrix_to_quat, quat_to_matrix
from avatars.types import HeadPose, Identity
from viewer.follow import codes_of
from viewer.stage import Controls

NECK_SHARE = 0.4  # of a turn of the head is done by the neck


class Track:
    """Recorded poses, also between frames: rotations are blended as quaternions, since axis-angles jump near π."""

    def __init__(self, codes: HeadPose) -> None:
        self.codes = codes
        self.roots = matrix_to_quat(axis_angle_to_matrix(codes.rotation))
        self.joints = matrix_to_quat(axis_angle_to_matrix(codes.joints))

    def at(self, time: float, stop: int) -> HeadPose:
        """The pose at `time`, not blending into the sequence that begins at `stop`."""
        first = min(max(int(time), 0), stop - 1)
        second, share = min(first + 1, stop - 1), time - int(time)
        if share < 1e-4 or second == first:
            return self.codes[first]
        a, b = self.codes[first], self.codes[second]
        return HeadPose(
            torch.lerp(a.expression, b.expression, share),
            _blend(self.joints[first], self.joints[second], share)[None],
            _blend(self.roots[first], self.roots[second], share)[None],
            torch.lerp(a.translation, b.translation, share),
        )


def posed(head: HeadModel, identity: Identity, rest: HeadPose, recorded: HeadPose | None, controls: Controls) -> HeadPose:
    """One frame of `head`: live, recorded or at rest, and on top of it what the hands have set."""
    if controls.live:
        pose = retarget(codes_of(np.array([controls.live]), np.zeros(1)), head, rest.to("cpu"), "still", quiet=True)
        pose = pose.to(rest.expression.device)
    else:
        pose = recorded if recorded is not None and controls.follow else rest
    expression, joints = pose.expression.clone(), pose.joints.clone()
    for name, weight in controls.held:
        expression[0, head.expression_names.index(name)] = weight
    rotation, translation = pose.rotation, pose.translation
    at = head.joint_names.index
    if controls.still:
        rotation, translation = rest.rotation, rest.translation
        for name in ("neck", "head"):
            joints[0, at(name)] = rest.joints[0, at(name)]
    turn, nod, tilt = (math.radians(a) for a in controls.head)
    side, up = (math.radians(a) for a in controls.gaze)
    # Head axes: y up, z forward, x to the subject's left.
    for name, vector in (
        ("neck", (NECK_SHARE * nod, NECK_SHARE * turn, -NECK_SHARE * tilt)),
        ("head", ((1 - NECK_SHARE) * nod, (1 - NECK_SHARE) * turn, -(1 - NECK_SHARE) * tilt)),
        ("eye_left", (-up, side, 0.0)),
        ("eye_right", (-up, side, 0.0)),
    ):
        if any(vector):
            joints[0, at(name)] = _turned(joints[0, at(name)], vector)
    pose = HeadPose(expression, joints, rotation, translation)
    return pose if controls.target is None else looking_at(head, identity, pose, torch.tensor(controls.target))


def for_head(pose: HeadPose, head: HeadModel, other: HeadModel) -> HeadPose:
    """The pose of `head` for another, expressions and joints by name; what that one lacks is left out."""

    def matched(values: Tensor, names: tuple[str, ...], wanted: tuple[str, ...]) -> Tensor:
        at = [names.index(n) if n in names else -1 for n in wanted]
        return torch.cat([values, torch.zeros_like(values[:, :1])], 1)[:, at]

    return replace(
        pose, expression=matched(pose.expression, head.expression_names, other.expression_names),
        joints=matched(pose.joints, head.joint_names, other.joint_names),
    )  # fmt: skip


def _blend(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Quaternions [..., 4] → axis-angle [..., 3] of the normalised mean along the shorter way."""
    b = torch.where((a * b).sum(-1, keepdim=True) < 0, -b, b)
    return matrix_to_axis_angle(quat_to_matrix(torch.lerp(a, b, share)))


def _turned(rotation: Tensor, by: tuple[float, ...]) -> Tensor:
    """Axis-angle [3] after which the joint is turned by `by`, in its own axes."""
    extra = axis_angle_to_matrix(torch.tensor(by, dtype=rotation.dtype, device=rotation.device))
    return matrix_to_axis_angle(axis_angle_to_matrix(rotation) @ extra)
