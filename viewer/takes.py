"""Performances that come in and go out as files: uploads are bounded and read in a temporary folder, then made poses by name."""

from __future__ import annotations

import io
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np

from avatars.drive import Codes, open_driver, retarget, save_codes
from avatars.errors import UserError
from avatars.head import HeadModel
from avatars.types import HeadPose

MOST_BYTES = 32_000_000  # of an upload: an hour at 60 frames a second as CSV is about this much
MOST_FRAMES = 100_000
MOST_UNPACKED = 400_000_000  # bytes of an archive once unpacked
Result = TypeVar("Result")


def read_take(name: str, content: bytes, head: HeadModel, rest: HeadPose, fps: float | None) -> tuple[HeadPose, float]:
    """Poses [T] of `head` and their rate (`fps`, or the file's own when None); UserError says what is wrong with the file."""
    if len(content) > MOST_BYTES:
        raise UserError(f"{name} is larger than {MOST_BYTES // 1_000_000} MB. Cut the take into pieces.")
    if content[:2] == b"PK":
        _check_unpacked_size(name, content)
    codes = in_temporary_file(name, content, open_driver)
    rate = codes.fps if fps is None else fps
    if not codes.duration * rate <= MOST_FRAMES:
        raise UserError(f"{name} is {codes.duration / 60:.0f} minutes long; at most {MOST_FRAMES / rate / 60:.0f} fit. Cut it into pieces.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the head lacks is left out
        return retarget(codes.resampled(rate), head, rest.to("cpu")), rate


def write_take(poses: HeadPose, held: Mapping[str, float], head: HeadModel, fps: float, suffix: str) -> bytes:
    """Poses [T] with some expressions replaced, as a file of that kind (.csv, .json, .npz)."""
    poses = poses.to("cpu")
    weights = poses.expression.numpy().copy()
    for name, weight in held.items():
        weights[:, head.expression_names.index(name)] = weight
    joints = {name: poses.joints[:, i].numpy() for i, name in enumerate(head.joint_names)}
    times = np.arange(len(poses)) / fps
    codes = Codes(tuple(head.expression_names), weights, times, joints, poses.rotation.numpy(), poses.translation.numpy(), fps)
    return through_temporary_file(suffix, lambda path: save_codes(path, codes))


def through_temporary_file(suffix: str, write: Callable[[Path], object]) -> bytes:
    """What `write` puts into a file of that kind."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"take{suffix}"
        write(path)
        return path.read_bytes()


def in_temporary_file(name: str, content: bytes, use: Callable[[Path], Result]) -> Result:
    """Call `use` with a file that holds an upload, named harmlessly but with its suffix; errors speak of `name`."""
    suffix = Path(name).suffix.lower()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"upload{suffix if suffix[1:].isalnum() and suffix.isascii() and len(suffix) < 8 else ''}"
        path.write_bytes(content)
        try:
            return use(path)
        except UserError as error:
            raise UserError(str(error).replace(str(path), name)) from None


def unused_name(name: str, taken: set[str]) -> str:
    """A sequence name for a file of that name that is not among `taken`."""
    stem = Path(name).stem[:40] or "take"
    return next(t for t in (stem, *(f"{stem} {i}" for i in range(2, len(taken) + 3))) if t not in taken)


def _check_unpacked_size(name: str, content: bytes) -> None:
    """Refuse an archive that would fill the memory."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        raise UserError(f"{name} is damaged: it is not an npz archive.") from None
    if size > MOST_UNPACKED:
        raise UserError(f"{name} unpacks to {size / 1e6:.0f} MB; that is no performance.")
