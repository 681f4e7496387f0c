"""python -m viewer.bench AVATAR [TRACKED]: what a person in front of a real browser gets.

Opens the avatar in headless Chromium on a canvas of the given size and measures, in the page: pictures a second while
playing (each counted in the browser's frame that shows it), the time from a key press on a slider to the picture that
shows it, and how far the sound is from the pictures over a minute (`viewer.bench_sound`). Everything (renderer, server, browser, software graphics) shares this machine, so a person
with a graphics card sees better figures.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from avatars.errors import UserError
from avatars.files import write_json
from viewer.app import Viewer
from viewer.bench_sound import sound_drift
from viewer.browser import chromium, missing, open_viewer
from viewer.session import Session
from viewer.stage import Stage

BARS = {
    "playing_fps": (20.0, "≥"),
    "slider_p50_ms": (120.0, "≤"),
    "slider_p95_ms": (250.0, "≤"),
    "two_clients_fps": (10.0, "≥"),
    "sound_drift_ms": (40.0, "≤"),
}

_COUNT_PICTURES = """
window.avPictures = []; window.avKeys = [];
const transfer = ImageBitmapRenderingContext.prototype.transferFromImageBitmap;
ImageBitmapRenderingContext.prototype.transferFromImageBitmap = function (bitmap) {
  transfer.call(this, bitmap);
  requestAnimationFrame(() => window.avPictures.push(performance.now()));  // it is part of this frame
};
addEventListener("keydown", (event) => { if (event.key.startsWith("Arrow")) window.avKeys.push(performance.now()); }, true);
"""


@dataclass(frozen=True)
class BenchConfig:
    """python -m viewer.bench out/avatar out/tracked --width 640 --height 480"""

    avatar: Annotated[Path, tyro.conf.Positional]
    """Avatar folder."""
    tracked: Annotated[Path | None, tyro.conf.Positional] = None
    """Tracked folder with the truth pictures; not needed."""
    width: int = 640
    """Canvas, pixels."""
    height: int = 480
    """Canvas, pixels."""
    seconds: float = 8.0
    """How long to play."""
    presses: int = 25
    """Slider changes."""
    sound_seconds: float = 60.0
    """How long to compare the sound with the pictures; 0: not at all."""
    out: Path | None = None
    """Write the figures here as JSON."""


def measure(viewer: Viewer, browser: Any, width: int, height: int, seconds: float, presses: int) -> dict[str, float]:
    """All figures for one stage."""
    figures = {"draw_ms": draw_milliseconds(viewer.stage, width, height)}
    pages = [_open(viewer, browser, width, height)]
    figures |= slider_latency(pages[0], presses)
    figures |= {f"playing_{k}": v for k, v in playing(viewer, pages, seconds).items()}
    pages.append(_open(viewer, browser, width, height))
    figures["two_clients_fps"] = playing(viewer, pages, seconds)["fps"]
    for page in pages:
        page.context.close()
    return figures


def draw_milliseconds(stage: Stage, width: int, height: int, count: int = 20) -> float:
    """Median time of the stage alone, each picture at another time of the recording."""

    class Screen:
        ready = True

        def show(self, picture: Any, exact: bool, time: float) -> None: ...

    session = Session(stage, _NoLoop(), Screen(), lambda _: None)  # type: ignore[arg-type]
    import numpy as np

    session.camera_moved(np.array([1.0, 0, 0, 0]), np.zeros(3), 0.4)
    session.resized(width, height)
    times = []
    for i in range(count):
        session.transport.seek(i)
        request = session.full_request()
        started = time.perf_counter()
        stage.render(request)
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times)


def slider_latency(page: Any, presses: int) -> dict[str, float]:
    """Milliseconds from a key on a slider to the picture that shows it."""
    row = page.locator(".mantine-Flex-root", has=page.get_by_text("jawOpen", exact=True)).last
    row.scroll_into_view_if_needed()
    thumb = row.locator(".mantine-Slider-thumb")
    latencies = []
    for i in range(presses + 3):
        thumb.focus()
        page.wait_for_timeout(700)
        page.evaluate("avPictures.length = 0, avKeys.length = 0")
        thumb.press("ArrowRight" if i % 40 < 20 else "ArrowLeft")
        page.wait_for_function("avKeys.length > 0 && avPictures.some(t => t > avKeys[0])", timeout=10_000)
        if i >= 3:  # the first warm up caches
            latencies.append(page.evaluate("avPictures.find(t => t > avKeys[0]) - avKeys[0]"))
    latencies.sort()
    return {
        "slider_p50_ms": latencies[len(latencies) // 2],
        "slider_p95_ms": latencies[min(int(0.95 * len(latencies)), len(latencies) - 1)],
    }


def playing(viewer: Viewer, pages: list[Any], seconds: float) -> dict[str, float]:
    """Pictures a second that the slowest of the pages shows while all play."""
    sessions = [guest.session for guest in viewer.guests.values()]
    for page in pages:
        page.bring_to_front()
        page.get_by_label("Play or pause").click()
    pages[0].wait_for_timeout(2500)  # let the governor settle
    for page in pages:
        page.evaluate("avPictures.length = 0, window.avFrom = performance.now()")
    pages[0].wait_for_timeout(1000 * seconds)
    rates = [page.evaluate("1000 * avPictures.length / (performance.now() - avFrom)") for page in pages]
    scale = min(s.governor.scale for s in sessions)
    trip = max(s.governor.trip_seconds or 0.0 for s in sessions)
    for page in pages:
        page.get_by_label("Play or pause").click()
    pages[0].wait_for_timeout(300)
    return {"fps": min(rates), "scale": scale, "trip_ms": 1000 * trip}


def _open(viewer: Viewer, browser: Any, width: int, height: int) -> Any:
    context = browser.new_context(viewport={"width": width + 344, "height": height + 84})
    context.add_init_script(_COUNT_PICTURES)
    page = context.new_page()
    open_viewer(page, viewer.url)
    box = page.locator("#root canvas").first.bounding_box()
    page.set_viewport_size({"width": round(width + 344 + width - box["width"]), "height": round(height + 84 + height - box["height"])})
    page.wait_for_timeout(800)
    return page


class _NoLoop:
    def wake(self) -> None: ...


def main() -> None:
    """Command line."""
    config = tyro.cli(BenchConfig, description=__doc__)
    from viewer.avatar_stage import open_stage

    reason = missing()
    if reason:
        raise UserError(f"The viewer's benchmark needs a browser: {reason}.")
    stage = open_stage(config.avatar, config.tracked)
    with Viewer(stage) as viewer, chromium() as browser:
        figures = measure(viewer, browser, config.width, config.height, config.seconds, config.presses)
        if config.sound_seconds > 0 and stage.timeline is not None:
            figures |= sound_drift(stage, browser, config.width + 344, config.height + 84, config.sound_seconds)
    print(f"{stage.name}, {config.width} × {config.height}")
    for name, value in figures.items():
        bar, sense = BARS.get(name, (None, ""))
        verdict = "" if bar is None else f"  bar {sense} {bar:g}: {'met' if (value >= bar) == (sense == '≥') else 'MISSED'}"
        print(f"  {name:16s} {value:8.1f}{verdict}")
    if config.out is not None:
        write_json(config.out, {k: round(v, 2) if math.isfinite(v) else None for k, v in figures.items()})


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"viewer.bench: {error}")
