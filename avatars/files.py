"""Writing files so that a kill at any moment leaves either the old file or the new one, and hashing inputs."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avatars.errors import AvatarError, DiskFull, UserError

if TYPE_CHECKING:
    import numpy as np

FULL = (errno.ENOSPC, errno.EDQUOT)

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary sibling of `path` (same suffix); rename it over `path` on success, delete it on failure.

    Works for a file or for a folder that the body creates. A full disk becomes a DiskFull that names the path;
    the previous content of `path` stays.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.tmp{path.suffix}")
    try:
        yield temporary
        if temporary.is_dir():
            _replace_folder(temporary, path)
        else:
            _sync(temporary)
            os.replace(temporary, path)
    except DiskFull as error:  # of a file inside of the temporary folder: people know the folder by its own name
        _remove(temporary)
        raise disk_full(path, error.needed) from None
    except OSError as error:
        _remove(temporary)
        if error.errno in FULL:
            raise disk_full(path) from error
        name = Path(error.filename) if isinstance(error.filename, str | os.PathLike) else None
        if name is not None and name.is_relative_to(temporary):
            error.filename, error.filename2 = str(path / name.relative_to(temporary)), None
        raise
    except BaseException:
        _remove(temporary)
        raise


@contextmanager
def growing(path: str | os.PathLike) -> Iterator[None]:
    """While a file that stays open grows at `path`: a full disk, of which the system does not say where, becomes a DiskFull that names it."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL and error.filename is None:
            raise disk_full(path) from error
        raise


def disk_full(path: str | os.PathLike, needed: float = 0.0) -> DiskFull:
    """The error that says which disk is full while `path` was written, and how many bytes are still `needed` where that is known."""
    there = Path(path).absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    free = shutil.disk_usage(there).free
    while not os.path.ismount(there) and there != there.parent:
        there = there.parent
    want = f", about {_size(needed)} are needed" if needed else ""
    return DiskFull(
        f"The disk is full while writing {path}: {_size(free)} are left on the disk at {there}{want}. Nothing half-written was kept. "
        "Free some space and run the same command again (finished stages are not repeated), or choose a place on another disk.",
        needed,
    )


def _size(count: float) -> str:
    """Bytes for people."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


@contextmanager
def claimed(folder: str | os.PathLike) -> Iterator[None]:
    """Work in `folder` (made when absent) as the only process that does; UserError when another one is at it. A kill gives it free."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file, and a folder is to be written there. Choose another --out.")
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"Another process is working in {folder}. Wait until it has finished, or choose another --out.") from None
        except OSError:  # a file system that has no locks
            pass
        yield


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: str | os.PathLike, what: str = "file") -> Any:
    """Read JSON; AvatarError names the file when it is missing or damaged."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AvatarError(f"{what}: {path} does not exist.") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise AvatarError(f"{what}: {path} is damaged ({error}). Restore it or make it again.") from None


def read_arrays(path: str | os.PathLike, what: str = "file", remedy: str = "Restore it or make it again.") -> dict[str, np.ndarray]:
    """All arrays of an npz; AvatarError names the file when it is missing, damaged, or holds pickled objects (which are never loaded)."""
    import numpy as np

    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except FileNotFoundError:
        raise AvatarError(f"{what}: {path} does not exist. {remedy}") from None
    except PermissionError:
        raise
    except Exception as error:  # a flipped bit can show as nearly anything: zlib.error, NotImplementedError, MemoryError …
        text = str(error)
        if "Object arrays" in text:
            reason = "holds pickled objects, which are never loaded"
        else:  # NumPy takes any file that it does not recognise for a pickle
            reason = f"is damaged or no npz archive ({'its beginning is not that of one' if 'pickle' in text else text})"
        raise AvatarError(f"{what}: {path} {reason}. {remedy}") from None


def plain_name(name: Any, what: str) -> str:
    """`name`, which becomes part of a path; ValueError when it would lead out of its folder."""
    if not isinstance(name, str) or name in ("", ".", "..") or any(c in name for c in "/\\\0"):
        raise ValueError(f"{what} {name!r} cannot be the name of a file")
    return name


def content_hash(*items: str | bytes | memoryview | os.PathLike) -> str:
    """A short hash (16 hex digits) of texts, bytes and files; a Path stands for the content of that file."""
    digest = hashlib.sha256()
    for item in items:
        if isinstance(item, os.PathLike):
            with open(item, "rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        else:
            digest.update(item.encode() if isinstance(item, str) else item)
        digest.update(b"\0")
    return digest.hexdigest()[:16]


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _replace_folder(temporary: Path, path: Path) -> None:
    # A folder cannot be renamed over another: move the old one aside first, so that a kill loses neither.
    old = None
    if path.exists():
        old = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.old")
        os.replace(path, old)
    os.replace(temporary, path)
    if old is not None:
        _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
