"""Playing an avatar: poses and cameras, frame by frame, into pictures. What `render`, `drive` and the demo's video share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from avatars.avatar import Avatar
from avatars.drive.codes import Codes
from avatars.progress import Progress, silent
from avatars.render import render
from avatars.types import Cameras, HeadPose, Image


def rest_pose(avatar: Avatar) -> HeadPose:
    """Where the avatar sits in its world when nothing drives it: neutral face, root and neck as in its first tracked frame."""
    timeline = avatar.timeline
    if not timeline.frame_count:
        return avatar.head.neutral()
    first = timeline.codes[0]
    joints = torch.zeros_like(first.joints)
    for name in ("neck", "head"):
        if name in avatar.head.joint_names:
            joints[:, avatar.head.joint_names.index(name)] = first.joints[:, avatar.head.joint_names.index(name)]
    return replace(first, expression=torch.zeros_like(first.expression), joints=joints)


def tracked_poses(avatar: Avatar, sequence: str) -> HeadPose:
    """The poses [T] of a tracked sequence, as it was performed; AvatarError lists the sequences."""
    segment = avatar.timeline.segment(sequence)
    return avatar.timeline.codes[slice(segment.start, segment.stop)]


def tracked_codes(avatar: Avatar, sequence: str) -> Codes:
    """The same as named codes, to be saved or to drive another avatar."""
    poses = tracked_poses(avatar, sequence).to("cpu")
    joints = {name: poses.joints[:, i].numpy() for i, name in enumerate(avatar.head.joint_names)}
    times = np.arange(len(poses)) / avatar.timeline.fps
    return Codes(
        tuple(avatar.head.expression_names), poses.expression.numpy(), times, joints, poses.rotation.numpy(), poses.translation.numpy(),
        avatar.timeline.fps,
    )  # fmt: skip


def draw(
    avatar: Avatar, pose: HeadPose, camera: Cameras, background: Sequence[float] | Tensor = (1.0, 1.0, 1.0), backend: str = "auto"
) -> Image:
    """One frame as one camera sees it, in that camera's colours where it is one of the capture's."""
    image = render(avatar.at(pose), camera, torch.zeros(3), backend)
    color = avatar.recolored(image, camera).color
    behind = torch.as_tensor(background, dtype=color.dtype, device=color.device)
    return replace(image, color=(color + (1 - image.alpha) * behind).clamp(0, 1))


@torch.no_grad()
def play(
    avatar: Avatar, poses: HeadPose, cameras: Cameras, background: Sequence[float] = (1.0, 1.0, 1.0), backend: str = "auto",
    progress: Progress = silent, what: str = "rendering",
) -> Iterator[np.ndarray]:  # fmt: skip
    """Pictures uint8 [H, W, 3] of poses [T] through cameras [T] (or one for all), in order, one in memory at a time."""
    if len(cameras) not in (1, len(poses)):
        raise ValueError(f"{len(poses)} poses need as many cameras or one, got {len(cameras)}")
    device = avatar.gaussians.means.device
    poses = poses.to(device)
    for t in range(len(poses)):
        image = draw(avatar, poses[t], cameras[t if len(cameras) > 1 else 0], background, backend)
        yield (image.color[0] * 255 + 0.5).to(torch.uint8).cpu().numpy()
        progress(what, t + 1, len(poses))
