"""Manifests that vouch for themselves and for the files beside them.

A sealed manifest carries `files`, a hash of each file's content, and `checksum`, a hash of everything else in the manifest. A flipped bit
inside a number, which no parser notices, and a file from another run then show when the folder is opened. Manifests of earlier versions carry
neither and are read as before.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avatars.errors import AvatarError
from avatars.files import content_hash

if TYPE_CHECKING:
    from torch import Tensor


def seal(manifest: Mapping[str, Any], folder: Path, names: Iterable[str]) -> dict[str, Any]:
    """`manifest` with the hashes of the files `names` in `folder`, and with its own."""
    plain = json.loads(json.dumps({**manifest, "files": {name: content_hash(folder / name) for name in names}}))  # as it will be read
    return {**plain, "checksum": _checksum(plain)}


def check_seal(manifest: Mapping[str, Any], folder: Path, remedy: str) -> None:
    """AvatarError when the manifest of `folder`, or a file that it vouches for, is not what was written; `remedy` says what to do then."""
    if "checksum" not in manifest and "files" not in manifest:
        return  # written before there were seals
    path = folder / "manifest.json"
    if manifest.get("checksum") != _checksum(manifest) or not isinstance(manifest.get("files"), Mapping):
        raise AvatarError(
            f"{path} is damaged: its checksum is not that of its content. {remedy} If it was edited on purpose, delete its lines "
            '"files" and "checksum".'
        )
    for name, wanted in manifest["files"].items():
        if (folder / name).is_file() and content_hash(folder / name) != wanted:  # who reads the file says that it is missing
            raise AvatarError(f"{folder / name} is damaged, or not the file that manifest.json was written for. {remedy}")


def tensors_checksum(note: str, tensors: Mapping[str, Tensor]) -> str:
    """A hash of `note` and of names, types, shapes and bytes of `tensors`, for files that have no manifest."""
    import torch

    parts: list[str | bytes | memoryview] = [note]
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        parts += [f"{name} {value.dtype} {list(value.shape)}", value.reshape(-1).view(torch.uint8).numpy().data]
    return content_hash(*parts)


def _checksum(manifest: Mapping[str, Any]) -> str:
    return content_hash(json.dumps({k: v for k, v in manifest.items() if k != "checksum"}, sort_keys=True))
