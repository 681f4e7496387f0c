"""Drivers: where a performance comes from. One file per kind; a new kind is one new file here.

A file of this folder is a driver when it defines

    SUFFIXES: tuple[str, ...]                  # of the files that it may be able to read, such as (".csv",)
    def read(path: Path) -> Codes              # UserError names the file, the place in it, and the remedy
    def write(path: Path, codes: Codes) -> None   # optional; atomic

What `open_driver` returns is a `Driver`; for a file that is `Codes`, which holds the whole clip. Retargeting onto a head
is `retarget.py`, and is the same for all of them.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import Protocol

from avatars.drive import codes_npz
from avatars.drive.codes import ARKIT_NAMES, Codes
from avatars.drive.retarget import retarget
from avatars.errors import UserError

__all__ = ["ARKIT_NAMES", "Codes", "Driver", "drivers", "open_driver", "retarget", "save_codes"]


class Driver(Protocol):
    """Anything that can say what the face does at a time."""

    @property
    def duration(self) -> float:
        """Seconds; infinite for a live one."""
        ...

    @property
    def fps(self) -> float: ...

    @property
    def names(self) -> tuple[str, ...]: ...

    def at(self, t: float) -> Codes:
        """One frame at `t` seconds."""
        ...


def drivers() -> dict[str, ModuleType]:
    """The drivers found in this folder, by file name."""
    modules = (importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__))
    return {m.__name__.rsplit(".", 1)[-1]: m for m in modules if hasattr(m, "SUFFIXES") and hasattr(m, "read")}


def open_driver(path: str | os.PathLike, sequence: str = "") -> Codes:
    """Read a performance: Live Link Face CSV, MediaPipe, LAM, BEAT or Audio2Face JSON, ARKit or our own npz.

    A folder may be a tracked sequence or an avatar: its tracked codes, of which `sequence` picks one.
    """
    path = Path(path)
    if path.is_dir():
        inside = next((path / n for n in ("codes.npz", "sequences.npz") if (path / n).is_file()), None)
        if inside is None:
            raise UserError(
                f"codes: {path} is a folder without codes. Give a recorded performance ({_known('read')}), or a tracked sequence."
            )
        path = inside
    driver = _for_suffix(path, "read")
    if not path.is_file():
        raise UserError(f"codes: {path}: there is no such file. Give a recorded performance ({_known('read')}).")
    codes = driver.read(path)
    return codes_npz.sequence_of(path, codes, sequence) if sequence else codes


def save_codes(path: str | os.PathLike, codes: Codes) -> None:
    """Write codes in the format of the suffix: .csv (Live Link Face), .json (LAM) or .npz (ours, lossless)."""
    path = Path(path)
    _for_suffix(path, "write").write(path, codes)


def _for_suffix(path: Path, does: str) -> ModuleType:
    for module in drivers().values():
        if path.suffix.lower() in module.SUFFIXES and hasattr(module, does):
            return module
    raise UserError(f"codes: {path}: do not know how to {does} '{path.suffix or path.name}'. Known: {_known(does)}.")


def _known(does: str) -> str:
    return ", ".join(sorted(s for m in drivers().values() if hasattr(m, does) for s in m.SUFFIXES))
