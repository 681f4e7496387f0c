"""The stages as they are really done: what `check`, `track`, `train`, `eval` and `demo` have in common."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avatars.commands import Console
from avatars.commands.pipeline import Job, Workshop, choose_cameras, choose_sequences
from avatars.config import load_config
from avatars.errors import CaptureError, UserError
from avatars.files import claimed

if TYPE_CHECKING:
    import numpy as np
    import torch

    from avatars.avatar import Avatar
    from avatars.sequence import TrackedSequence
    from avatars.train import Event, TrainConfig


def workshop(console: Console, device: torch.device) -> Workshop:
    """The real stages, reporting to `console` and computing on `device`."""
    return Workshop(
        check=lambda job: check(job, console),
        track=lambda job: track(job, console, device),
        train=lambda job: train(job, console, device),
        measure=lambda job: measure(job, console, device),
        film=lambda job: film(job, console, device),
        whole=whole,
    )


def rehearse(job: Job) -> None:
    """UserError now for what a later stage would refuse after an hour: settings, another head, names that are held out."""
    from avatars.head import load_head
    from avatars.train_config import TrainConfig
    from capture.formats import open_capture
    from capture.track.config import TrackConfig

    if job.track_config is not None:
        load_config(TrackConfig, job.track_config)
    config = load_config(TrainConfig, job.train_config) if job.train_config is not None else TrainConfig()
    if job.head is not None:
        load_head(job.head)
    capture = open_capture(job.capture, job.format)
    for kind, asked, configured, known in (
        ("camera", job.held_out_cameras, config.held_out_cameras, capture.camera_names),
        ("sequence", job.held_out_sequences, config.held_out_sequences, capture.sequences),
    ):
        for name in configured if asked is None else asked:
            if name not in known:
                raise UserError(f"The {kind} {name!r} is to be held out, but {job.capture} has only {', '.join(known)}.")


def whole(job: Job, stage: str) -> bool:
    """Whether what the finished `stage` left can still be used: no file of it is damaged, and no picture was deleted to make room."""
    from avatars.avatar import load_avatar
    from avatars.sequence import load_tracked

    try:
        if stage == "track":
            return not load_tracked(job.tracked).missing_pictures()
        if stage == "train":
            load_avatar(job.avatar)
    except UserError:
        return False
    return True


def check(job: Job, console: Console) -> Mapping[str, Any]:
    """Check the capture and write check.json; CaptureError when it cannot be used."""
    from capture.formats import open_capture
    from capture.quality import check_capture

    report = check_capture(open_capture(job.capture, job.format), progress=console.progress)
    report.save(job.out)
    errors = [f for f in report.findings if f.severity == "error"]
    if errors:
        lines = [f"  {f.where}: {f.what} {f.remedy}" for f in errors]
        raise CaptureError(f"{job.capture} cannot be used as it is:\n" + "\n".join(lines))
    return {"warnings": sum(f.severity == "warning" for f in report.findings)}


def track(job: Job, console: Console, device: torch.device) -> Mapping[str, Any]:
    """Track the capture into DIR/tracked."""
    from avatars.head import load_head
    from capture.formats import open_capture
    from capture.track import TrackConfig
    from capture.track import track as track_capture

    config = load_config(TrackConfig, job.track_config) if job.track_config is not None else TrackConfig()
    head = load_head(job.head) if job.head is not None else None
    capture = open_capture(job.capture, job.format)
    with claimed(job.tracked):
        tracked = track_capture(capture, job.tracked, head, config, progress=console.progress)
    return {k: v for k, v in tracked.quality.items() if isinstance(v, int | float)}


def train(job: Job, console: Console, device: torch.device) -> Mapping[str, Any]:
    """Train the avatar into DIR/avatar, with something held out to measure it on."""
    from avatars.sequence import load_tracked
    from avatars.train import TrainConfig
    from avatars.train import train as train_avatar

    tracked = load_tracked(job.tracked)
    config = load_config(TrainConfig, job.train_config) if job.train_config is not None else recipe(tracked, job.small)
    if job.minutes > 0:
        config = replace(config, minutes=job.minutes, steps=0)
    config = held_out(config, tracked, job.held_out_cameras, job.held_out_sequences)
    with claimed(job.avatar):
        event = show_training(train_avatar(tracked, config, job.avatar, device), console)
    return {"steps": event.step, "psnr": round(event.psnr, 2), "gaussians": event.gaussians, "training_seconds": round(event.seconds, 1)}


def recipe(tracked: TrackedSequence, small: bool = False) -> TrainConfig:
    """The settings for a capture when no file gives them; configs/ has the same as files to start from."""
    from avatars.train_config import DeformSettings, TrainConfig

    if len(tracked.cameras) == 1:  # the view never changes, so colours cannot depend on it
        return TrainConfig(sh_degree=0, views=1)
    return TrainConfig(gaussians=24_000, deform=DeformSettings(bases=12)) if small else TrainConfig()


def held_out(
    config: TrainConfig, tracked: TrackedSequence, cameras: tuple[str, ...] | None, sequences: tuple[str, ...] | None
) -> TrainConfig:
    """The config with something held out: as asked for, as the config says, else chosen (see `pipeline`)."""
    names = [s.name for s in tracked.segments]
    if cameras is None and not config.held_out_cameras:
        cameras = tuple(tracked.cameras.names[i] for i in choose_cameras(azimuths(tracked)))
    if sequences is None and not config.held_out_sequences and not config.held_out_last:
        sequences = choose_sequences(names, [n for n in names if tracked.audio(n) is not None])
        if not sequences and tracked.frame_count >= 40:
            config = replace(config, held_out_last=min(50, tracked.frame_count // 6))
    return replace(
        config,
        held_out_cameras=config.held_out_cameras if cameras is None else cameras,
        held_out_sequences=config.held_out_sequences if sequences is None else sequences,
    )


def azimuths(tracked: TrackedSequence) -> list[float]:
    """Degrees [C] between each camera and straight ahead of the first frame's head."""
    import torch

    from avatars.camera_path import subject_of

    subject = subject_of(tracked.codes[0])
    rays = torch.nn.functional.normalize(tracked.cameras.centers - subject.center, dim=-1)
    return [math.degrees(math.acos(max(-1.0, min(1.0, float(r @ subject.forward))))) for r in rays]


def show_training(events: Iterator[Event], console: Console) -> Event:
    """Follow a training to its end on the progress bar; returns the last event."""
    event, told = None, False
    for event in events:
        if event.kind == "paused" and not told:
            console.say("The training is paused. Resume it in the viewer, or delete the file `paused` in its folder.")
        told = event.kind == "paused"
        if event.kind != "done":
            # A budget of minutes becomes the number of steps that it will probably allow, so that the bar's rate is steps.
            total = max(event.step + 1, round(event.step / event.fraction) if event.fraction > 0 else 0)
            console.progress("training", event.step, total, event.figures)
    if event is None:
        raise RuntimeError("the training ended without an event")
    console.progress("training", event.step, event.step, event.figures)
    return event


def measure(job: Job, console: Console, device: torch.device) -> Mapping[str, Any]:
    """Evaluate into DIR/report.json and DIR/report.html."""
    from avatars.avatar import load_avatar
    from avatars.evaluate import evaluate
    from avatars.report import write_report
    from avatars.sequence import load_tracked

    evaluation = evaluate(load_avatar(job.avatar).to(device), load_tracked(job.tracked), progress=console.progress)
    write_report(evaluation, job.out, job.avatar / "events.jsonl")
    return headline(evaluation.report)


def headline(report: Mapping[str, Any]) -> dict[str, Any]:
    """The figures that people ask for first."""
    figures: dict[str, Any] = {}
    for key in ("novel_view", "self_reenactment"):
        part = report.get(key)
        if part:
            figures[f"{key}_db"] = round(float((part.get("foreground") or part)["psnr"]), 2)
    if report.get("render"):
        figures["fps"] = round(float(report["render"]["fps"]), 1)
    mesh = (report.get("tracking") or {}).get("mesh_mm")
    return figures | ({"mesh_mm": round(float(mesh), 2)} if mesh is not None else {})


def film(job: Job, console: Console, device: torch.device) -> Mapping[str, Any]:
    """The held-out sequence as a video: the recording beside the avatar, with sound."""
    from avatars.avatar import load_avatar
    from avatars.sequence import load_tracked
    from avatars.video import open_video

    avatar, tracked = load_avatar(job.avatar).to(device), load_tracked(job.tracked)
    frames, sequence, start = film_frames(avatar, tracked, job.film_seconds)
    with open_video(job.film, tracked.fps, tracked.audio(sequence), audio_start=start / tracked.fps) as video:
        for i, picture in enumerate(comparison(avatar, tracked, frames)):
            video.write(picture)
            console.progress("filming", i + 1, len(frames))
    return {"sequence": sequence, "frames": len(frames)}


def film_frames(avatar: Avatar, tracked: TrackedSequence, seconds: float) -> tuple[list[int], str, int]:
    """Frames of the timeline to film, their sequence, and how many frames of it come before them."""
    held = [s for s in tracked.segments if s.name in avatar.timeline.held_out_sequences]
    last = int(avatar.provenance.get("held_out_last", 0))
    segment = held[-1] if held else tracked.segments[-1]
    first = segment.start if held or not last else max(segment.start, tracked.frame_count - last)
    stop = min(segment.stop, first + max(1, round(seconds * tracked.fps)))
    return list(range(first, stop)), segment.name, first - segment.start


def comparison(avatar: Avatar, tracked: TrackedSequence, frames: list[int]) -> Iterator[np.ndarray]:
    """Pictures uint8: the recording over white, and the avatar driven by the tracked codes, from the most frontal camera."""
    import numpy as np

    from avatars.camera_path import frontal_camera, subject_of, zoomed
    from avatars.playback import play, rest_pose
    from avatars.video import side_by_side

    index = frontal_camera(tracked.cameras, subject_of(rest_pose(avatar).to("cpu")))
    enlarge = 2 if tracked.cameras.height < 480 else 1
    camera = tracked.cameras[index]
    camera = zoomed(camera, 1.0, camera.width * enlarge, camera.height * enlarge)
    poses = avatar.timeline.codes[frames]
    for t, drawn in zip(frames, play(avatar, poses, camera), strict=True):
        mask = tracked.mask(t, index)[..., None].astype(np.float32) / 255
        truth = (tracked.image(t, index) * mask + 255 * (1 - mask) + 0.5).astype(np.uint8)
        truth = _enlarged(truth, enlarge)
        yield np.concatenate([side_by_side([truth, drawn]), _captions(["recording", "avatar"], truth.shape[1])], 0)


def _enlarged(picture: np.ndarray, factor: int) -> np.ndarray:
    if factor == 1:
        return picture
    import cv2

    return cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)


def _captions(texts: list[str], width: int, height: int = 28) -> np.ndarray:
    """A strip with a word below each picture."""
    import cv2
    import numpy as np

    from avatars.video import side_by_side

    strips = []
    for text in texts:
        strip = np.full((height, width, 3), 255, np.uint8)
        (w, h), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.55, 1)
        cv2.putText(strip, text, ((width - w) // 2, (height + h) // 2), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (70, 70, 70), 1, cv2.LINE_AA)
        strips.append(strip)
    return side_by_side(strips)


def default_out(tracked: Path, name: str) -> Path:
    """Where a result goes when nothing is said: beside what it was made from."""
    return tracked.resolve().parent / name
