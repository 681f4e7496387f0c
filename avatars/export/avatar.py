"""The avatar folder itself, complete in one place: safetensors, JSON manifest, codes, sound and the head.

The manifest says versions, units, axes, colour space and licence. Pictures of the capture are not part of it, nor is the
place where they lie on this machine.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from avatars import rights
from avatars.avatar import Avatar, save_avatar
from avatars.errors import UserError
from avatars.files import atomic_path
from avatars.types import HeadPose

DESCRIPTION = "the avatar folder, self-contained: for `avatars view`, `drive` and `render` on another machine"
SUFFIX = ""


def write(avatar: Avatar, pose: HeadPose, path: Path) -> dict[str, Any]:
    """Copy the avatar to the folder `path`; an existing one must be an avatar, or empty."""
    if avatar.folder is not None and path.resolve() == avatar.folder.resolve():
        raise UserError(f"{path} is the avatar itself. Choose another --out.")
    if path.is_dir() and any(path.iterdir()) and not (path / "avatar.safetensors").exists():
        raise UserError(f"{path} is a folder with other content. Choose another --out.")
    with atomic_path(path) as temporary:
        save_avatar(_without_sources(avatar), temporary)
        if avatar.folder is not None:
            rights.carry(avatar.folder, temporary)
    size = sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    return {"gaussians": len(avatar.gaussians), "megabytes": round(size / 1e6, 1)}


def _without_sources(avatar: Avatar) -> Avatar:
    # Sound is found through the avatar's own folder, so the tracked folder is not needed for it.
    return replace(avatar, timeline=replace(avatar.timeline, tracked="")) if avatar.folder is not None else avatar
