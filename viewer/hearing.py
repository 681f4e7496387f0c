"""Driving by voice: the page sends its microphone in small pieces over the bar's socket, a sound driver answers codes.

Pieces are int16 samples, little endian, mono, at `avatars.drive.sound.RATE`; the microphone belongs to one browser, which alone
follows it. Nothing is sent before somebody asks for it in the panel, and the browser asks for permission in its own words.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from avatars.drive import ARKIT_NAMES, sound
from viewer.follow import VALUES, Follower

MOST_PIECE = sound.RATE  # samples: a second


class Microphone(Follower):
    """One browser's microphone. `wanted` is what the page should do; `heard` are pieces that it sent."""

    nothing = "The microphone has not been heard yet."

    def __init__(self, changed: Callable[[], None], clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(changed, clock)
        self.wanted = False
        self.trouble = ""
        self.driver = sound.DEFAULT
        self._start()

    def _start(self) -> None:
        self._driver = sound.start(self.driver)
        self._columns = [ARKIT_NAMES.index(n) for n in self._driver.names]

    def listen(self, driver: str = sound.DEFAULT) -> None:
        """Ask the page for its microphone and hear it with that driver; UserError when there is no such driver."""
        self.driver, self.trouble = driver, ""
        self._start()
        self.wanted = True
        self.changed()

    def stop(self, trouble: str = "") -> None:
        """No more; `trouble` is what the browser said."""
        self.wanted, self.trouble = False, trouble[:200]
        with self._lock:
            self._raw = None
        self.changed()

    def hear(self, piece: bytes) -> None:
        """Act on a piece of sound; ValueError when it is none, or none was asked for."""
        if not self.wanted:
            raise ValueError("no microphone was asked for")
        if not piece or len(piece) % 2 or len(piece) > 2 * MOST_PIECE:
            raise ValueError(f"{len(piece)} bytes are no piece of sound")
        weights = self._driver.hear(np.frombuffer(piece, "<i2").astype(np.float32) / 32768)
        if len(weights):
            frames = np.zeros((len(weights), VALUES))
            frames[:, self._columns] = weights
            self.receive("the microphone", frames, 1 / self._driver.fps)

    @property
    def status(self) -> str:
        """One sentence for the panel."""
        if self.trouble:
            return f"The browser gives no microphone: {self.trouble}"
        if not self.wanted:
            return "The microphone is off."
        if self._raw is None:
            return "Waiting for the microphone: allow it in the browser."
        text = "The microphone is silent." if self.silent else "Following the microphone."
        return f"{text} Recording: {len(self._recording)} frames." if self._recording is not None else text
