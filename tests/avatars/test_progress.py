"""Progress: a line that is redrawn on a terminal, few lines elsewhere."""

from __future__ import annotations

import io

import pytest

from avatars import progress
from avatars.progress import TerminalProgress, silent


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_silent_draws_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    silent("x", 1, 2, {"a": "b"})
    assert capsys.readouterr() == ("", "")


def test_terminal_redraws_one_line(clock: list[float]) -> None:
    screen = Screen()
    show = TerminalProgress(screen)
    for done in range(11):
        show("training", done, 10, {"psnr": "31.2"})
        clock[0] += 2
    text = screen.getvalue()
    assert text.count("\n") == 1 and text.endswith("\n")
    lines = text.split("\r")
    assert "training: 5/10" in lines[6] and "2.0 s each" in lines[6] and "0:10 left" in lines[6] and "psnr 31.2" in lines[6]
    assert "took 0:20" in lines[-1] and "█" * 24 in lines[-1]


def test_terminal_is_not_flooded(clock: list[float]) -> None:
    screen = Screen()
    show = TerminalProgress(screen)
    for done in range(1000):
        clock[0] += 0.001
        show("x", done, 1000)
    assert screen.getvalue().count("\r") < 15


def test_a_file_gets_a_line_now_and_then(clock: list[float]) -> None:
    stream = io.StringIO()
    show = TerminalProgress(stream)
    for done in range(101):
        show("x", done, 100)
        clock[0] += 0.5
    lines = stream.getvalue().splitlines()
    assert 4 <= len(lines) <= 8 and "\r" not in stream.getvalue() and lines[-1].startswith("x: 100/100") and "2.0/s" in lines[-1]


def test_rate_counts_from_where_it_resumed(clock: list[float]) -> None:
    screen = Screen()
    show = TerminalProgress(screen)
    show("x", 900, 1000)
    clock[0] += 10
    show("x", 950, 1000)
    assert "5.0/s" in screen.getvalue() and "0:10 left" in screen.getvalue()


def test_a_new_stage_starts_its_own_clock(clock: list[float]) -> None:
    screen = Screen()
    show = TerminalProgress(screen)
    show("one", 0, 2)
    clock[0] += 4000
    show("one", 2, 2)
    show("two", 0, 2)
    clock[0] += 5
    show("two", 2, 2)
    assert "took 1:06:40" in screen.getvalue() and screen.getvalue().rstrip().endswith("took 0:05")
