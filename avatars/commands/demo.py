"""`avatars demo`: from a capture to a driven avatar in the browser, every stage resumable."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass
from pathlib import Path

from avatars.commands import Console, Device, check_number, choose_device
from avatars.commands.pipeline import Job, Workshop, run_job
from avatars.errors import UserError
from avatars.files import claimed

EXAMPLES = (
    ("the sample capture, ending in the browser", "avatars demo"),
    (
        "a capture of yours, unattended; run it again after an interruption and it goes on",
        "avatars demo --capture studio/take-07 --out out/take-07 --no-view",
    ),
    (
        "twenty minutes of training, and other things held out",
        "avatars demo --capture studio/take-07 --out out/take-07 --minutes 20 --held-out-cameras 222200047 --held-out-sequences SEN-05",
    ),
)
SAMPLE_MINUTES = 4.0  # of training on the sample: the whole way stays below ten minutes on two cores


@dataclass(frozen=True)
class Demo:
    """Go the whole way: check a capture, track it, train an avatar, measure it, film it speaking, open it in the browser.

    Finished stages are skipped and interrupted ones go on, so the same line may be run again at any time.
    """

    out: Path = Path("out/demo")
    """Folder for everything that is made."""
    capture: Path | None = None
    """A capture folder or a video; left out: the sample that comes with the program."""
    format: str = "auto"
    """The capture's format; auto recognises it."""
    no_view: bool = False
    """Do not open the viewer at the end."""
    minutes: float = 0.0
    """Minutes of training; 0: 4 for the sample, else as configured."""
    held_out_cameras: tuple[str, ...] | None = None
    """Cameras to measure novel views on; left out: chosen between the trained ones."""
    held_out_sequences: tuple[str, ...] | None = None
    """Sequences to measure reenactment on; left out: the last one with sound."""
    head: Path | None = None
    """Another head model: an ICT-FaceKit folder, an .npz, or FLAME."""
    track_config: Path | None = None
    """TOML for the tracking."""
    train_config: Path | None = None
    """TOML for the training."""
    port: int = 0
    """Port of the viewer; 0 takes any that is free."""
    device: Device = "auto"
    """Where to compute: auto takes CUDA where there is one."""

    def run(self, console: Console) -> None:
        """Run all stages, then the viewer."""
        from avatars.commands.work import rehearse, workshop

        job, device = self.job(), choose_device(self.device)
        rehearse(job)
        with claimed(job.out):
            run_pipeline(job, workshop(console, device), console)
        if self.no_view:
            return
        from viewer.app import serve

        serve(job.avatar, job.tracked, port=self.port, announce=console.say)

    def job(self) -> Job:
        """What is to be done; UserError for paths that cannot be meant."""
        if not 0 <= self.minutes < math.inf:
            raise UserError(f"--minutes {self.minutes}: give a positive number.")
        if not self.no_view:
            check_number("--port", self.port, 0, 65535)
        if self.out.exists() and not self.out.is_dir():
            raise UserError(f"--out {self.out} is a file; give a folder.")
        for name, path in (("--head", self.head), ("--track-config", self.track_config), ("--train-config", self.train_config)):
            if path is not None and not path.exists():
                raise UserError(f"{name} {path} does not exist.")
        capture, minutes, sample = self.capture, self.minutes, self.capture is None
        if capture is None:
            from capture.sample import SAMPLE

            capture = SAMPLE
            minutes = minutes or (0.0 if self.train_config else SAMPLE_MINUTES)
        if not capture.exists():
            raise UserError(f"--capture {capture} does not exist. Give a capture folder or a video file, or leave it out for the sample.")
        return Job(
            capture, self.out, self.format, self.head, self.track_config, self.train_config, minutes, small=sample,
            held_out_cameras=self.held_out_cameras, held_out_sequences=self.held_out_sequences,
        )  # fmt: skip


def run_pipeline(job: Job, workshop: Workshop, console: Console) -> None:
    """All stages with a line before and after each, and where everything is at the end."""
    console.say(f"{job.capture}  →  {job.out}")
    total = 0.0
    for done in run_job(job, workshop, lambda i, n, title: console.say(f"\n[{i}/{n}] {title}")):
        total += 0.0 if done.skipped else done.seconds
        state = f"finished before, in {done.seconds:.0f} s" if done.skipped else f"{done.seconds:.0f} s"
        console.say(f"      {state}{''.join(f'  {k} {_short(v)}' for k, v in done.figures.items())}")
    avatar = shlex.quote(str(job.avatar))
    console.say(
        f"\nDone in {total / 60:.1f} minutes.\n"
        f"  the avatar          {job.avatar}\n"
        f"  how good it is      {job.out / 'report.html'}\n"
        f"  it speaks           {job.film}\n"
        f"next:\n"
        f"  avatars view {avatar}\n"
        f"  avatars drive {avatar} --codes take.csv --out clip.mp4\n"
        f"  avatars export {avatar} --out frame.ply"
    )


def _short(value: object) -> str:
    if isinstance(value, dict):
        return " ".join(f"{k}:{v}" for k, v in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def command() -> type:
    """The flags of `avatars demo`."""
    return Demo
