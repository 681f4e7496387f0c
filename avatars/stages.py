"""Stages of a long job that remember that they are done.

A finished stage leaves `<folder>/stages/<name>.json` with a hash of everything that decided its result. Asked for again with
the same inputs, and its outputs still there, it is skipped; with others, or after a kill, it runs (and what it calls resumes
by itself). The manifest is the memory: no process has to stay alive, so a cluster may run the same line again and again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from avatars import __version__
from avatars.errors import AvatarError
from avatars.files import content_hash, read_json, write_json

KIND = "avatars.stage"
_WHOLE = 1 << 20  # files up to here are hashed completely
_EDGE = 1 << 16  # of larger ones, this much of both ends


@dataclass(frozen=True)
class Stage:
    """One step: what decides it, what it leaves, and how it is done."""

    name: str
    inputs: str  # hash of everything that decides the result
    outputs: tuple[Path, ...]  # exist when it is finished
    run: Callable[[], Mapping[str, Any]]  # returns figures worth keeping (JSON-able)
    whole: Callable[[], bool] = lambda: True  # whether the outputs of a finished one can still be used


@dataclass(frozen=True)
class Done:
    """How a stage ended."""

    name: str
    skipped: bool  # it was finished before
    seconds: float  # that the work took, now or then
    figures: Mapping[str, Any]


def run_stage(folder: Path, stage: Stage) -> Done:
    """Run `stage` unless its manifest in `folder` says that it is finished with the same inputs."""
    finished = finished_stage(folder, stage)
    if finished is not None:
        return finished
    started = time.monotonic()
    figures = dict(stage.run())
    missing = [str(p) for p in stage.outputs if not p.exists()]
    if missing:
        raise AvatarError(f"the stage {stage.name} ended without writing {', '.join(missing)}. Run the same command again.")
    seconds = round(time.monotonic() - started, 2)
    write_json(_manifest(folder, stage.name), {
        "kind": KIND, "stage": stage.name, "inputs": stage.inputs, "outputs": [_relative(p, folder) for p in stage.outputs],
        "seconds": seconds, "finished": datetime.now(UTC).isoformat(timespec="seconds"), "program": __version__, "figures": figures,
    })  # fmt: skip
    return Done(stage.name, False, seconds, figures)


def finished_stage(folder: Path, stage: Stage) -> Done | None:
    """What the manifest says when the stage is finished with the same inputs and its outputs are there; else None."""
    path = _manifest(folder, stage.name)
    if not path.exists():
        return None
    try:
        manifest = read_json(path)
        same = manifest["kind"] == KIND and manifest["inputs"] == stage.inputs
        if not same or not all(p.exists() for p in stage.outputs) or not stage.whole():
            return None
        return Done(stage.name, True, float(manifest["seconds"]), manifest["figures"])
    except (AvatarError, KeyError, TypeError, ValueError):
        return None  # a damaged manifest: the stage's work is repeated, or resumed by what it calls


def fingerprint(path: Path) -> str:
    """Hash of a file or of all files below a folder: names, sizes and content, of large files both ends.

    Terabytes of video cannot be read to find out that nothing changed; a video that is replaced differs in size or at its ends.
    """
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file() and not _hidden(p, path))
    parts: list[str | bytes] = []
    for file in files:
        size = file.stat().st_size
        parts += [str(file.relative_to(path)), str(size)]
        with open(file, "rb") as stream:
            if size <= _WHOLE:
                parts.append(stream.read())
            else:
                parts.append(stream.read(_EDGE))
                stream.seek(-_EDGE, 2)
                parts.append(stream.read(_EDGE))
    return content_hash(*parts)


def _manifest(folder: Path, name: str) -> Path:
    return folder / "stages" / f"{name}.json"


def _relative(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)
