"""`avatars render`: stills and camera paths of an avatar, at rest, in an expression, or replaying a tracked sequence."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from avatars.commands import (
    LONGEST_SECONDS,
    MOST_FPS,
    Console,
    Device,
    check_number,
    choose_device,
    existing_folder,
    parse_color,
)
from avatars.commands.shot import AvatarFolder, Moment, MomentFlags, Shot, ShotFlags
from avatars.errors import UserError

EXAMPLES = (
    (
        "a still of a smile from the front, twice the captured height",
        "avatars render out/demo/avatar --expression mouthSmileLeft=1 mouthSmileRight=1 --height 704 --out smile.png",
    ),
    (
        "the sentence again, with its sound, from a camera that sways",
        "avatars render out/demo/avatar --sequence SEN-1 --path orbit --out speaking.mp4",
    ),
    (
        "once round the head in six seconds, on black",
        "avatars render out/demo/avatar --path turntable --seconds 6 --background black --out round.mp4",
    ),
)


@dataclass(frozen=True)
class Render:
    """Render an avatar to a still (.png, its parameters inside) or a video (.mp4)."""

    avatar: AvatarFolder
    """The avatar's folder, as `avatars train` or `avatars demo` wrote it."""
    out: Path = Path("render.png")
    """The picture (.png) or video (.mp4) to write."""
    moment: MomentFlags = field(default_factory=Moment)
    shot: ShotFlags = field(default_factory=Shot)
    seconds: float = 4.0
    """Length of a video without --sequence."""
    fps: float = 0.0
    """Frames a second of a video without --sequence; 0: as captured."""
    transparent: bool = False
    """A still with the avatar's coverage as alpha instead of a background."""
    no_sound: bool = False
    """Leave out the sound of --sequence."""
    device: Device = "auto"
    """Where to compute: auto takes CUDA where there is one."""

    def run(self, console: Console) -> None:
        """Render."""
        from avatars.video import SUFFIXES, check_video_path

        self.shot.check()
        still = self.out.suffix.lower() == ".png"
        if not still and self.out.suffix.lower() not in SUFFIXES:
            raise UserError(f"--out {self.out}: give a still (.png) or a video (.mp4).")
        if not still:
            check_video_path(self.out)
            check_number("--seconds", self.seconds, 0, LONGEST_SECONDS)
            if self.fps:
                check_number("--fps", self.fps, 1, MOST_FPS)
        elif self.out.is_dir():
            raise UserError(f"{self.out} is a folder; give the name of the picture to write.")
        existing_folder(self.avatar, "avatar", "avatars train TRACKED --out AVATAR")
        device = choose_device(self.device)

        from avatars.avatar import load_avatar

        avatar = load_avatar(self.avatar).to(device)
        if still:
            self._still(avatar)
        else:
            self._video(avatar, console)
        console.say(f"{self.out}")

    def _still(self, avatar) -> None:
        import numpy as np
        import torch

        from avatars.camera_path import subject_of
        from avatars.playback import draw
        from avatars.png import write_png
        from avatars.video import to_uint8

        pose = self.moment.poses(avatar, single=True)
        camera = self.shot.cameras(avatar, subject_of(pose.to("cpu")), 1)[0]
        parameters = {
            "avatar": self.avatar.name, "shot": asdict(self.shot), "moment": asdict(self.moment), "width": camera.width, "height": camera.height,
            "K": camera.Ks[0].tolist(), "viewmat": camera.viewmats[0].tolist(), "transparent": self.transparent,
        }  # fmt: skip
        background = (0.0, 0.0, 0.0) if self.transparent else parse_color(self.shot.background)
        with torch.no_grad():
            image = draw(avatar, pose, camera, background, self.shot.backend)
        color = image.color[0]
        if self.transparent:  # PNG's alpha is not premultiplied
            alpha = image.alpha[0]
            color = (color / alpha.clamp_min(1e-4)).clamp(0, 1)
            rgba = np.concatenate([to_uint8(color), (alpha * 255 + 0.5).to(torch.uint8).cpu().numpy()], 2)
            write_png(self.out, rgba, parameters)
        else:
            write_png(self.out, to_uint8(color), parameters)

    def _video(self, avatar, console: Console) -> None:
        from avatars.camera_path import read_path, subject_of
        from avatars.playback import play, rest_pose
        from avatars.video import open_video

        poses = self.moment.poses(avatar, single=False)
        subject = subject_of(rest_pose(avatar).to("cpu"))
        fps, sound = avatar.timeline.fps, None
        if self.moment.sequence:
            sound = None if self.no_sound else avatar.audio(self.moment.sequence)
        else:
            frames = 0
            if self.shot.path.endswith(".json"):
                path, fps = read_path(Path(self.shot.path), subject)
                frames = len(path)
            fps = self.fps or fps
            frames = frames or max(1, round(self.seconds * fps))
            poses = poses[[0] * frames]
        cameras = self.shot.cameras(avatar, subject, len(poses))
        with open_video(self.out, fps, sound) as video:
            for picture in play(avatar, poses, cameras, parse_color(self.shot.background), self.shot.backend, console.progress):
                video.write(picture)


def command() -> type:
    """The flags of `avatars render`."""
    return Render
