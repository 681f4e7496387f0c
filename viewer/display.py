"""Getting pictures onto one client's screen.

`ImageDisplay` sends server-rendered pictures as the background of viser's canvas: JPEG while things move, PNG (the
exact pixels) once still. viser does not acknowledge pictures, so a thread reads a key of the browser's storage behind
each; the answer says how long the way is and how many pictures are still on it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from viser import ClientHandle

JPEG_QUALITY = 88
MOST_ON_THE_WAY = 3  # pictures sent and not yet acknowledged; more would only add latency


class ImageDisplay:
    """Shows pictures on one client. `acknowledged(seconds)` is called from a thread of its own."""

    def __init__(self, client: ClientHandle, acknowledged: Callable[[float], None]) -> None:
        self.client = client
        self.acknowledged = acknowledged
        self.sent = 0
        self.confirmed = 0
        self.last_picture: np.ndarray | None = None
        self.last_exact = False
        self._sent_event = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._probe, name="viewer-probe", daemon=True)
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether another picture may be sent."""
        return self.sent - self.confirmed < MOST_ON_THE_WAY

    def show(self, picture: np.ndarray, exact: bool) -> None:
        """Display uint8 RGB [H, W, 3], stretched to the canvas; `exact` sends it without loss."""
        if exact:
            self.client.scene.set_background_image(picture, format="png")
        else:
            self.client.scene.set_background_image(picture, format="jpeg", jpeg_quality=JPEG_QUALITY)
        self.client.flush()
        self.last_picture, self.last_exact = picture, exact
        self.sent += 1
        self._sent_event.set()

    def close(self) -> None:
        """Stop probing."""
        self._closed = True
        self._sent_event.set()

    def _probe(self) -> None:
        while True:
            self._sent_event.wait()
            self._sent_event.clear()
            if self._closed:
                return
            count, started = self.sent, time.monotonic()
            try:
                self.client.local_storage.get_item("avatars", timeout=2.0)
            except TimeoutError:
                pass  # a hidden tab does not answer; do not stall when it comes back
            except RuntimeError:
                if self._closed or self.client.client_id not in self.client._viser_server.get_clients():
                    return
                time.sleep(0.03)  # storage is blocked in this browser: assume a usual trip
            self.confirmed = count
            if self._closed:
                return
            self.acknowledged(time.monotonic() - started)
            if self.sent > count:
                self._sent_event.set()
