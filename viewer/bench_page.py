"""python -m viewer.bench_page AVATAR: what the exported page costs in JavaScript, in a real browser, opened from disk.

Writes the page of the avatar with its Gaussians repeated to the count asked for, opens it as file:// in headless Chromium, and measures
each frame's work on the CPU: blendshapes and skinning, corrections, binding, depth sort, handing over to WebGL. What the graphics card
does is not in it. Every frame has another expression, pose and camera, so nothing is reused.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from avatars import deform
from avatars.avatar import Avatar, load_avatar
from avatars.errors import UserError
from avatars.export import export
from avatars.files import write_json
from viewer.browser import chromium, missing

FRAMES_A_SECOND = 30.0  # the bar
PARTS = ("vertices", "corrections", "binding", "sort", "upload", "total")


@dataclass(frozen=True)
class BenchPageConfig:
    """python -m viewer.bench_page out/demo/avatar --gaussians 50000"""

    avatar: Annotated[Path, tyro.conf.Positional]
    """Avatar folder."""
    gaussians: int = 50_000
    """Repeat or cut the avatar's Gaussians to this many; 0: as they are."""
    frames: int = 120
    """Frames to measure, after a few that warm up the compiler."""
    out: Path | None = None
    """Write the figures here as JSON."""


def with_count(avatar: Avatar, count: int) -> Avatar:
    """The avatar with `count` Gaussians: the first ones, begun again as often as needed."""
    rows = torch.arange(count) % len(avatar.gaussians)
    parameters = {k: v[rows] if k.startswith(deform.PER_GAUSSIAN) else v for k, v in avatar.parameters.items()}
    return replace(avatar, gaussians=avatar.gaussians[rows], parameters=parameters)


def measure(page: Any, frames: int) -> dict[str, float]:
    """Milliseconds a frame in an opened page: the median of each part, and the least total (what a quiet machine takes)."""
    page.wait_for_selector("#state.ready", state="attached", timeout=60_000)
    page.evaluate("avatar.measure(20)")
    result = page.evaluate("frames => avatar.measure(frames)", frames)
    figures = {f"{part}_ms": statistics.median(t[part] for t in result["times"]) for part in PARTS}
    figures["least_total_ms"] = min(t["total"] for t in result["times"])
    figures["fps"] = 1000 / figures["total_ms"]
    return {"gaussians": result["gaussians"], "vertices": result["vertices"], "bases": result["bases"], **figures}


def main() -> None:
    """Command line."""
    config = tyro.cli(BenchPageConfig, description=__doc__)
    reason = missing()
    if reason:
        raise UserError(f"The page's benchmark needs a browser: {reason}.")
    avatar = load_avatar(config.avatar)
    if config.gaussians:
        avatar = with_count(avatar, config.gaussians)
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        file = Path(folder) / "avatar.html"
        export(avatar, avatar.head.neutral(), file, "html")
        page = browser.new_page(viewport={"width": 640, "height": 480})
        page.goto(file.as_uri())
        figures = measure(page, config.frames) | {"file_mb": file.stat().st_size / 1e6}
    for name, value in figures.items():
        print(f"  {name:16s} {value:8.1f}" if isinstance(value, float) else f"  {name:16s} {value:8d}")
    print(f"  bar ≥ {FRAMES_A_SECOND:g} frames a second of JavaScript: {'met' if figures['fps'] >= FRAMES_A_SECOND else 'MISSED'}")
    if config.out is not None:
        write_json(config.out, {k: round(v, 2) for k, v in figures.items()})


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"viewer.bench_page: {error}")
