"""Train an avatar on a tracked sequence: a generator of events, resumable after a kill at any moment.

    for event in train(tracked, TrainConfig(minutes=8), out):
        ...

A step renders one frame for a few cameras in one launch. Everything random derives from the seed and the step's number, and a
checkpoint holds all the rest, so a training that was killed and resumed ends with the same bits as one that was not (with a
budget of steps, on a CPU). The result is an avatar folder (`avatars.avatar`); beside it lie train.toml, checkpoint.safetensors, events.jsonl.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from avatars import deform
from avatars.avatar import KIND, Avatar, load_avatar, save_avatar
from avatars.config import save_config, to_dict
from avatars.errors import AvatarError, ConfigError
from avatars.files import content_hash, read_json
from avatars.head import HeadModel, load_head
from avatars.pictures import PictureCache, batches
from avatars.sequence import TrackedSequence


@dataclass(frozen=True)
class TrainConfig:
    """How an avatar is trained. Rates are per step of Adam."""

    minutes: float = 8.0
    """Stop after so many minutes of training; 0: no limit in time."""
    steps: int = 0
    """Stop after so many steps; 0: no limit in steps. One of the two must be given; the first one reached counts."""
    seed: int = 0
    """Everything random follows from it."""
    held_out_cameras: tuple[str, ...] = ()
    """Cameras that are never trained on: evaluated as novel views."""
    held_out_sequences: tuple[str, ...] = ()
    """Sequences that are never trained on: evaluated as self-reenactment."""
    held_out_last: int = 0
    """Hold out the last so many frames of the timeline: for a capture of one sequence."""

    gaussians: int = 40_000
    """Number of Gaussians at the end."""
    initial: float = 0.6
    """Share of them that is there at the start; the rest grows where the error is."""
    shell: float = 0.35
    """Share of the initial ones that fills what the masks show beyond the mesh: hair, collar, shoulders."""
    sh_degree: int = 1
    """Degree of the view-dependent colour, 0–3."""
    deformation: str = "blendshapes"
    """Model of expression-driven corrections: the name of a file in avatars/deform."""
    deform: deform.DeformSettings = field(default_factory=deform.DeformSettings)
    """Settings of that model."""
    deform_start: float = 0.08
    """Share of the budget after which the corrections begin."""

    views: int = 4
    """Cameras per step."""
    half_until: float = 0.0
    """Share of the budget that trains at half of the resolution."""
    mean_rate: float = 1.6e-4
    """Positions, metres per step at the start; it decays exponentially."""
    mean_decay: float = 0.02
    """Positions' rate at the end, relative to the start; the other rates decay by its square root."""
    quat_rate: float = 2e-3
    scale_rate: float = 7e-3
    opacity_rate: float = 3e-2
    color_rate: float = 5e-3
    """Constant colour; the view-dependent terms take a tenth."""
    expression_rate: float = 3e-4
    """Tuning of the tracked expressions of the training frames; 0 leaves them."""
    joint_rate: float = 1e-4
    """Tuning of joints and root rotation, radians."""
    translation_rate: float = 1e-5
    """Tuning of the root's translation, metres."""

    ssim_weight: float = 0.2
    """Share of 1 − SSIM in the photometric loss; the rest is L1."""
    mouth_weight: float = 2.0
    """Extra weight of the mouth's surroundings."""
    eyes_weight: float = 2.0
    """Extra weight of the eyes' surroundings."""
    coverage_weight: float = 0.1
    """Weight of |alpha − mask|."""
    position_weight: float = 0.01
    """Penalty on means that leave their triangle's neighbourhood."""
    scale_weight: float = 1.0
    """Penalty on scales beyond `max_scale` triangle units."""
    max_scale: float = 1.0
    """Largest free scale, triangle units."""
    lpips_weight: float = 0.0
    """Weight of LPIPS; needs `lpips_weights`."""
    lpips_weights: Path | None = None
    """Network weights for LPIPS (.safetensors or .pth); never downloaded."""
    color_ridge: float = 0.02
    """Strength that pulls each camera's colour correction towards none."""

    refine_every: int = 100
    """Steps between densifications."""
    refine_from: float = 0.05
    """Share of the budget at which densification begins."""
    refine_until: float = 0.6
    """Share of the budget at which it ends."""
    split_size: float = 0.003
    """Gaussians larger than this (metres) are split, smaller ones doubled."""
    checkpoint_seconds: float = 60.0
    """Time between checkpoints."""
    cache_megabytes: float = 1500.0
    """Memory for decoded pictures."""

    def __post_init__(self) -> None:
        if self.minutes <= 0 and self.steps <= 0:
            raise ValueError("minutes or steps must be positive")
        for name in ("gaussians", "views", "refine_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.sh_degree not in (0, 1, 2, 3):
            raise ValueError(f"sh_degree must be 0, 1, 2 or 3, got {self.sh_degree}")
        if not 0 < self.initial <= 1 or not 0 <= self.shell < 1:
            raise ValueError(f"initial must lie in (0, 1] and shell in [0, 1), got {self.initial} and {self.shell}")


@dataclass(frozen=True)
class Event:
    """Something that training tells; figures are of the moment."""

    kind: Literal["start", "step", "refine", "checkpoint", "done"]
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
        return {"psnr": f"{self.psnr:.2f} dB", "gaussians": f"{self.gaussians}", "rate": f"{self.rate:.1f} steps/s"}


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
    out.mkdir(parents=True, exist_ok=True)
    save_config(config, out / "train.toml")
    split = split_of(tracked, config.held_out_cameras, config.held_out_sequences, config.held_out_last)
    cache = PictureCache(tracked, config.cache_megabytes)
    checkpoint = out / "checkpoint.safetensors"
    trainer = Trainer(tracked, head_of(tracked), split, config, cache, torch.device(device))
    if not trainer.resume(checkpoint, key):
        trainer.initialise()
    yield trainer.event("start")

    saved = time.monotonic()
    usable = tracked.valid & split.cameras
    with open(out / "events.jsonl", "a", encoding="utf-8") as log:
        source = batches(cache, split.frames, usable, config.views, config.seed, trainer.step)
        try:
            while trainer.fraction < 1:
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
    save_avatar(trainer.avatar(key), out)
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
