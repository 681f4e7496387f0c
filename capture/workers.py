"""Threads that share work, and let go of it when the user interrupts or one of them fails."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")


class Crew(ThreadPoolExecutor):
    """A pool whose long tasks take their material through `while_wanted`, so that they end soon after an interrupt."""

    def __init__(self, workers: int) -> None:
        super().__init__(max(1, workers))
        self._stop = threading.Event()

    def while_wanted(self, items: Iterable[Item]) -> Iterator[Item]:
        """`items`, until the crew is sent home: then InterruptedError, which ends the task without a result."""
        for item in items:
            if self._stop.is_set():
                raise InterruptedError("the crew was sent home")
            yield item

    def send_home(self) -> None:
        """Begin nothing that still waits, and end what takes its material through `while_wanted`."""
        self._stop.set()
        self.shutdown(wait=True, cancel_futures=True)


@contextmanager
def crew(workers: int) -> Iterator[Crew]:
    """A Crew of at least one thread; whatever leaves the block by an exception sends it home, where a plain pool would finish its queue first."""
    people = Crew(workers)
    try:
        yield people
        people.shutdown()
    except BaseException:
        people.send_home()
        raise
