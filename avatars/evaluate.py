"""How good an avatar is: held-out cameras (novel view) and held-out sequences driven by their tracked codes (self-reenactment).

Pictures are compared over white, inside the matte of the recording (the protocol of GaussianAvatars and NeRSemble). Cameras
that were trained on are compared in their own colours, others in the avatar's.
`evaluate` returns what report.json holds; see `avatars.report` for the page made of it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from avatars import metrics
from avatars.avatar import Avatar
from avatars.errors import ConfigError
from avatars.progress import Progress, silent
from avatars.render import render
from avatars.sequence import TrackedSequence

PROTOCOLS = ("novel_view", "self_reenactment")


@dataclass(frozen=True)
class EvalConfig:
    """What is measured, and how finely."""

    novel_views: int = 48
    """At most so many pictures of held-out cameras, spread evenly over the trained frames."""
    reenactments: int = 96
    """At most so many pictures of held-out frames, spread evenly over frames and cameras."""
    lpips_weights: Path | None = None
    """Network weights for LPIPS (.safetensors or .pth); without them LPIPS is left out."""
    backend: str = "auto"
    """Renderer."""
    examples: int = 3
    """Pictures kept for the report, per protocol."""


@dataclass(frozen=True)
class Example:
    """One comparison for the report."""

    protocol: str
    sequence: str
    frame: int  # within the sequence
    camera: str
    truth: np.ndarray  # [H, W, 3] uint8
    rendered: np.ndarray  # [H, W, 3] uint8
    psnr: float  # foreground


@dataclass(frozen=True)
class Evaluation:
    """Figures, the curves behind them, and pictures."""

    report: dict[str, Any]  # the content of report.json
    curves: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # protocol → one record per picture
    examples: tuple[Example, ...] = ()


def pictures_of(avatar: Avatar, tracked: TrackedSequence, config: EvalConfig) -> dict[str, list[tuple[int, int]]]:
    """(frame, camera) pairs per protocol; a protocol whose data were not held out is absent."""
    line = avatar.timeline
    held = np.array([n in line.held_out_cameras for n in tracked.cameras.names])
    out_frames = held_out_frames(avatar, tracked)
    trained = [t for t in range(tracked.frame_count) if t not in out_frames]
    pairs = {
        "novel_view": [(t, c) for t in trained for c in np.flatnonzero(held & tracked.valid[t]).tolist()],
        "self_reenactment": [(t, c) for t in sorted(out_frames) for c in np.flatnonzero(tracked.valid[t]).tolist()],
    }
    limits = {"novel_view": config.novel_views, "self_reenactment": config.reenactments}
    return {k: _spread(v, limits[k]) for k, v in pairs.items() if v}


def held_out_frames(avatar: Avatar, tracked: TrackedSequence) -> set[int]:
    """Frames of the timeline that training has not seen."""
    frames = {t for s in tracked.segments if s.name in avatar.timeline.held_out_sequences for t in range(s.start, s.stop)}
    last = int(avatar.provenance.get("held_out_last", 0))
    return frames | set(range(tracked.frame_count - last, tracked.frame_count))


@torch.no_grad()
def evaluate(avatar: Avatar, tracked: TrackedSequence, config: EvalConfig | None = None, progress: Progress = silent) -> Evaluation:
    """Measure `avatar` on the pictures of `tracked` that it was not trained on, and how fast it renders."""
    config = config or EvalConfig()
    if tuple(tracked.expression_names) and tuple(tracked.expression_names) != tuple(avatar.head.expression_names):
        raise ConfigError(f"{tracked.folder} was tracked with other expressions than the avatar's head {avatar.head.name} has.")
    started = time.monotonic()
    lpips = metrics.load_lpips(config.lpips_weights) if config.lpips_weights is not None else None
    pairs = pictures_of(avatar, tracked, config)
    total = sum(len(v) for v in pairs.values())
    curves: dict[str, list[dict[str, Any]]] = {}
    examples: list[Example] = []
    done = 0
    for protocol, chosen in pairs.items():
        shown = {chosen[i] for i in np.linspace(0, len(chosen) - 1, min(config.examples, len(chosen))).round().astype(int)}
        for t, cameras in _by_frame(chosen).items():
            records, found = _compare(avatar, tracked, protocol, t, cameras, config.backend, lpips, shown)
            curves.setdefault(protocol, []).extend(records)
            examples += found
            done += len(cameras)
            progress("evaluating", done, total, {"psnr": f"{records[-1]['psnr.foreground']:.2f} dB"})
    report: dict[str, Any] = {p: summary(curves[p]) if p in curves else None for p in PROTOCOLS}
    quality = tracked.quality
    report["tracking"] = {k: quality.get(k) for k in ("landmark_px", "mesh_mm")}
    report["render"] = {"fps": frames_per_second(avatar, config.backend), "width": tracked.cameras.width, "height": tracked.cameras.height}
    report["gaussians"] = len(avatar.gaussians)
    report["model_mb"] = round(avatar.megabytes, 3)
    report["seconds"] = {
        "track": _total(tracked.provenance.get("seconds")),
        "train": avatar.provenance.get("seconds"),
        "eval": time.monotonic() - started,
    }
    report["capture"] = tracked.capture
    report["held_out"] = {"cameras": list(avatar.timeline.held_out_cameras), "sequences": list(avatar.timeline.held_out_sequences)}
    return Evaluation(report, curves, tuple(examples))


def summary(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over pictures: {psnr, ssim, lpips} over the image, and the same under foreground, mouth and eyes."""
    result: dict[str, Any] = {}
    for region in metrics.REGIONS:
        values = {m: _mean([r[f"{m}.{region}"] for r in records if f"{m}.{region}" in r]) for m in ("psnr", "ssim", "lpips")}
        result.update(values if region == "image" else {region: values})
    result["pictures"] = len(records)
    return result


def frames_per_second(avatar: Avatar, backend: str = "auto", frames: int = 12) -> float:
    """Poses evaluated and rendered per second from the first camera, at the size of the recording."""
    line = avatar.timeline
    camera = line.cameras[0]
    render(avatar.at(avatar.frame(0)), camera, torch.ones(3), backend)
    started = time.monotonic()
    image = None
    for i in range(frames):
        image = render(avatar.at(avatar.frame(i % max(line.frame_count, 1))), camera, torch.ones(3), backend)
    if image is not None:
        image.color[0, 0, 0].cpu()  # waits for the device
    return frames / (time.monotonic() - started)


def _compare(
    avatar: Avatar, tracked: TrackedSequence, protocol: str, t: int, camera_ids: list[int], backend: str,
    lpips: Callable[[Tensor, Tensor], Tensor] | None, shown: set[tuple[int, int]],
) -> tuple[list[dict[str, Any]], list[Example]]:  # fmt: skip
    """Records and examples of one frame seen by some cameras."""
    device = avatar.gaussians.means.device
    cameras = tracked.cameras[camera_ids].to(device)
    # Codes of training frames were tuned; held-out ones are the tracked ones, both in the avatar's timeline.
    pose = avatar.frame(t) if avatar.timeline.frame_count == tracked.frame_count else tracked.codes[t]
    masks = torch.from_numpy(np.stack([tracked.mask(t, c) for c in camera_ids])).to(device).float() / 255
    images = torch.from_numpy(np.stack([tracked.image(t, c) for c in camera_ids])).to(device).float() / 255
    truth = images * masks[..., None] + (1 - masks[..., None])
    drawn = avatar.recolored(render(avatar.at(pose), cameras, None, backend), cameras)
    rendered = (drawn.color + (1 - drawn.alpha)).clamp(0, 1)  # the white background passed through no sensor
    regions = metrics.region_masks(avatar.head, avatar.vertices(pose)[0], cameras, masks)
    columns: dict[str, list[float]] = {}
    for region, weights in regions.items():
        columns[f"psnr.{region}"] = metrics.psnr(rendered, truth, weights).tolist()
        columns[f"ssim.{region}"] = metrics.ssim(rendered, truth, weights).tolist()
        if lpips is not None:
            mask = 1.0 if weights is None else weights[..., None]
            columns[f"lpips.{region}"] = lpips(rendered * mask + 1 - mask, truth * mask + 1 - mask).tolist()
    segment, local = tracked.locate(t)
    records, examples = [], []
    for i, c in enumerate(camera_ids):
        name = tracked.cameras.names[c]
        records.append({"sequence": segment.name, "frame": local, "camera": name} | {k: v[i] for k, v in columns.items()})
        if (t, c) in shown:
            bytes_ = [(x[i] * 255).round().byte().cpu().numpy() for x in (truth, rendered)]
            examples.append(Example(protocol, segment.name, local, name, *bytes_, psnr=columns["psnr.foreground"][i]))
    return records, examples


def _by_frame(pairs: list[tuple[int, int]]) -> dict[int, list[int]]:
    result: dict[int, list[int]] = {}
    for t, c in pairs:
        result.setdefault(t, []).append(int(c))
    return result


def _spread(pairs: list[tuple[int, int]], limit: int) -> list[tuple[int, int]]:
    """At most `limit` of them, evenly spread."""
    if len(pairs) <= limit:
        return pairs
    return [pairs[int(i)] for i in np.unique(np.linspace(0, len(pairs) - 1, limit).round())]


def _total(seconds: Any) -> float | None:
    """Tracking may state its time as one number or one per stage, with or without their total."""
    if isinstance(seconds, dict):
        if isinstance(seconds.get("total"), (int, float)):
            return float(seconds["total"])
        return float(sum(v for v in seconds.values() if isinstance(v, (int, float))))
    return float(seconds) if isinstance(seconds, (int, float)) else None


def _mean(values: list[float]) -> float | None:
    known = [v for v in values if not math.isnan(v)]
    return round(float(np.mean(known)), 4) if known else None
