"""Flags that several commands share: what the avatar does, and how it is filmed. Torch is imported only inside."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from avatars.commands import parse_color
from avatars.errors import UserError

if TYPE_CHECKING:
    from avatars.avatar import Avatar
    from avatars.camera_path import Subject
    from avatars.types import Cameras, HeadPose

AvatarFolder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="AVATAR")]
"""The avatar's folder, as `avatars train` or `avatars demo` wrote it."""


@dataclass(frozen=True)
class Shot:
    """How it is filmed."""

    camera: str = ""
    """One of the capture's cameras by name; empty: the one that looks most straight in the face."""
    path: str = "still"
    """What the camera does: still, orbit, turntable, or a JSON file with one camera per frame."""
    zoom: float = 1.0
    """Focal length relative to the camera's."""
    width: int = 0
    """Pixels; 0: as captured, or from --height."""
    height: int = 0
    """Pixels; 0: as captured, or from --width."""
    background: str = "white"
    """white, black, grey, green, #rrggbb, or r,g,b between 0 and 1."""
    backend: Literal["auto", "native", "gsplat", "reference"] = "auto"
    """Renderer."""

    def check(self) -> None:
        """UserError for what can be told without opening the avatar."""
        parse_color(self.background)
        if not 0.05 <= self.zoom <= 50:
            raise UserError(f"--zoom {self.zoom}: give a factor between 0.05 and 50.")
        for name, value in (("--width", self.width), ("--height", self.height)):
            if value and not 16 <= value <= 8192:
                raise UserError(f"{name} {value}: give between 16 and 8192 pixels.")
        if self.path not in ("still", "orbit", "turntable"):
            if not self.path.endswith(".json"):
                near = difflib.get_close_matches(self.path, ("still", "orbit", "turntable"), 1)
                hint = f" Did you mean {near[0]}?" if near else ""
                raise UserError(f"--path {self.path}: give still, orbit, turntable, or a .json file.{hint}")
            if not Path(self.path).is_file():
                raise UserError(f"--path {self.path}: there is no such file.")

    def base_camera(self, avatar: Avatar, subject: Subject) -> Cameras:
        """The one camera that the shot starts from, at the size of the picture."""
        from avatars.camera_path import frontal_camera, zoomed

        cameras = avatar.timeline.cameras.to("cpu")
        if self.camera and self.camera not in cameras.names:
            raise UserError(f"--camera {self.camera}: the avatar knows {', '.join(cameras.names)}.")
        index = cameras.names.index(self.camera) if self.camera else frontal_camera(cameras, subject)
        return zoomed(cameras[index], self.zoom, self.width, self.height)

    def cameras(self, avatar: Avatar, subject: Subject, frames: int) -> Cameras:
        """One camera per frame."""
        from avatars import camera_path

        if self.path.endswith(".json"):
            return camera_path.looped(camera_path.read_path(Path(self.path), subject)[0], frames)
        camera = self.base_camera(avatar, subject)
        if self.path == "still":
            return camera_path.still(camera, frames)
        return (camera_path.orbit if self.path == "orbit" else camera_path.turntable)(camera, subject, frames)


@dataclass(frozen=True)
class Moment:
    """What the avatar does."""

    sequence: str = ""
    """Replay this tracked sequence; empty: the neutral face."""
    frame: int = 0
    """Frame of the sequence, for a still or an export."""
    expression: tuple[str, ...] = ()
    """Weights set by name, such as jawOpen=0.6 mouthSmileLeft=1; on top of the sequence."""

    def poses(self, avatar: Avatar, single: bool) -> HeadPose:
        """The poses [T]; with `single` the one of `frame`."""
        from avatars.playback import rest_pose, tracked_poses

        if self.sequence:
            poses = tracked_poses(avatar, self.sequence)
            if single:
                if not -len(poses) <= self.frame < len(poses):
                    raise UserError(f"--frame {self.frame}: {self.sequence} has {len(poses)} frames, counted from 0.")
                poses = poses[self.frame % len(poses)]
        elif self.frame:
            raise UserError(
                f"--frame {self.frame} is a frame of which sequence? Give --sequence: {', '.join(s.name for s in avatar.timeline.segments)}."
            )
        else:
            poses = rest_pose(avatar)
        weights = poses.expression.clone()
        for name, value in parse_expressions(self.expression, avatar.head.expression_names).items():
            weights[:, avatar.head.expression_names.index(name)] = value
        return replace(poses, expression=weights)


def parse_expressions(texts: tuple[str, ...], known: tuple[str, ...]) -> dict[str, float]:
    """`("jawOpen=0.6",)` → {"jawOpen": 0.6}; UserError with the nearest name for an unknown one."""
    result = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in known:
            near = difflib.get_close_matches(name, known, 3, 0.4)
            hint = f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(known[:8])} …"
            raise UserError(f"--expression {text}: the head has no {name}. {hint}")
        try:
            result[name] = float(value)
        except ValueError:
            raise UserError(f"--expression {text}: write {name}=WEIGHT, such as {name}=0.5.") from None
        if not -2 <= result[name] <= 2:
            raise UserError(f"--expression {text}: weights lie between 0 and 1 (at most -2 to 2).")
    return result


# Without a prefix: --camera and not --shot.camera.
ShotFlags = Annotated[Shot, tyro.conf.arg(name="")]
MomentFlags = Annotated[Moment, tyro.conf.arg(name="")]
