"""The render thread: draws for all clients in turn, always what is wanted now, never what was wanted before.

Clients are not queues: the loop asks each for its newest request at the moment it can draw one, so a slow renderer
shows fewer pictures, never late ones. In between, background tasks run (curves, films), one small piece at a time. One thread
draws, and where something else needs the machine (a training), `share` bounds the part of the time in which it does.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np

from viewer.splats import Splats
from viewer.stage import Request, Stage

log = logging.getLogger(__name__)

IDLE_SECONDS = 0.02  # background tasks run when nobody wants a picture for this long,
STARVED_SECONDS = 0.3  # and a step now and then in any case
LONGEST_REST = 1.0  # seconds after a picture, whatever the share
NEVER = float("inf")


class Client(Protocol):
    """One browser, as the loop sees it. Methods are called from the render thread."""

    def wants(self, now: float) -> float:
        """Seconds until it wants a picture; 0 now, `NEVER` when it is content."""
        ...

    def take(self, now: float) -> Request:
        """The newest request."""
        ...

    def show(self, request: Request, picture: np.ndarray | Splats, seconds: float) -> None:
        """Display what was drawn in `seconds`."""
        ...

    def fail(self, request: Request, error: Exception) -> None:
        """Say in the page that the request could not be drawn."""
        ...


class RenderLoop:
    """`with RenderLoop(stage) as loop: loop.add(client)`; `wake()` after anything that a client wants has changed."""

    def __init__(self, stage: Stage, clock: Callable[[], float] = time.monotonic) -> None:
        self.stage = stage
        self.clock = clock
        self.share = 1.0
        self.pictures = 0
        self._free_at = -NEVER
        self._clients: list[Client] = []
        self._tasks: list[Iterator[object]] = []
        self._condition = threading.Condition()
        self._changed = False
        self._stopped = False
        self._advanced_at = -NEVER
        self._thread = threading.Thread(target=self._run, name="viewer-render", daemon=True)

    def __enter__(self) -> RenderLoop:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Finish the picture at hand and end the thread."""
        with self._condition:
            self._stopped = True
            self._condition.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def add(self, client: Client) -> None:
        """Draw for this client too."""
        with self._condition:
            self._clients.append(client)
        self.wake()

    def remove(self, client: Client) -> None:
        """Forget a client; harmless when it is unknown."""
        with self._condition:
            if client in self._clients:
                self._clients.remove(client)

    def background(self, task: Iterator[object]) -> None:
        """Advance `task` whenever there is nothing to draw; each step should take well under a tenth of a second."""
        with self._condition:
            self._tasks.append(task)
        self.wake()

    def wake(self) -> None:
        """Look again at what clients want."""
        with self._condition:
            self._changed = True
            self._condition.notify_all()

    def _run(self) -> None:
        while True:
            with self._condition:
                if self._stopped:
                    return
                self._changed = False
                clients = list(self._clients)
            now = self.clock()
            if now < self._free_at:
                with self._condition:
                    if not self._stopped:
                        self._condition.wait(self._free_at - now)
                continue
            waits = [(self._ask(client, now), client) for client in clients]
            wait = min((w for w, _ in waits), default=NEVER)
            starved = bool(self._tasks) and now - self._advanced_at > STARVED_SECONDS
            if starved:
                self._advance()
            if wait <= 0:
                client = next(c for w, c in waits if w <= 0)
                self._draw(client)
                with self._condition:  # to the back of the row: clients take turns
                    if client in self._clients:
                        self._clients.remove(client)
                        self._clients.append(client)
            elif wait > IDLE_SECONDS and self._tasks:
                self._advance()
            elif not starved:
                with self._condition:
                    if not self._changed and not self._stopped:
                        self._condition.wait(None if wait == NEVER else wait)
                continue
            if self.share < 1:
                ended = self.clock()
                self._free_at = ended + min((ended - now) * (1 / self.share - 1), LONGEST_REST)

    def _ask(self, client: Client, now: float) -> float:
        try:
            return client.wants(now)
        except Exception:
            log.exception("a viewer client failed and is dropped")
            self.remove(client)
            return NEVER

    def _draw(self, client: Client) -> None:
        try:
            request = client.take(self.clock())
        except Exception:
            log.exception("a viewer client failed and is dropped")
            self.remove(client)
            return
        started = self.clock()
        try:
            picture = self.stage.splats(request) if request.splats else self.stage.render(request)
            if isinstance(picture, np.ndarray) and (picture.dtype != np.uint8 or picture.shape != (request.height, request.width, 3)):
                expected = (request.height, request.width, 3)
                raise ValueError(f"the stage drew {picture.dtype} {picture.shape} instead of uint8 {expected}")
        except Exception as error:
            log.exception("rendering failed; the viewer goes on")
            self._safely(client, client.fail, request, error)
            return
        self.pictures += 1
        seconds = self.clock() - started
        self._safely(client, client.show, request, picture, seconds)

    def _safely(self, client: Client, action: Callable[..., None], *arguments: object) -> None:
        try:
            action(*arguments)
        except Exception:  # a browser that left while its picture was drawn
            log.exception("a viewer client failed and is dropped")
            self.remove(client)

    def _advance(self) -> None:
        with self._condition:  # several tasks take turns
            task = self._tasks.pop(0)
            self._tasks.append(task)
        self._advanced_at = self.clock()
        try:
            next(task)
        except StopIteration:
            self._tasks.remove(task)
        except Exception:
            log.exception("a background task of the viewer failed")
            self._tasks.remove(task)
