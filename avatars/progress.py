"""How long work reports that it moves on. Stages report; only the command line draws.

A stage that takes long accepts `progress: Progress = silent`, and calls `progress("tracking EXP-1", done, total,
{"psnr": "31.2"})` as it goes. `TerminalProgress` draws a bar with the rate and the time left.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Protocol, TextIO


class Progress(Protocol):
    """Called with what is being done, how many units are done, of how many, and figures to show."""

    def __call__(self, what: str, done: int, total: int, figures: Mapping[str, str] | None = None) -> None: ...


def silent(what: str, done: int, total: int, figures: Mapping[str, str] | None = None) -> None:
    """Draw nothing."""


class TerminalProgress:
    """One line that is redrawn on a terminal; on a file or in CI, a line every ten seconds and at the end."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.what: str | None = None
        self.started = self.drawn = 0.0
        self.first = 0

    def __call__(self, what: str, done: int, total: int, figures: Mapping[str, str] | None = None) -> None:
        now = time.monotonic()
        terminal = self.stream.isatty()
        if what != self.what:
            self.what, self.started, self.drawn, self.first = what, now, 0.0, done
        finished = done >= total
        if not finished and now - self.drawn < (0.1 if terminal else 10.0):
            return
        self.drawn = now
        rate = (done - self.first) / max(now - self.started, 1e-6)
        parts = [f"{what}: {done}/{total}"]
        if terminal:
            filled = int(24 * done / max(total, 1))
            parts.insert(0, "█" * filled + "·" * (24 - filled))
        if rate > 0:
            parts.append(f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each")
            parts.append(f"took {_clock(now - self.started)}" if finished else f"{_clock((total - done) / rate)} left")
        parts += [f"{k} {v}" for k, v in (figures or {}).items()]
        line = "  ".join(parts)
        self.stream.write(f"\r\x1b[2K{line}" + ("\n" if finished else "") if terminal else line + "\n")
        self.stream.flush()
        if finished:
            self.what = None


def _clock(seconds: float) -> str:
    seconds = int(seconds + 0.5)
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}" if seconds >= 3600 else f"{seconds // 60}:{seconds % 60:02d}"
