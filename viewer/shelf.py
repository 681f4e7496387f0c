"""Avatars in folders: which lie beside the one that is open, opening one, and packing one to be taken away."""

from __future__ import annotations

import io
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path

from avatars.avatar import Avatar, load_avatar
from avatars.errors import AvatarError
from avatars.export import export, find
from avatars.sequence import TrackedSequence
from avatars.types import HeadPose
from viewer.watch import avatar_in_training, in_training

_MOST_NEARBY = 40
_MOST_LOOKED_AT = 400


def name_of(folder: Path | None) -> str:
    """What to call an avatar: its folder, or the folder above one that is just called avatar."""
    folder = folder.resolve() if folder is not None else Path("avatar")
    return (folder.parent.name if folder.name == "avatar" else "") or folder.name


def open_folder(folder: str | Path, tracked: TrackedSequence | None) -> Avatar:
    """A finished avatar, or a training as far as its last checkpoint; AvatarError says why it cannot be opened."""
    folder = Path(folder).expanduser()
    if not in_training(folder):
        return load_avatar(folder)
    if tracked is None:
        raise AvatarError(f"{folder} is still being trained. Give its tracked folder too to watch it, or wait until it has finished.")
    return replace(avatar_in_training(folder, tracked), folder=folder)


def nearby(folder: Path | None) -> dict[str, str]:
    """Label → folder of the avatars and trainings beside one, and beside the folder that it lies in."""
    if folder is None:
        return {}
    own, found = folder.resolve(), {}
    for place in (own.parent, own.parent.parent):
        try:
            inside = sorted(p for p in place.iterdir() if p.is_dir())[:_MOST_LOOKED_AT]
        except OSError:
            continue
        for candidate in (c for p in inside for c in (p, p / "avatar")):
            if candidate != own and str(candidate) not in found.values() and len(found) < _MOST_NEARBY and _looks_like_one(candidate):
                label = name_of(candidate)
                found[label if label not in found else f"{label} · {candidate}"] = str(candidate)
    return found


def packed(avatar: Avatar, pose: HeadPose, format: str, name: str) -> tuple[str, bytes]:
    """The name and the content of an export of one pose; folders, and files with others beside them, as a zip archive."""
    exporter = find(format)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}{exporter.SUFFIX}"
        export(avatar, pose, path, format)
        files = sorted(p for p in Path(folder).rglob("*") if p.is_file())
        if files == [path]:
            return path.name, path.read_bytes()
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as out:
            for file in files:
                out.write(file, str(file.relative_to(folder)))
        return f"{name}.zip", archive.getvalue()


def _looks_like_one(folder: Path) -> bool:
    try:
        return ((folder / "manifest.json").is_file() and (folder / "avatar.safetensors").is_file()) or in_training(folder)
    except OSError:
        return False
