"""Captures: recorded video of one person, from one camera or many, behind one contract.

A format is one file in this folder that has `DESCRIPTION` (one line for people), `RANK` (the lower is asked first whether it recognises a
folder), `recognise(path) -> bool` and `open_folder(path) -> Capture`; it is found by its file name. Foreign axes and units are converted there and nowhere else:
what leaves this folder is in metres, with OpenCV cameras.

A reader is a frozen dataclass whose fields `camera_names`, `cameras` and `sequences` may be replaced by a selection of themselves.
Opening is lenient, so that `capture.quality` can list all that is wrong at once; whoever then asks for a picture that is not there gets a
CaptureError that names the file.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from avatars.errors import AvatarError, CaptureError
from avatars.files import read_json
from avatars.types import Cameras
from capture.truth import Truth


class Capture(Protocol):
    """One recording session of one person."""

    @property
    def name(self) -> str: ...

    @property
    def format(self) -> str:
        """The name of the reader."""
        ...

    @property
    def path(self) -> Path:
        """The folder or file that was opened."""
        ...

    @property
    def camera_names(self) -> tuple[str, ...]: ...

    @property
    def cameras(self) -> Cameras | None:
        """Calibrated cameras in the order of `camera_names`; None when nothing is known (a single uncalibrated camera)."""
        ...

    @property
    def image_size(self) -> tuple[int, int]:
        """Width and height of every picture."""
        ...

    @property
    def sequences(self) -> tuple[str, ...]: ...

    @property
    def fps(self) -> float: ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What the reader had to assume or left out, as sentences for the user."""
        ...

    def frame_count(self, sequence: str) -> int:
        """Frames that every camera of the sequence promises (the smallest count among them)."""
        ...

    def frames(self, sequence: str, camera: str, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """Stream uint8 RGB [H, W, 3] in order; CaptureError names the file that is missing, damaged or of another size."""
        ...

    def luma(self, sequence: str, camera: str, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """Stream uint8 [H, W]: faster than `frames`, for statistics."""
        ...

    def sources(self, sequence: str, camera: str) -> tuple[Path, ...]:
        """The files that `frames` reads, whether they exist or not."""
        ...

    def clean_plate(self, camera: str) -> np.ndarray | None:
        """uint8 RGB [H, W, 3] of the empty studio, where the capture has one."""
        ...

    def audio(self, sequence: str) -> Path | None:
        """A file with the sound of a sequence, starting with frame 0 (a sound file or a video)."""
        ...

    @property
    def color_corrections(self) -> dict[str, Any]:
        """Camera → capture.color.ColorCorrection as the capture brings them; empty when it does not."""
        ...

    @property
    def calibration_path(self) -> Path | None:
        """The file that `cameras` came from."""
        ...

    @property
    def truth(self) -> Truth | None:
        """Ground truth of a synthetic capture. For tests and evaluation alone."""
        ...


def formats() -> dict[str, ModuleType]:
    """Every reader in this folder by its name, in the order in which they are asked."""
    names = sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))
    modules = {name: importlib.import_module(f"{__name__}.{name}") for name in names}
    return dict(sorted(modules.items(), key=lambda item: item[1].RANK))


def open_capture(
    path: str | Path, format: str = "auto", cameras: Sequence[str] | None = None, sequences: Sequence[str] | None = None
) -> Capture:
    """Open a capture folder or video.

    format: a reader's name, or "auto" to recognise it. cameras, sequences: use only these. CaptureError says what was expected.
    """
    path = Path(path)
    known = formats()
    if not path.exists():
        raise CaptureError(f"{path} does not exist. Give the capture's folder, or a video file.")
    made = _kind_of_ours(path)
    if made:
        raise CaptureError(f"{path} is {made}. Give the capture itself: the folder or video that came from the cameras.")
    if format == "auto":
        reader = next((m for m in known.values() if m.recognise(path)), None)
        if reader is None:
            kinds = "\n".join(f"  {name}: {m.DESCRIPTION}" for name, m in known.items())
            raise CaptureError(f"{path} is not a capture that can be read. Known formats:\n{kinds}")
    elif format in known:
        reader = known[format]
    else:
        raise CaptureError(f"unknown capture format {format!r}; known: {', '.join(known)}.")
    return select(reader.open_folder(path), cameras, sequences)


def _kind_of_ours(path: Path) -> str:
    """What of this program's own results lies at `path`, which holds pictures but is no capture; "" for none."""
    if (path / "stages").is_dir() and (path / "check.json").is_file():
        return "what `avatars demo` wrote"
    manifest = path / "manifest.json"
    try:
        kind = read_json(manifest).get("kind", "") if manifest.is_file() else ""
    except (AvatarError, AttributeError):
        return ""
    kinds = {
        "avatars.tracked_sequence": "a tracked sequence: go on with `avatars train`",
        "avatars.avatar": "an avatar: go on with `avatars view`",
    }
    return kinds.get(kind, "")


def select(capture: Capture, cameras: Sequence[str] | None = None, sequences: Sequence[str] | None = None) -> Capture:
    """The same capture with only these cameras and sequences, in this order; CaptureError lists the known names."""
    changes: dict[str, Any] = {}
    if cameras is not None:
        _known(capture, "camera", cameras, capture.camera_names)
        changes["camera_names"] = tuple(cameras)
        changes["cameras"] = None if capture.cameras is None else capture.cameras.select(cameras)
    if sequences is not None:
        _known(capture, "sequence", sequences, capture.sequences)
        changes["sequences"] = tuple(sequences)
    return replace(capture, **changes) if changes else capture  # type: ignore[type-var]


def _known(capture: Capture, kind: str, wanted: Sequence[str], known: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in known]
    if missing or not wanted:
        raise CaptureError(f"{capture.path} has no {kind} {', '.join(missing) or '(none asked for)'}; known: {', '.join(known)}.")
