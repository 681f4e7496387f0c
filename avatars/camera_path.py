"""Where the camera is, frame by frame: standing still, turning round the head, swaying before it, or read from JSON.

A path is a `Cameras` with one entry per frame. JSON files are any of

    {"fps": 24, "width": 800, "height": 1100, "frames": [{"position": [x,y,z], "look_at": [x,y,z], "fov": 30}, …]}
    {"fps": 24, "width": 800, "height": 1100, "frames": [{"K": 3×3, "viewmat": 4×4 world → camera, OpenCV}, …]}
    nerfstudio's camera_path.json (OpenGL camera → world, vertical field of view in degrees)

in metres, in the avatar's world.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from avatars.errors import UserError
from avatars.transforms import axis_angle_to_matrix, invert_rigid, look_at, opengl_to_opencv, rigid
from avatars.types import Cameras, HeadPose

if TYPE_CHECKING:
    from avatars.avatar import Avatar


@dataclass(frozen=True)
class Subject:
    """What a camera turns round: the head in one pose."""

    center: Tensor  # [3] metres, world
    up: Tensor  # [3] unit
    forward: Tensor  # [3] unit, out of the face


def subject_of(pose: HeadPose, center: Tensor | None = None) -> Subject:
    """The head of a pose (its first frame); `center` [3] defaults to the head's origin, which lies inside the skull."""
    R = axis_angle_to_matrix(pose.rotation[0])
    return Subject(pose.translation[0] if center is None else center, R[:, 1], R[:, 2])


def head_ball(avatar: Avatar, pose: HeadPose) -> tuple[Tensor, float]:
    """Centre [3] and radius, metres, of a ball that holds the head of one frame: its Gaussians without neck and torso."""
    means, head = avatar.at(pose).means, avatar.head
    below = [i for i, n in enumerate(head.region_names) if n in ("torso", "neck")]
    region = head.face_regions.long()[avatar.gaussians.face_ids]
    of_head = ~torch.isin(region, region.new_tensor(below))
    points = (means[of_head] if bool(of_head.any()) else means).double().cpu()
    points = points if len(points) else points.new_zeros(1, 3)
    low, high = points.quantile(0.02, 0), points.quantile(0.98, 0)
    centre = (low + high) / 2
    return centre, max(1.25 * float((points - centre).norm(dim=1).quantile(0.99)), 0.02)


def frontal_camera(cameras: Cameras, subject: Subject) -> int:
    """Index of the camera that looks the subject most straight in the face."""
    rays = torch.nn.functional.normalize(cameras.centers.cpu() - subject.center.cpu(), dim=-1)
    return int((rays @ subject.forward.cpu()).argmax())


def still(camera: Cameras, frames: int) -> Cameras:
    """One camera, repeated."""
    return _path(camera, camera.viewmats[:1].expand(frames, 4, 4), camera.Ks[:1].expand(frames, 3, 3))


def turntable(camera: Cameras, subject: Subject, frames: int, turns: float = 1.0) -> Cameras:
    """The camera carried round the head's vertical axis, to the subject's left first; the last frame meets the first again."""
    angles = torch.arange(frames, dtype=torch.float64) / frames * 2 * math.pi * turns
    return _carried(camera, subject, angles, torch.zeros_like(angles))


def orbit(camera: Cameras, subject: Subject, frames: int, yaw: float = 25.0, pitch: float = 7.0, turns: float = 1.0) -> Cameras:
    """The camera swaying on an ellipse of ±`yaw` and ±`pitch` degrees before the head, beginning and ending where it stands."""
    phase = torch.arange(frames, dtype=torch.float64) / frames * 2 * math.pi * turns
    return _carried(camera, subject, math.radians(yaw) * phase.sin(), math.radians(pitch) * (1 - phase.cos()) / 2)


def zoomed(cameras: Cameras, factor: float, width: int = 0, height: int = 0) -> Cameras:
    """The focal length times `factor` about the image's centre; then width × height (0: as it is, or the same aspect).

    Another aspect crops or extends the picture about its centre and leaves the height's field of view.
    """
    Ks = cameras.Ks.clone()
    middle = Ks.new_tensor([cameras.width / 2, cameras.height / 2])
    Ks[:, :2, :2] *= factor
    Ks[:, :2, 2] = middle + factor * (Ks[:, :2, 2] - middle)
    if not width and not height:
        width, height = cameras.width, cameras.height
    width = width or round(cameras.width * height / cameras.height)
    height = height or round(cameras.height * width / cameras.width)
    scale = height / cameras.height
    Ks[:, :2] *= scale
    Ks[:, 0, 2] += (width - cameras.width * scale) / 2
    return replace(cameras, Ks=Ks, width=width, height=height)


def read_path(path: Path, subject: Subject) -> tuple[Cameras, float]:
    """A camera path from JSON and its rate; UserError names the frame that does not fit."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"camera path {path} does not exist. Give still, orbit, turntable, or a JSON file.") from None
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"camera path {path} is not valid JSON ({error}).") from None
    theirs = isinstance(content, dict) and "camera_path" in content
    frames: Any = content.get("camera_path" if theirs else "frames") if isinstance(content, dict) else None
    if not isinstance(frames, list) or not frames:
        raise UserError(f'camera path {path} has no frames. Expected {{"frames": [{{"position": …, "look_at": …, "fov": …}}]}}.')
    try:
        width = int(content["render_width" if theirs else "width"])
        height = int(content["render_height" if theirs else "height"])
        fps = float(content.get("fps", 24))
    except (KeyError, TypeError, ValueError, OverflowError):
        raise UserError(f"camera path {path} must say width and height in pixels, and fps as a number.") from None
    if not (16 <= width <= 8192 and 16 <= height <= 8192 and 1 <= fps <= 240):
        raise UserError(f"camera path {path} is {width}×{height} at {fps:g} frames a second: give 16 to 8192 pixels and 1 to 240 frames.")
    Ks, views = [], []
    for i, frame in enumerate(frames):
        try:
            K, view = _camera(frame, width, height, subject)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else error
            raise UserError(f"camera path {path}, frame {i}: {reason}. A frame has position and look_at, or K and viewmat.") from None
        Ks.append(K)
        views.append(view)
    names = tuple(f"{i:05d}" for i in range(len(frames)))
    return Cameras(names, torch.stack(Ks).float(), torch.stack(views).float(), width, height), fps


def looped(cameras: Cameras, frames: int) -> Cameras:
    """A path of exactly `frames` entries: cut, or begun again."""
    return cameras[[i % len(cameras) for i in range(frames)]]


def _carried(camera: Cameras, subject: Subject, yaw: Tensor, pitch: Tensor) -> Cameras:
    """The camera rotated rigidly about the subject's centre: yaw [T] about its up, pitch [T] about the camera's right."""
    view = camera.viewmats[0].double().cpu()
    up, center = subject.up.double().cpu(), subject.center.double().cpu()
    eye_direction = torch.nn.functional.normalize(camera.centers[0].double().cpu() - center, dim=-1)
    right = torch.nn.functional.normalize(torch.linalg.cross(up, eye_direction), dim=-1)
    R = axis_angle_to_matrix(yaw[:, None] * up) @ axis_angle_to_matrix(-pitch[:, None] * right)
    motion = rigid(R, center - (R @ center[:, None])[..., 0])
    views = (view @ invert_rigid(motion)).to(camera.viewmats)
    return _path(camera, views, camera.Ks[:1].expand(len(yaw), 3, 3))


def _path(camera: Cameras, viewmats: Tensor, Ks: Tensor) -> Cameras:
    # The name stays that of the camera, so its colour correction still applies.
    return replace(camera, names=(camera.names[0],) * len(viewmats), viewmats=viewmats.contiguous(), Ks=Ks.contiguous())


def _camera(frame: dict, width: int, height: int, subject: Subject) -> tuple[Tensor, Tensor]:
    if "K" in frame:
        return _matrix(frame["K"], 3), _matrix(frame["viewmat"], 4)
    fov = float(frame.get("fov", 30.0))
    if not 0 < fov < 180:
        raise ValueError(f"a field of view of {fov:g} degrees")
    focal = 0.5 * height / math.tan(math.radians(fov) / 2)
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=torch.float64)
    if "camera_to_world" in frame:
        return K, invert_rigid(opengl_to_opencv(_matrix(frame["camera_to_world"], 4)))
    target = _vector(frame["look_at"]) if "look_at" in frame else subject.center.double().cpu()
    up = _vector(frame["up"]) if "up" in frame else subject.up.double().cpu()
    return K, look_at(_vector(frame["position"]), target, up)


def _vector(values: Sequence[float]) -> Tensor:
    vector = torch.tensor([float(v) for v in values], dtype=torch.float64)
    if vector.shape != (3,) or not vector.isfinite().all():
        raise ValueError(f"{values} is not a point of three numbers")
    return vector


def _matrix(values: Any, n: int) -> Tensor:
    matrix = torch.tensor(values, dtype=torch.float64).reshape(n, n)
    if not matrix.isfinite().all():
        raise ValueError("a matrix holds values that are not numbers")
    return matrix
