"""Exporters: an avatar, or one frame of it, in other programs' formats. One file (or package) per format; a new format is one new file.

A file of this folder is an exporter when it defines

    DESCRIPTION: str                                     # what opens it; shown to the user
    SUFFIX: str                                          # of the file to write; "" for a folder
    def write(avatar: Avatar, pose: HeadPose, path: Path) -> dict[str, Any]
                                                         # atomic; returns figures worth telling

`pose` is one frame; formats that keep the avatar drivable ignore it.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from avatars.errors import UserError

if TYPE_CHECKING:
    from avatars.avatar import Avatar
    from avatars.types import HeadPose


def names() -> tuple[str, ...]:
    """The formats that exist, by file name."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__)))


def find(name: str) -> ModuleType:
    """The exporter called `name`; UserError lists the known ones."""
    if name not in names():
        raise UserError(f"export format '{name}' is unknown; known: {', '.join(names())}.")
    return importlib.import_module(f"{__name__}.{name}")


def export(avatar: Avatar, pose: HeadPose, path: str | os.PathLike, format: str) -> dict[str, Any]:
    """Write `avatar` (in `pose`, one frame) to `path`; UserError when the path does not fit the format."""
    path = Path(path)
    exporter = find(format)
    if len(pose) != 1:
        raise ValueError(f"an export takes one frame, got {len(pose)}: index the pose with an int first")
    if exporter.SUFFIX and path.suffix.lower() != exporter.SUFFIX:
        raise UserError(f"{path}: {format} files end in {exporter.SUFFIX}. Write --out {path.with_suffix(exporter.SUFFIX)}.")
    if exporter.SUFFIX and path.is_dir():
        raise UserError(f"{path} is a folder; give the name of the {exporter.SUFFIX} file to write.")
    if not exporter.SUFFIX and path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file; {format} writes a folder. Choose another --out.")
    return exporter.write(avatar, pose, path)
