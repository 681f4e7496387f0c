"""How far the sound is from the pictures: measured in the page, between what the eye and the ear get.

`Marked` wraps a stage: its recording is repeated to one long sequence with a sound, and each picture carries its time as
black and white cells along its upper edge. The page reads the cells of every picture that it is about to show and, in the frame
that shows it, the position of the sound; neither the viewer's own clock nor its own idea of the delay takes part.
"""

from __future__ import annotations

import tempfile
import wave
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from avatars.sequence import Segment
from viewer.app import Viewer
from viewer.browser import open_viewer
from viewer.stage import Request, Stage, Timeline

STEPS = 16  # to which a frame's time is known: 1/16 of it
BITS = 20
CELLS = BITS + 2  # first one white, last one black: a picture without them is not ours
WINDOW_SECONDS = 5.0
SETTLE_SECONDS = 2.0  # at the beginning, while the browser starts the sound

READ_PICTURES = f"""
window.avSound = [];
const hand = ImageBitmapRenderingContext.prototype.transferFromImageBitmap, strip = new OffscreenCanvas({CELLS}, 1);
const pen = strip.getContext("2d", {{ willReadFrequently: true }});
ImageBitmapRenderingContext.prototype.transferFromImageBitmap = function (bitmap) {{
  const cell = bitmap.width / {CELLS}, row = Math.max(1, Math.floor(bitmap.height / 60));
  for (let i = 0; i < {CELLS}; i++) pen.drawImage(bitmap, Math.floor((i + 0.25) * cell), 0, Math.ceil(cell / 2), row, i, 0, 1, 1);
  const cells = pen.getImageData(0, 0, {CELLS}, 1).data, bit = (i) => cells[4 * i] > 127;
  hand.call(this, bitmap);
  if (!bit(0) || bit({CELLS - 1})) return;
  let time = 0;
  for (let i = 1; i <= {BITS}; i++) time = 2 * time + bit(i);
  requestAnimationFrame(() => {{
    const audio = document.querySelector("#av audio");
    window.avSound.push([performance.now() / 1000, time / {STEPS}, audio.paused ? null : audio.currentTime]);
  }});
}};
"""


class Marked:
    """`stage` with its recording repeated for `seconds`, a sound, and the time in each picture."""

    def __init__(self, stage: Stage, seconds: float, folder: Path, rate: int = 22_050) -> None:
        if stage.timeline is None:
            raise ValueError("a stage without a recording cannot be played")
        self._stage, self._length = stage, stage.timeline.length
        self.timeline = Timeline(stage.timeline.fps, (Segment("Minute", 0, round(seconds * stage.timeline.fps)),))
        self.references: tuple[str, ...] = ()
        self._sound = folder / "minute.wav"
        t = np.arange(round(seconds * rate)) / rate
        click = (t % 1.0 < 0.02) * np.sin(2 * np.pi * 880 * t)  # one a second, for ears
        with wave.open(str(self._sound), "wb") as file:
            file.setparams((1, 2, rate, len(t), "NONE", ""))
            file.writeframes((9000 * click).astype("<i2").tobytes())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stage, name)

    def render(self, request: Request) -> np.ndarray:
        """The stage's picture with its time written over the uppermost rows."""
        picture = self._stage.render(replace(request, time=request.time % self._length)).copy()
        value = round(request.time * STEPS) % (1 << BITS)
        cells = np.array([1, *((value >> i) & 1 for i in reversed(range(BITS))), 0], np.uint8) * 255
        at = np.minimum((np.arange(request.width) * CELLS / request.width).astype(int), CELLS - 1)
        picture[: max(request.height // 20, 8)] = cells[at][None, :, None]
        return picture

    def weights(self, time: float) -> np.ndarray:
        """The recorded expression, repeated."""
        return self._stage.weights(time % self._length)

    def sound(self, sequence: str) -> Path | None:
        """One click a second."""
        return self._sound


def drifts(samples: list[list[float | None]], fps: float) -> tuple[np.ndarray, np.ndarray]:
    """(seconds since playing began [N], sound minus picture in seconds [N]) of what the page noted; without the start."""
    heard = [(at, sound - frame / fps) for at, frame, sound in samples if sound is not None and at is not None and frame is not None]
    if not heard:
        return np.zeros(0), np.zeros(0)
    times, errors = np.array(heard).T
    times -= float(samples[0][0] or 0.0)
    keep = times > SETTLE_SECONDS
    return times[keep], errors[keep]


def figures(times: np.ndarray, errors: np.ndarray) -> dict[str, float]:
    """Milliseconds, + where the sound is early: the median; the most that the median of any window of five seconds is off,
    which is the drift that a person could notice; and the 95th percentile over single pictures, with the jitter of their arrival."""
    if len(times) < 20:
        raise RuntimeError(f"only {len(times)} pictures were shown with sound")
    starts = np.arange(times[0], max(times[-1] - WINDOW_SECONDS, times[0] + 0.01), WINDOW_SECONDS / 2)
    windows = [errors[(times >= a) & (times < a + WINDOW_SECONDS)] for a in starts]
    return {
        "sound_seconds": float(times[-1]),
        "sound_offset_ms": 1000 * float(np.median(errors)),
        "sound_drift_ms": 1000 * max(abs(float(np.median(w))) for w in windows if len(w)),
        "sound_p95_ms": 1000 * float(np.percentile(np.abs(errors), 95)),
    }


def sound_drift(
    stage: Stage, browser: Any, width: int, height: int, seconds: float, keep: Callable[[Any], object] = lambda _: None
) -> dict[str, float]:
    """Play `stage` for `seconds` in a page of that size; `keep` is given the page while it plays."""
    with tempfile.TemporaryDirectory() as folder, Viewer(cast(Stage, Marked(stage, seconds + 10, Path(folder)))) as viewer:
        context = browser.new_context(viewport={"width": width, "height": height})
        try:
            context.add_init_script(READ_PICTURES)
            page = context.new_page()
            open_viewer(page, viewer.url)
            page.wait_for_timeout(500)
            page.evaluate("window.avSound.length = 0")
            page.get_by_label("Play or pause").click()
            page.wait_for_timeout(1000 * seconds)
            keep(page)
            samples = page.evaluate("window.avSound")
        finally:
            context.close()
        return figures(*drifts(samples, viewer.stage.timeline.fps))  # type: ignore[union-attr]
