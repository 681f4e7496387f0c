"""Licence and attribution texts: they travel from the capture to what is tracked, to the avatar, and to what is exported of it.

A text counts when it lies at the top of the folder under one of the usual names.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from avatars.files import atomic_path

NAMES = tuple(f"{stem}{suffix}" for stem in ("LICENCE", "LICENSE", "ATTRIBUTION", "NOTICE") for suffix in ("", ".md", ".txt"))


def read(folder: str | Path) -> dict[str, str]:
    """File name → text of every such file in `folder`; a folder that is none has none."""
    files = [Path(folder) / name for name in NAMES]
    return {f.name: f.read_text(encoding="utf-8", errors="replace").strip() for f in files if f.is_file()}


def carry(source: str | Path, target: str | Path) -> None:
    """Copy such files from the folder `source` into the folder `target`."""
    for name in read(source):
        with atomic_path(Path(target) / name) as temporary:
            shutil.copyfile(Path(source) / name, temporary)
