"""From codes, which know names, to the poses of one head, by name.

What the head lacks is approximated where that is safe (`jawOpen` and the gaze turn joints, `browInnerUp` and its halves stand
for one another), else left out with a warning that lists the names; nothing in common is an error.

The head's own turn is shared between neck and head. The root: "still" keeps the avatar where it was captured, "relative"
adds what the recorded root does after its first frame, "absolute" takes it as it is (a replay of the avatar's own capture).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from avatars.drive.codes import Codes, plain
from avatars.errors import UserError
from avatars.transforms import axis_angle_to_matrix, matrix_to_axis_angle
from avatars.types import HeadPose

Root = Literal["still", "relative", "absolute"]

JAW_OPEN = math.radians(25)  # of the jaw joint at jawOpen = 1, for heads without that expression
GAZE = {"In": math.radians(30), "Out": math.radians(35), "Up": math.radians(25), "Down": math.radians(30)}  # at weight 1
NECK_SHARE = 0.4  # of the head's turn, done by the neck


class Rig(Protocol):
    """What retargeting needs to know of a head; `HeadModel` is one."""

    @property
    def expression_names(self) -> tuple[str, ...]: ...
    @property
    def joint_names(self) -> tuple[str, ...]: ...


def retarget(codes: Codes, head: Rig, base: HeadPose | None = None, root: Root = "relative", quiet: bool = False) -> HeadPose:
    """Poses [T] of `head` that do what `codes` say.

    base: one frame whose root places the avatar (its rest position in the world); None is the origin.
    UserError when not one expression or joint is shared; a warning names those that are not, unless `quiet`.
    """
    T = len(codes)
    expression, used, unused = _expressions(codes, head.expression_names)
    joints = torch.zeros(T, len(head.joint_names), 3)
    for name, track in _joint_tracks(codes, used).items():
        if name in head.joint_names:
            joints[:, head.joint_names.index(name)] += torch.as_tensor(np.array(track), dtype=torch.float32)
            used.add(name)
    moving = [n for n in unused if n not in used and np.abs(codes.weight(n)).max() > 1e-3]
    if not used and not len(codes.joints):
        raise UserError(
            f"these codes share no expression with the head (codes: {_short(codes.names)}; head: {_short(head.expression_names)}). "
            "Names must be ARKit's, or those of the head."
        )
    if moving and not quiet:
        warnings.warn(
            f"the head has no {_short(moving, 8)}; what the codes do with {'it' if len(moving) == 1 else 'them'} is left out", stacklevel=2
        )
    rotation, translation = _root(codes, base, root)
    return HeadPose(torch.from_numpy(expression), joints, rotation, translation)


def _expressions(codes: Codes, wanted: Sequence[str]) -> tuple[np.ndarray, set[str], list[str]]:
    """Weights [T, E] for the head's names; the codes' names that were used, and those that were not."""
    by_plain = {plain(n): n for n in codes.names}
    weights = np.zeros((len(codes), len(wanted)), np.float32)
    used: set[str] = set()
    for i, name in enumerate(wanted):
        sources = [plain(name)]
        if sources[0] not in by_plain:
            # A head whose expression has halves takes both from the whole; a whole takes the mean of its halves.
            whole = sources[0].removesuffix("left").removesuffix("right")
            sources = [whole] if whole in by_plain and whole != sources[0] else [f"{sources[0]}left", f"{sources[0]}right"]
        found = [by_plain[s] for s in sources if s in by_plain]
        if found:
            weights[:, i] = np.mean([codes.weight(n) for n in found], 0)
            used.update(found)
    return weights, used, [n for n in codes.names if n not in used]


def _joint_tracks(codes: Codes, used: set[str]) -> dict[str, np.ndarray]:
    """Rotations [T, 3] per joint: the codes' own, and those that stand in for expressions the head does not have."""
    tracks: dict[str, np.ndarray] = {k: np.array(v, np.float32) for k, v in codes.joints.items()}
    if "head" in tracks and "neck" not in tracks:
        # Parts of one rotation about one axis compose to the whole.
        tracks["neck"], tracks["head"] = NECK_SHARE * tracks["head"], (1 - NECK_SHARE) * tracks["head"]
    if "jawOpen" in codes.names and "jawOpen" not in used and "jaw" not in tracks:
        zero = np.zeros(len(codes), np.float32)
        tracks["jaw"] = np.stack([JAW_OPEN * codes.weight("jawOpen"), zero, zero], 1)
        used.add("jawOpen")
    for side, joint, out in (("Left", "eye_left", 1.0), ("Right", "eye_right", -1.0)):
        looks = {d: f"eyeLook{d}{side}" for d in GAZE}
        if joint in tracks or any(n in used for n in looks.values()) or not any(n in codes.names for n in looks.values()):
            continue
        angle = {d: GAZE[d] * codes.weight(n) for d, n in looks.items()}
        pitch, yaw = angle["Down"] - angle["Up"], out * (angle["Out"] - angle["In"])
        tracks[joint] = np.stack([pitch, yaw, np.zeros_like(yaw)], 1)
        used.update(n for n in looks.values() if n in codes.names)
    return tracks


def _root(codes: Codes, base: HeadPose | None, root: Root) -> tuple[Tensor, Tensor]:
    """Root rotation and translation [T, 3]."""
    T = len(codes)
    rotation = torch.zeros(1, 3) if base is None else base.rotation[:1].detach().cpu().float()
    translation = torch.zeros(1, 3) if base is None else base.translation[:1].detach().cpu().float()
    if root == "still" or codes.rotation is None or codes.translation is None:
        return rotation.repeat(T, 1), translation.repeat(T, 1)
    R = axis_angle_to_matrix(torch.as_tensor(np.array(codes.rotation), dtype=torch.float64))
    t = torch.as_tensor(np.array(codes.translation), dtype=torch.float64)
    if root == "absolute":
        return torch.as_tensor(np.array(codes.rotation)).float(), t.float()
    # The motion since the first frame, seen from the head of that frame, then done from the base.
    B = axis_angle_to_matrix(rotation.double())
    moved = ((t - t[:1])[:, None] @ R[:1]) @ B.transpose(-1, -2)
    turned = B @ R[:1].transpose(-1, -2) @ R
    return matrix_to_axis_angle(turned).float(), (translation.double() + moved[:, 0]).float()


def _short(names: Sequence[str], count: int = 5) -> str:
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")
