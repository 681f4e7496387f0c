"""Getting server-rendered pictures onto one client's screen: JPEG while things move, PNG (the exact pixels) once still.

The pictures travel over the bar's socket as `number (4 bytes) + time in frames (8 bytes, a double; both little endian) +
encoded picture`, so that the page knows what it shows and keeps the sound in step with it. They are laid over viser's
canvas (which goes on handling the mouse) and are acknowledged by number when drawn. viser's own way, a background
image, is not acknowledged and redraws the WebGL scene for a quarter of a second per picture: with software graphics on
two cores that cost a third of the pictures. A newer picture replaces one that has not left yet.
"""

from __future__ import annotations

import asyncio
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable

import cv2
import numpy as np

JPEG_QUALITY = 88
MOST_ON_THE_WAY = 2  # pictures sent and not yet acknowledged; more would only add latency
LOST_SECONDS = 2.0  # a picture that is not acknowledged for this long does not hold up others


class ImageDisplay:
    """Shows pictures on one client. `acknowledged(seconds)` is called for each picture that the browser has drawn."""

    def __init__(self, acknowledged: Callable[[float], None], clock: Callable[[], float] = time.monotonic) -> None:
        self.acknowledged = acknowledged
        self.clock = clock
        self.sent = 0
        self.confirmed = 0
        self.last_picture: np.ndarray | None = None
        self.last_exact = False
        self._payload: tuple[int, bytes] | None = None
        self._times: dict[int, float] = {}
        self._lock = threading.Lock()
        self._news: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None

    @property
    def ready(self) -> bool:
        """Whether another picture may be sent."""
        with self._lock:
            if self._news is None:
                return False
            if self.sent - self.confirmed < MOST_ON_THE_WAY:
                return True
            return self.clock() - self._times.get(self.sent, -LOST_SECONDS) > LOST_SECONDS

    def show(self, picture: np.ndarray, exact: bool, time: float = 0.0) -> None:
        """Display uint8 RGB [H, W, 3] of that `time` (frames), stretched to the canvas; `exact` sends it without loss."""
        encoded = encode(picture, exact)
        with self._lock:
            self.sent += 1
            self._payload = (self.sent, struct.pack("<Id", self.sent, time) + encoded)
            self._times = {n: t for n, t in self._times.items() if n > self.confirmed} | {self.sent: self.clock()}
            self.last_picture, self.last_exact = picture, exact
        self._announce()

    def confirm(self, number: int) -> None:
        """The browser has drawn that picture (and will draw none before it)."""
        with self._lock:
            started = self._times.get(number)
            if started is None or not self.confirmed < number <= self.sent:
                return
            self.confirmed = number
        self.acknowledged(self.clock() - started)

    async def pictures(self) -> AsyncIterator[bytes]:
        """The newest picture whenever there is one that this connection has not got; ends with the connection's task."""
        event = asyncio.Event()
        with self._lock:
            self._news = (asyncio.get_running_loop(), event)
        self.acknowledged(0.0)  # somebody is looking now
        last = -1
        try:
            while True:
                with self._lock:
                    payload = self._payload
                if payload is not None and payload[0] != last:
                    last = payload[0]
                    yield payload[1]
                    continue
                await event.wait()
                event.clear()
        finally:
            with self._lock:
                if self._news is not None and self._news[1] is event:
                    self._news = None

    def _announce(self) -> None:
        with self._lock:
            news = self._news
        if news is not None:
            try:
                news[0].call_soon_threadsafe(news[1].set)
            except RuntimeError:  # the server has stopped
                pass


def encode(picture: np.ndarray, exact: bool) -> bytes:
    """PNG when exact, else JPEG."""
    swapped = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    if exact:
        good, encoded = cv2.imencode(".png", swapped, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    else:
        good, encoded = cv2.imencode(".jpg", swapped, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not good:
        raise ValueError(f"cannot encode a picture of shape {picture.shape}")
    return encoded.tobytes()
