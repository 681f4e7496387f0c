"""An interrupt ends shared work soon: what waits is not begun, what runs is cut short."""

from __future__ import annotations

import time

import pytest

from capture.workers import crew


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupt_sends_the_crew_home(error: type[BaseException]) -> None:
    begun, finished = [], []

    def task(name: int) -> None:
        begun.append(name)
        for _ in people.while_wanted(range(1000)):
            time.sleep(0.01)
        finished.append(name)

    started = time.monotonic()
    with pytest.raises(error), crew(2) as people:
        for name in range(50):
            people.submit(task, name)
        while len(begun) < 2:
            time.sleep(0.001)
        raise error
    assert begun == [0, 1] and not finished and time.monotonic() - started < 8


def test_without_one_everything_is_done() -> None:
    with crew(0) as people:
        results = [people.submit(lambda n=n: list(people.while_wanted(range(n)))) for n in range(5)]
    assert [r.result() for r in results] == [list(range(n)) for n in range(5)]
