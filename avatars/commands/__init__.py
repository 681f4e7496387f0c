"""The subcommands of `avatars`, one file each; with `__main__` the only place that may reach into every room, lazily.

A file defines

    EXAMPLES: tuple[tuple[str, str], ...]       # (what it does, the command line); shown below its --help
    def command() -> type                       # a dataclass: its docstring, fields and attribute docstrings are the --help

and the dataclass has `run(self, console) -> int | None`. Importing a file must stay cheap (no torch), so that --help is
instant: heavy imports go into functions. A field `settings` whose type is a config dataclass, beside a field
`config: Path | None`, is read from TOML first; flags then win over the file.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TextIO

from avatars.errors import UserError
from avatars.progress import Progress, TerminalProgress

if TYPE_CHECKING:
    import torch

COMMANDS: dict[str, str] = {
    "demo": "the whole way, from a capture to a driven avatar in the browser",
    "check": "find out what is wrong with a capture before spending hours on it",
    "track": "fit the head model to every frame of a capture",
    "train": "learn a Gaussian avatar from a tracked capture",
    "eval": "measure an avatar on held-out cameras and sequences",
    "render": "stills and camera paths of an avatar",
    "drive": "make an avatar do what a recorded performance does",
    "view": "open an avatar in the browser",
    "export": "write an avatar or one of its frames in other programs' formats",
    "bench": "check the native kernels and measure their speed",
}
"""Every subcommand in the order of work, with what it is for."""
MOST_FPS = 240.0
LONGEST_SECONDS = 86400.0

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class Console:
    """What a command may do to the terminal: say things (on stdout) and show progress (on stderr)."""

    out: TextIO = field(default_factory=lambda: sys.stdout)
    progress: Progress = field(default_factory=TerminalProgress)

    def say(self, text: str = "") -> None:
        """One or more lines for the user."""
        print(text, file=self.out, flush=True)


def choose_device(name: Device) -> torch.device:
    """The device that `--device` means. Nothing else in the project chooses one."""
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        build = "this build of torch has no CUDA" if torch.version.cuda is None else "the driver shows no device"
        raise UserError(f"--device cuda: no CUDA device can be used ({build}). Use --device cpu, or --device auto.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def existing_folder(path: Path, what: str, made_by: str) -> Path:
    """`path` when it is a folder; else a UserError that says what it should be and which command makes it."""
    if path.is_dir():
        return path
    state = "is a file, not a folder" if path.exists() else "does not exist"
    near = [p.name for p in sorted(path.parent.iterdir()) if p.is_dir() and not p.name.startswith(".")] if path.parent.is_dir() else []
    hint = f" Folders beside it: {', '.join(near[:6])}." if near and not path.exists() else ""
    raise UserError(f"{what}: {path} {state}.{hint} Make one with `{made_by}`.")


def check_number(flag: str, value: float, low: float, high: float) -> None:
    """UserError when `value` (NaN included) does not lie between `low` and `high`."""
    if not low <= value <= high:
        raise UserError(f"{flag} {value:g}: give a number between {low:g} and {high:g}.")


def parse_color(text: str) -> tuple[float, float, float]:
    """`white`, `black`, `grey`, `green`, `#rrggbb` or `r,g,b` in 0–1 → RGB in 0–1."""
    named = {
        "white": (1.0, 1.0, 1.0),
        "black": (0.0, 0.0, 0.0),
        "grey": (0.5, 0.5, 0.5),
        "gray": (0.5, 0.5, 0.5),
        "green": (0.0, 0.69, 0.25),
    }
    if text.lower() in named:
        return named[text.lower()]
    try:
        if text.startswith("#") and len(text) == 7:
            return tuple(int(text[i : i + 2], 16) / 255 for i in (1, 3, 5))  # type: ignore[return-value]
        r, g, b = (float(v) for v in text.split(","))
        if all(0 <= v <= 1 for v in (r, g, b)):
            return r, g, b
    except ValueError:
        pass
    raise UserError(f"'{text}' is no colour: give {', '.join(n for n in named if n != 'gray')}, #rrggbb, or r,g,b between 0 and 1.")
