"""`avatars drive`: an avatar does what a recorded performance does."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

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
from avatars.commands.shot import AvatarFolder, Shot, ShotFlags
from avatars.errors import UserError

EXAMPLES = (
    ("a Live Link Face take with its sound", "avatars drive out/demo/avatar --codes take.csv --audio take.wav --out clip.mp4"),
    ("what another avatar did, with its sound", "avatars drive out/anna/avatar --codes out/demo/avatar --sequence SEN-1 --out clip.mp4"),
    (
        "seconds 2 to 7 of a mirrored recording whose pitch goes the other way",
        "avatars drive out/demo/avatar --codes take.csv --mirror --invert pitch --start 2 --end 7 --out clip.mp4",
    ),
)
MOST_FRAMES = 1_000_000  # of a video; more is a mistake in the codes' times


@dataclass(frozen=True)
class Drive:
    """Drive an avatar with recorded codes: Live Link Face CSV, MediaPipe, LAM, BEAT or Audio2Face JSON, ARKit or our own npz.

    Expressions go by their ARKit names. Angles are radians about the head's axes: yaw > 0 turns to the subject's left, pitch > 0
    lowers the nose, roll > 0 tilts to the right shoulder; use --invert where an application counts otherwise.
    """

    avatar: AvatarFolder
    """The avatar's folder, as `avatars train` or `avatars demo` wrote it."""
    codes: Path
    """The performance: .csv, .json or .npz; or the folder of a tracked sequence or of another avatar."""
    sequence: str = ""
    """Of such a folder, use this sequence."""
    out: Path = Path("clip.mp4")
    """The video to write."""
    audio: Path | None = None
    """Sound that began with the codes; cut to the video. Left out: that of the folder's --sequence, where it has one."""
    no_sound: bool = False
    """Leave the folder's sound out."""
    start: float = 0.0
    """Begin here, in seconds of the codes."""
    end: float | None = None
    """End here, in seconds of the codes."""
    fps: float = 0.0
    """Frames a second of the video; 0: as the codes, at most 60."""
    mirror: bool = False
    """Exchange left and right."""
    invert: tuple[Literal["yaw", "pitch", "roll"], ...] = ()
    """Head angles to take with the other sign."""
    root: Literal["relative", "still", "absolute"] = "relative"
    """Recorded motion of the whole head in space, where the codes have it: added, left out, or taken as it is."""
    save_codes: Path | None = None
    """Also write the codes as used, in the format of this file's ending."""
    shot: ShotFlags = field(default_factory=Shot)
    device: Device = "auto"
    """Where to compute: auto takes CUDA where there is one."""

    def run(self, console: Console) -> None:
        """Drive."""
        from avatars.video import check_video_path

        check_video_path(self.out)
        self.shot.check()
        check_number("--start", self.start, 0, LONGEST_SECONDS)
        if self.end is not None and not self.end > self.start:
            raise UserError(f"--end {self.end} must come after --start {self.start}.")
        if self.audio is not None and not self.audio.is_file():
            raise UserError(f"--audio {self.audio}: there is no such file.")
        existing_folder(self.avatar, "avatar", "avatars train TRACKED --out AVATAR")

        from avatars.drive import open_driver, retarget, save_codes

        codes = open_driver(self.codes, self.sequence)
        if self.start >= codes.duration:
            raise UserError(f"--start {self.start}: {self.codes} lasts {codes.duration:.2f} s.")
        codes = codes.cut(self.start, self.end)
        codes = codes.mirrored() if self.mirror else codes
        codes = codes.inverted(self.invert)
        fps = self.fps or min(codes.fps, 60.0)
        check_number("--fps", fps, 1, MOST_FPS)
        if codes.duration * fps > MOST_FRAMES:
            raise UserError(
                f"{self.codes} lasts {codes.duration:.0f} s, {codes.duration * fps:.0f} frames. Drive a part of it: --start, --end."
            )
        codes = codes.resampled(fps)
        device = choose_device(self.device)

        from avatars.avatar import load_avatar
        from avatars.camera_path import subject_of
        from avatars.playback import play, rest_pose
        from avatars.video import open_video

        avatar = load_avatar(self.avatar).to(device)
        rest = rest_pose(avatar).to("cpu")
        poses = retarget(codes, avatar.head, rest, self.root)
        cameras = self.shot.cameras(avatar, subject_of(rest), len(poses))
        if self.save_codes is not None:
            save_codes(self.save_codes, codes)
        sound = self._sound()
        with open_video(self.out, fps, sound, audio_start=self.start) as video:
            for picture in play(avatar, poses, cameras, parse_color(self.shot.background), self.shot.backend, console.progress, "driving"):
                video.write(picture)
        console.say(f"{self.out}  {len(poses)} frames, {len(poses) / fps:.2f} s{', with sound' if sound else ''}")

    def _sound(self) -> Path | None:
        """The sound to take: the one that was asked for, else the one that lies with the codes."""
        beside = self.codes / "audio" / f"{self.sequence}.wav"
        return self.audio or (beside if self.sequence and not self.no_sound and self.codes.is_dir() and beside.is_file() else None)


def command() -> type:
    """The flags of `avatars drive`."""
    return Drive
