"""What a step of training costs, everything included, and where the time goes.

The real trainer takes steps on a synthetic person (the default head with coloured Gaussians, filmed by cameras on an arc), or on a tracked
capture. A gate comes first: the loss and all gradients of one step by the kernels and by the plain torch reference must agree.
"""

from __future__ import annotations

import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from avatars.errors import AvatarError
from avatars.gaussians import sample_surface, with_colors
from avatars.head import HeadModel, load_head
from avatars.pictures import PictureCache, batches, load_batch
from avatars.render import render
from avatars.sequence import Segment, TrackedSequence, load_tracked
from avatars.train import Split, TrainConfig, head_of, split_of
from avatars.train_config import DeformSettings
from avatars.trainer import Trainer
from avatars.transforms import look_at
from avatars.types import Cameras, Gaussians, HeadPose
from cuda_ext import native, ops

LOSS_LIMIT, GRADIENT_LIMIT = 1e-5, 1e-3  # relative; both paths compute in float32, whose sums over pixels differ in the fifth digit


@dataclass(frozen=True)
class Part:
    """One part of a step: milliseconds of wall time, when it runs, and how often per step."""

    name: str
    minimum: float
    median: float
    per_step: float


@dataclass(frozen=True)
class StepTimes:
    """Times of steps in milliseconds. `cpu`: all threads together."""

    threads: int
    gaussians: int
    views: int
    pixels: float  # mean per step, over all views
    cpu_min: float
    cpu_median: float
    wall_min: float
    wall_median: float
    parts: list[Part] = field(default_factory=list)


def synthetic(size: int = 256, frames: int = 12, seed: int = 0) -> tuple[TrackedSequence, PictureCache, HeadModel]:
    """A person that never was: the default head with a smooth pattern, moving, in four pictures of size² per frame."""
    head, generator = load_head(), torch.Generator().manual_seed(seed)
    shaped = head.settle(head.mean_identity())
    canonical = sample_surface(head, shaped.vertices, 30_000, generator)
    where = shaped.vertices[head.faces[canonical.face_ids]].mean(1)
    canonical = with_colors(
        canonical,
        0.5 + 0.25 * torch.sin(where * torch.tensor([90.0, 70.0, 110.0])) + 0.1 * torch.rand(len(canonical), 1, generator=generator),
    )
    expression = 0.3 * torch.rand(frames, head.E, generator=generator) * (torch.rand(frames, head.E, generator=generator) > 0.7)
    joints = 0.05 * torch.randn(frames, head.J, 3, generator=generator)
    codes = HeadPose(expression, joints, 0.1 * torch.randn(frames, 3, generator=generator), torch.zeros(frames, 3))
    middle = shaped.vertices[:, 1].quantile(0.6)
    views = []
    for angle in (-0.8, -0.3, 0.25, 0.7):
        eye = torch.tensor([math.sin(angle), 0.0, math.cos(angle)]) + torch.tensor([0.0, float(middle), 0.0])
        views.append(look_at(eye, torch.tensor([0.0, float(middle), 0.0]), torch.tensor([0.0, 1.0, 0.0])))
    K = torch.tensor([[2.6 * size, 0, size / 2 + 1.3], [0, 2.6 * size, size / 2 - 0.7], [0, 0, 1]])
    cameras = Cameras(("a", "b", "c", "d"), K.repeat(4, 1, 1), torch.stack(views), size, size)
    tracked = TrackedSequence(
        Path(tempfile.gettempdir()), "synthetic", 24.0, cameras, (Segment("ONE", 0, frames),), head.mean_identity(), codes,
        np.ones((frames, 4), bool), head.name, head.content_hash(), head.expression_names,
    )  # fmt: skip
    cache = PictureCache(tracked, 1e6)
    for t in range(frames):
        vertices = head.vertices(shaped, codes[t])[0]
        means, quats, scales = ops.bind(
            vertices, head.faces, canonical.face_ids, canonical.means, canonical.quats, canonical.log_scales, log_scales=True
        )
        image = render(Gaussians(means, quats, scales, torch.full((len(means),), 0.9), canonical.sh), cameras)
        pictures = (torch.cat([image.color, image.alpha], 3).clamp(0, 1) * 255).round().byte().numpy()
        for c in range(4):
            cache.kept[t, c] = pictures[c]
    return tracked, cache, head


def trainer_for(tracked: TrackedSequence, cache: PictureCache, head: HeadModel, config: TrainConfig) -> Trainer:
    """A trainer at its start."""
    split: Split = split_of(tracked, config.held_out_cameras, config.held_out_sequences)
    trainer = Trainer(tracked, head, split, config, cache, torch.device("cpu"))
    trainer.initialise()
    return trainer


def config_for(gaussians: int, views: int, steps: int) -> TrainConfig:
    """The recipe of `avatars demo`, with all Gaussians from the start, at full resolution, the corrections on: the dearest part of a training."""
    return TrainConfig(
        minutes=0, steps=steps, gaussians=gaussians, initial=1.0, views=views, half_until=0.0, deform_start=0.0, refine_from=0.0,
        deform=DeformSettings(bases=12), checkpoint_seconds=1e9,
    )  # fmt: skip


# correctness


def gate(size: int = 48) -> dict[str, float]:
    """Relative difference between kernels and reference: of the loss, and of each gradient. AvatarError when one is too large."""
    trainer = trainer_for(*synthetic(size, 1), config_for(600, 2, 10))
    with torch.no_grad():  # corrections start at zero, where half of the gradients vanish
        basis = trainer.params["deform.each_basis"]
        basis.copy_(0.01 * torch.randn(basis.shape, generator=torch.Generator().manual_seed(1)))
    batch = load_batch(trainer.cache, 0, (1, 2))
    found: list[tuple[float, dict[str, Tensor]]] = []
    for policy in ("native", "reference"):
        with patch.dict(os.environ, AVATARS_KERNELS=policy):
            pose = trainer.pose(0, tuned=True)
            loss, _ = trainer.loss(pose, trainer.targets.of(batch, 0, halved=False), tuned=True)
            loss.backward()
        leaves = trainer.params | {f"codes.{k}": v for k, v in vars(pose).items()}
        for leaf in leaves.values():
            factors = native.factors_of(leaf)
            if factors is not None:
                factors.settle(whole=True)
        found.append((float(loss.detach()), {k: v.grad.double() for k, v in leaves.items() if v.grad is not None}))
        trainer.adam.zero_grad()
    (loss, gradients), (right_loss, right) = found
    figures = {"loss": abs(loss - right_loss) / abs(right_loss)}
    figures |= {k: float((gradients[k] - v).norm() / v.norm().clamp_min(1e-30)) for k, v in right.items()}
    wrong = [k for k, v in figures.items() if not v <= (LOSS_LIMIT if k == "loss" else GRADIENT_LIMIT)]
    if wrong or gradients.keys() != right.keys():
        raise AvatarError(
            f"The kernels and the reference disagree about a training step: {', '.join(f'{k} by {figures[k]:.1e}' for k in wrong)}."
        )
    return figures


# times


class Stopwatch:
    """Wall time of the calls of chosen functions."""

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = {}
        self.spent = 0.0  # milliseconds in all calls so far

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, watched."""
        record = self.times.setdefault(name, [])

        def call(*args: Any, **options: Any) -> Any:
            begin = time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                record.append(1e3 * (time.perf_counter() - begin))
                self.spent += record[-1]

        return call

    @contextmanager
    def watching(self, trainer: Trainer) -> Iterator[None]:
        """Watch the parts of the trainer's steps."""
        methods = (
            (trainer.targets, "of", "targets"), (trainer.adam, "step", "Adam"), (trainer.code_adam, "step", "Adam of the codes"),
            (trainer, "_observe", "running figures"), (trainer, "_refine", "densification"),
        )  # fmt: skip
        with ExitStack() as stack:
            for name, function in native.FUNCTIONS.items():
                for way, label in (("forward", name), ("backward", f"{name} backward")):
                    stack.enter_context(patch.object(function, way, staticmethod(self.timed(label, getattr(function, way)))))
            for owner, method, label in methods:
                stack.enter_context(patch.object(owner, method, self.timed(label, getattr(owner, method))))
            yield

    def parts(self, rest: list[float]) -> list[Part]:
        """All that was watched, the dearest first, and what was left of each step: Python, torch and autograd."""
        found = [Part(k, min(v), statistics.median(v), len(v) / len(rest)) for k, v in self.times.items() if v]
        found.sort(key=lambda p: -p.median * p.per_step)
        return [*found, Part("Python, torch, autograd", min(rest), statistics.median(rest), 1.0)]


def measure(trainer: Trainer, threads: int, steps: int, warm: int = 60) -> StepTimes:
    """Take `steps` steps on `threads` threads after `warm` ones; once for the totals, once more for the parts."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    usable = trainer.tracked.valid & trainer.split.cameras
    config = trainer.config
    source = batches(trainer.cache, trainer.split.frames, usable, config.views, config.seed, trainer.step)
    pixels: list[int] = []

    watch = Stopwatch()

    def run(count: int) -> tuple[list[float], list[float], list[float]]:
        cpu, wall, rest = [], [], []
        for _ in range(count):
            c, w, spent = time.process_time(), time.perf_counter(), watch.spent
            batch = next(source)  # waiting for pictures counts
            trainer.advance(batch)
            wall.append(1e3 * (time.perf_counter() - w))
            cpu.append(1e3 * (time.process_time() - c))
            rest.append(wall[-1] - (watch.spent - spent))
            pixels.append(batch.images[..., 0].numel())
        return cpu, wall, rest

    try:
        run(warm)
        cpu, wall, _ = run(steps)
        with watch.watching(trainer):
            _, _, rest = run(steps)
    finally:
        source.close()
        torch.set_num_threads(before)
    return StepTimes(
        threads, len(trainer.face_ids), config.views, statistics.fmean(pixels), min(cpu), statistics.median(cpu), min(wall),
        statistics.median(wall), watch.parts(rest),
    )  # fmt: skip


def step_times(tracked: Path | None, gaussians: int, views: int, threads: int, steps: int) -> StepTimes:
    """Steps on a synthetic person at 256², or on the tracked capture in the folder `tracked` with its own windows."""
    config = config_for(gaussians, views, 10 * steps)
    if tracked is None:
        trainer = trainer_for(*synthetic(), config)
    else:
        sequence = load_tracked(tracked)
        trainer = trainer_for(sequence, PictureCache(sequence, config.cache_megabytes), head_of(sequence), replace(config))
    return measure(trainer, threads, steps)


def table(times: StepTimes) -> str:
    """For people."""
    lines = [
        f"a training step: {times.gaussians} Gaussians, {times.views} view{'s' * (times.views > 1)}, {times.pixels / times.views:.0f} pixels each, "
        f"{times.threads} thread{'s' * (times.threads > 1)}",
        f"  CPU time {times.cpu_min:.2f} ms at best, {times.cpu_median:.2f} at the median; wall time {times.wall_min:.2f}, {times.wall_median:.2f}",
        f"  {1e3 / times.wall_median:.0f} steps a second at the median, {1e3 / times.wall_min:.0f} at best",
        f"  {'part':28} {'min ms':>8} {'median':>8} {'a step':>7}",
    ]
    lines += [f"  {p.name:28} {p.minimum:8.3f} {p.median:8.3f} {p.per_step:7.2f}" for p in times.parts]
    return "\n".join(lines)
