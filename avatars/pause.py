"""Pausing a training from outside: a file in its output folder, looked for between two steps.

A file and not a socket, so that nothing listens: whoever may write the folder may pause, and the state survives a kill of
either side. A training that finds the file saves a checkpoint and waits until it is gone.
"""

from __future__ import annotations

import os
from pathlib import Path

FILE = "paused"


def pause(folder: str | os.PathLike) -> None:
    """Ask the training in `folder` to wait after its step."""
    (Path(folder) / FILE).touch()


def resume(folder: str | os.PathLike) -> None:
    """Let it go on; harmless when it is not paused."""
    (Path(folder) / FILE).unlink(missing_ok=True)


def is_paused(folder: str | os.PathLike) -> bool:
    """Whether a training in `folder` waits, or would."""
    return (Path(folder) / FILE).exists()
