"""Playing: where on the timeline a client is. Pure; the clock is given, so tests need not wait.

The position follows from when playing began, not from counting frames, so a slow renderer drops frames and stays in
step with the sound.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from viewer.stage import Timeline

SPEEDS = (0.25, 0.5, 1.0, 2.0)


class Transport:
    """One client's clock over a timeline. `bounds` [start, stop) is what plays: a sequence, or an in–out range."""

    def __init__(self, timeline: Timeline | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.timeline = timeline if timeline is not None and timeline.length > 0 else None
        self.clock = clock
        self.playing = False
        self.loop = True
        self.speed = 1.0
        first = self.timeline.segments[0] if self.timeline else None
        self.bounds = (first.start, first.stop) if first else (0, 1)
        self._anchor_frame = float(self.bounds[0])
        self._anchor_time = clock()

    @property
    def time(self) -> float:
        """The position in frames; stands still at the last frame when there is no loop."""
        if not self.playing or self.timeline is None:
            return self._anchor_frame
        start, stop = self.bounds
        position = self._anchor_frame + (self.clock() - self._anchor_time) * self.timeline.fps * self.speed
        if position < stop:
            return position
        if self.loop:
            return start + math.fmod(position - start, stop - start)
        self._anchor_frame, self.playing = float(stop - 1), False
        return self._anchor_frame

    @property
    def frame(self) -> int:
        """The whole frame that is shown."""
        return int(self.time)

    @property
    def sequence(self) -> str:
        """The name of the sequence under the position."""
        return self.timeline.segment_at(self.time).name if self.timeline else ""

    def play(self) -> None:
        """Play on; from the start of the range when at its end or outside of it."""
        if self.timeline is None or self.playing:
            return
        start, stop = self.bounds
        if not start <= self._anchor_frame < stop - 1:
            self._anchor_frame = float(start)
        self._anchor_time = self.clock()
        self.playing = True

    def pause(self) -> None:
        """Stop at the frame that is shown."""
        position = math.floor(self.time)
        self.playing = False
        self._anchor_frame = float(position)

    def toggle(self) -> None:
        """Play or pause."""
        if self.playing:
            self.pause()
        else:
            self.play()

    def seek(self, frame: float) -> None:
        """Go to a frame. Outside of the range that plays, the range becomes that frame's sequence."""
        if self.timeline is None:
            return
        frame = min(max(float(frame), 0.0), self.timeline.length - 1.0)
        start, stop = self.bounds
        if not start <= frame < stop:
            segment = self.timeline.segment_at(frame)
            self.bounds = (segment.start, segment.stop)
        self._anchor_frame, self._anchor_time = frame, self.clock()

    def step(self, frames: int) -> None:
        """Pause and move by whole frames, within the range, around its ends."""
        self.pause()
        start, stop = self.bounds
        self._anchor_frame = float(start + (int(self._anchor_frame) - start + frames) % (stop - start))

    def set_speed(self, speed: float) -> None:
        """Times real time; the position does not jump."""
        self._anchor_frame, self._anchor_time = self.time, self.clock()
        self.speed = min(max(float(speed), 0.05), 8.0)

    def select(self, sequence: str) -> None:
        """Play the sequence of that name, from its start; ValueError when there is none."""
        for segment in self.timeline.segments if self.timeline else ():
            if segment.name == sequence:
                self.set_bounds(segment.start, segment.stop)
                self.seek(segment.start)
                return
        raise ValueError(f"no sequence {sequence!r}")

    def set_bounds(self, start: int, stop: int) -> None:
        """Play frames [start, stop): at least two frames, within the timeline."""
        if self.timeline is None:
            return
        length = self.timeline.length
        start = min(max(int(start), 0), max(length - 2, 0))
        stop = min(max(int(stop), start + min(2, length)), length)
        now = self.time
        self.bounds = (start, stop)
        self._anchor_frame, self._anchor_time = min(max(now, float(start)), float(stop - 1)), self.clock()
