"""From a capture to a measured, filmed avatar: the stages behind `avatars demo`, for unattended runs as well.

    DIR/check.json            what was found out about the capture
    DIR/tracked/              the tracked sequence
    DIR/avatar/               the avatar
    DIR/report.json, .html    how good it is on what was held out
    DIR/speaking.mp4          the held-out sequence: recording and avatar side by side, with sound
    DIR/stages/*.json         what is finished, with which inputs

Every stage is skipped when its manifest says that it is finished with the same inputs and what it left is whole; it resumes inside itself after a
kill, and makes again what was deleted or damaged since.
The stages themselves are given as a `Workshop`, so the order, skipping and failing can be tested without doing the work.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import avatars
from avatars import __version__
from avatars.files import content_hash
from avatars.stages import Done, Stage, fingerprint, run_stage

DEFAULT_HEAD = Path(avatars.__file__).parent / "head" / "default.npz"


@dataclass(frozen=True)
class Job:
    """One capture on its way."""

    capture: Path
    out: Path
    format: str = "auto"
    head: Path | None = None
    track_config: Path | None = None
    train_config: Path | None = None
    minutes: float = 0.0  # of training; 0: as configured
    small: bool = False  # fewer Gaussians, for small pictures and little time
    held_out_cameras: tuple[str, ...] | None = None  # None: chosen
    held_out_sequences: tuple[str, ...] | None = None
    film_seconds: float = 30.0  # at most so much of the held-out sequence is filmed

    @property
    def tracked(self) -> Path:
        """The tracked sequence's folder."""
        return self.out / "tracked"

    @property
    def avatar(self) -> Path:
        """The avatar's folder."""
        return self.out / "avatar"

    @property
    def film(self) -> Path:
        """The video of the held-out sequence."""
        return self.out / "speaking.mp4"


@dataclass(frozen=True)
class Workshop:
    """Who does the stages; each returns figures to keep and to show."""

    check: Callable[[Job], Mapping[str, Any]]
    track: Callable[[Job], Mapping[str, Any]]
    train: Callable[[Job], Mapping[str, Any]]
    measure: Callable[[Job], Mapping[str, Any]]
    film: Callable[[Job], Mapping[str, Any]]
    whole: Callable[[Job, str], bool] = lambda job, stage: True  # whether what a finished stage left can still be used


@dataclass(frozen=True)
class Step:
    """A stage of the pipeline: what it is called for people, and what decides its result."""

    name: str
    title: str
    inputs: Callable[[Job], str]
    outputs: Callable[[Job], tuple[Path, ...]]
    run: Callable[[Workshop], Callable[[Job], Mapping[str, Any]]]


STEPS: tuple[Step, ...] = (
    Step("check", "Checking the capture", lambda j: _key(j, "check"), lambda j: (j.out / "check.json",), lambda w: w.check),
    Step("track", "Tracking the head", lambda j: _key(j, "track"), lambda j: (j.tracked / "manifest.json",), lambda w: w.track),
    Step("train", "Training the avatar", lambda j: _key(j, "train"), lambda j: (j.avatar / "manifest.json",), lambda w: w.train),
    Step(
        "eval",
        "Measuring it on what was held out",
        lambda j: _key(j, "eval"),
        lambda j: (j.out / "report.json", j.out / "report.html"),
        lambda w: w.measure,
    ),
    Step("film", "Filming it beside the recording", lambda j: _key(j, "film"), lambda j: (j.film,), lambda w: w.film),
)


def run_job(job: Job, workshop: Workshop, announce: Callable[[int, int, str], None] = lambda i, n, title: None) -> Iterator[Done]:
    """Do all stages in order, skipping finished ones; `announce` hears of each before it begins."""
    for i, step in enumerate(STEPS):
        announce(i + 1, len(STEPS), step.title)
        stage = Stage(
            step.name, step.inputs(job), step.outputs(job), lambda step=step: step.run(workshop)(job), lambda step=step: workshop.whole(job, step.name)
        )  # fmt: skip
        yield run_stage(job.out, stage)


def choose_cameras(azimuths: Sequence[float]) -> list[int]:
    """Which cameras to hold out for novel views: two of eight or more, one of four or more, none of fewer.

    azimuths: degrees from straight ahead, one per camera. Neither the most frontal camera nor the outermost: between trained ones.
    """
    order = sorted(range(len(azimuths)), key=lambda i: abs(azimuths[i]))
    count = 2 if len(order) >= 8 else 1 if len(order) >= 4 else 0
    return sorted(order[round(len(order) * share)] for share in (0.25, 0.55)[:count])


def choose_sequences(names: Sequence[str], with_sound: Sequence[str]) -> tuple[str, ...]:
    """Which sequence to hold out: the last one with sound, else the last; none when there is only one."""
    if len(names) < 2:
        return ()
    return (next((n for n in reversed(names) if n in with_sound), names[-1]),)


def _key(job: Job, stage: str) -> str:
    """Hash of all that decides `stage`, so that a change repeats it and what follows."""
    parts: list[str | bytes] = [__version__, stage]
    if stage == "check":
        return content_hash(*parts, fingerprint(job.capture), job.format)
    if stage == "track":
        head = job.head or DEFAULT_HEAD  # another version of it makes other codes
        return content_hash(*parts, _key(job, "check"), _optional(head), _optional(job.track_config))
    if stage == "train":
        wanted = json.dumps([job.minutes, job.small, job.held_out_cameras, job.held_out_sequences])
        return content_hash(*parts, _files(job.tracked), _optional(job.train_config), wanted)
    return content_hash(*parts, _files(job.avatar), _files(job.tracked), repr(job.film_seconds) if stage == "film" else "")


def _files(folder: Path) -> str:
    """The small files that say what is in a finished folder."""
    names = ("manifest.json", "codes.npz", "cameras.npz", "identity.npz")
    return content_hash(*[folder / n for n in names if (folder / n).exists()])


def _optional(path: Path | None) -> str:
    return "" if path is None else fingerprint(path) if path.exists() else f"{path} is missing"
