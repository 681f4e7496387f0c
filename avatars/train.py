"""Train an avatar on a tracked sequence: a generator of events, resumable after a kill at any moment.

    for event in train(tracked, TrainConfig(minutes=8), out):
        ...

A step renders one frame for a few cameras in one launch. Everything random derives from the seed and the step's number, and a
checkpoint holds all the rest, so a training that was killed and resumed ends with the same bits as one that was not (with a
budget of steps, on a CPU). It can be paused from outside (`avatars.pause`). The result is an avatar folder (`avatars.avatar`); beside it lie train.toml, checkpoint.safetensors, events.jsonl.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from avatars import rights
from avatars.avatar import KIND, Avatar, load_avatar, save_avatar
from avatars.config import save_config, to_dict
from avatars.errors import AvatarError, ConfigError
from avatars.files import content_hash, growing, read_json
from avatars.head import HeadModel, load_head
from avatars.pause import is_paused, resume
from avatars.pictures import PictureCache, batches
from avatars.sequence import TrackedSequence
from avatars.train_config import TrainConfig

PAUSE_SECONDS = 0.25  # between two looks whether it may go on


@dataclass(frozen=True)
class Event:
    """Something that training tells; figures are of the moment."""

    kind: Literal["start", "step", "refine", "checkpoint", "paused", "done"]
    step: int
    fraction: float  # of the budget
    seconds: float  # trained so far, over all resumed parts
    left: float  # seconds, estimated
    rate: float  # steps per second
    gaussians: int
    psnr: float = 0.0  # dB over the foreground, training pictures, running mean
    loss: float = 0.0

    @property
    def figures(self) -> dict[str, str]:
        """For a progress bar."""
        return {"psnr": f"{self.psnr:.2f} dB", "gaussians": f"{self.gaussians}"}


@dataclass(frozen=True)
class Split:
    """What is trained on and what is held out."""

    cameras: np.ndarray  # [C] bool: trained on
    frames: np.ndarray  # [T'] timeline indices that are trained on
    held_out_sequences: tuple[str, ...]


def split_of(tracked: TrackedSequence, cameras: tuple[str, ...], sequences: tuple[str, ...], last: int = 0) -> Split:
    """Resolve held-out names; ConfigError lists the known ones when one is unknown or nothing is left."""
    known = [s.name for s in tracked.segments]
    for name, options in [(c, tracked.cameras.names) for c in cameras] + [(s, known) for s in sequences]:
        if name not in options:
            raise ConfigError(f"{name!r} is held out, but {tracked.folder} has only {', '.join(options)}.")
    use = np.array([n not in cameras for n in tracked.cameras.names])
    stop = tracked.frame_count - last
    frames = [t for s in tracked.segments if s.name not in sequences for t in range(s.start, s.stop) if t < stop]
    frames = [t for t in frames if (tracked.valid[t] & use).any()]
    if not frames:
        raise ConfigError(f"Nothing is left to train on in {tracked.folder}: hold out fewer cameras, sequences or frames.")
    return Split(use, np.array(frames), tuple(sequences))


def head_of(tracked: TrackedSequence) -> HeadModel:
    """The head that the sequence was tracked with; AvatarError when it is another version than this program's."""
    own = tracked.folder / "head.npz"
    head = load_head(own if own.exists() else None)
    if tracked.head_hash and head.content_hash() != tracked.head_hash:
        raise AvatarError(
            f"{tracked.folder} was tracked with the head {tracked.head_name} ({tracked.head_hash}); this program has {head.name} "
            f"({head.content_hash()}). Track the capture again."
        )
    return head


def inputs_hash(tracked: TrackedSequence, config: TrainConfig) -> str:
    """Changes when the result of training would."""
    files = [tracked.folder / n for n in ("manifest.json", "cameras.npz", "identity.npz", "codes.npz")]
    settings = {k: v for k, v in to_dict(config).items() if k not in ("checkpoint_seconds", "cache_megabytes")}
    return content_hash(json.dumps(settings, sort_keys=True, default=str), *[f for f in files if f.exists()])


def train(tracked: TrackedSequence, config: TrainConfig, out: str | Path, device: torch.device | str = "cpu") -> Iterator[Event]:
    """Train and save into the folder `out`; yields an Event every few steps and "done" at the end.

    A finished training of the same inputs is not repeated, an interrupted one goes on from its last checkpoint.
    """
    from avatars.trainer import Trainer  # after TrainConfig exists

    out = Path(out)
    key = inputs_hash(tracked, config)
    finished = finished_event(out, key)
    if finished is not None:
        yield finished
        return
    if missing := tracked.missing_pictures():  # now, not after minutes of training
        raise AvatarError(
            f"{len(missing)} pictures of {tracked.folder} are missing or empty, the first {missing[0]}. Run the tracking again "
            "(`avatars track` or `avatars demo`, as before): it decodes only the clips in which frames are missing."
        )
    out.mkdir(parents=True, exist_ok=True)
    save_config(config, out / "train.toml")
    split = split_of(tracked, config.held_out_cameras, config.held_out_sequences, config.held_out_last)
    cache = PictureCache(tracked, config.cache_megabytes)
    checkpoint = out / "checkpoint.safetensors"
    trainer = Trainer(tracked, head_of(tracked), split, config, cache, torch.device(device))
    resumed = trainer.resume(checkpoint, key)
    if not resumed:
        trainer.initialise()
    yield trainer.event("start")

    saved = time.monotonic()
    usable = tracked.valid & split.cameras
    curves = out / "events.jsonl"
    with growing(curves), open(curves, "a" if resumed else "w", encoding="utf-8") as log:
        source = batches(cache, split.frames, usable, config.views, config.seed, trainer.step)
        try:
            while trainer.fraction < 1:
                if is_paused(out):
                    trainer.save(checkpoint, key)  # a kill while it waits loses nothing
                    log.flush()
                    while is_paused(out):
                        os.utime(out / "events.jsonl")  # it waits, but it lives
                        yield trainer.event("paused")
                        time.sleep(PAUSE_SECONDS)
                    trainer.rest()
                    saved = time.monotonic()
                kind = trainer.advance(next(source))
                now = time.monotonic()
                if kind == "refine" or trainer.step % 10 == 0:
                    event = trainer.event(kind)
                    log.write(json.dumps(asdict(event)) + "\n")
                    yield event
                if now - saved >= config.checkpoint_seconds:
                    trainer.save(checkpoint, key)
                    log.flush()
                    saved = time.monotonic()
                    yield trainer.event("checkpoint")
        finally:
            source.close()
    trainer.save(checkpoint, key)
    rights.carry(tracked.folder, out)
    save_avatar(trainer.avatar(key), out)
    resume(out)
    yield trainer.event("done")


def finished_event(out: Path, key: str) -> Event | None:
    """The last event of a finished training of the same inputs in `out`, or None."""
    manifest = out / "manifest.json"
    if not manifest.exists():
        return None
    m = read_json(manifest, "avatar")
    provenance = m.get("provenance", {}) if isinstance(m, dict) and m.get("kind") == KIND else {}
    if provenance.get("inputs") != key:
        return None
    try:
        load_avatar(out)
    except AvatarError:
        return None
    return Event(
        "done", provenance["steps"], 1.0, provenance["seconds"], 0.0, provenance["steps"] / max(provenance["seconds"], 1e-9),
        m["gaussians"], provenance["psnr"],
    )  # fmt: skip


__all__ = ["Avatar", "Event", "Split", "TrainConfig", "finished_event", "head_of", "inputs_hash", "split_of", "train"]
