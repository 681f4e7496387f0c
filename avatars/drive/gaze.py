"""Eyes that look at a point: both converge on it, and the lids follow, wherever the head is turned.

Angles are radians in the head's axes: yaw > 0 to the subject's left, pitch > 0 down.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from avatars.drive.retarget import GAZE
from avatars.head import HeadModel, ShapedHead
from avatars.types import HeadPose, Identity

MOST_YAW, MOST_UP, MOST_DOWN = math.radians(40), math.radians(30), math.radians(38)  # how far an eye can turn
_EYES = (("eye_left", "Left", 1.0), ("eye_right", "Right", -1.0))  # joint, suffix of its expressions, sign of "out"


def looking_at(head: HeadModel, identity: Identity, pose: HeadPose, target: Tensor) -> HeadPose:
    """One frame whose eyes look at `target` [3], metres in the world, as far as eyes can turn; the gaze it had is replaced.

    Heads with the eyeLook expressions get their weights, so that the lids follow; the eye joints do the rest exactly.
    ValueError for several frames.
    """
    if len(pose) != 1 or tuple(target.shape) != (3,):
        raise ValueError(f"looking_at takes one frame and a point [3], got {len(pose)} and {list(target.shape)}")
    joints = head.joint_template + torch.einsum("i,ijk->jk", identity.coefficients, head.joint_identity_basis)
    shaped = ShapedHead(head.template, joints, identity.scale)
    T = head.joint_transforms(shaped, pose)[0]
    expression, turned = pose.expression.clone(), pose.joints.clone()
    angles = {}
    for joint, side, out in _EYES:
        if joint not in head.joint_names:
            continue
        j = head.joint_names.index(joint)
        parent = T[head.joint_parents[j]][:3, :3] / identity.scale
        x, y, z = (parent.T @ (target.to(joints) - (T[j][:3, :3] @ joints[j] + T[j][:3, 3]))).tolist()
        yaw = min(max(math.atan2(x, z), -MOST_YAW), MOST_YAW)
        pitch = min(max(math.atan2(-y, math.hypot(x, z)), -MOST_UP), MOST_DOWN)
        angles[j] = (yaw, pitch)
        share = {"Out": out * yaw / GAZE["Out"], "In": -out * yaw / GAZE["In"], "Up": -pitch / GAZE["Up"], "Down": pitch / GAZE["Down"]}
        for direction, weight in share.items():
            name = f"eyeLook{direction}{side}"
            if name in head.expression_names:
                expression[0, head.expression_names.index(name)] = min(max(weight, 0.0), 1.0)
    posed = replace(pose, expression=expression)
    caused = head.joint_rotations(posed) - posed.joints  # what the expressions alone turn
    for j, (yaw, pitch) in angles.items():
        turned[0, j] = _axis_angle(yaw, pitch).to(turned) - caused[0, j]
    return replace(posed, joints=turned)


def _axis_angle(yaw: float, pitch: float) -> Tensor:
    """Ry(yaw)·Rx(pitch) as axis-angle [3]."""
    # Half angles as quaternions: shorter than through matrices, and exact for small angles.
    cy, sy, cp, sp = math.cos(yaw / 2), math.sin(yaw / 2), math.cos(pitch / 2), math.sin(pitch / 2)
    w, xyz = cy * cp, torch.tensor([cy * sp, sy * cp, -sy * sp], dtype=torch.float64)
    sine = float(xyz.norm())
    return xyz * (2 * math.atan2(sine, w) / sine if sine > 1e-12 else 2.0)
