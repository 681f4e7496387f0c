"""Finds and opens the two shared libraries, once each, and keeps the reason when one cannot be used.

`AVATARS_KERNELS=reference` never opens a library; `AVATARS_KERNELS=native` turns a missing one into an error. Otherwise a
missing library is one warning that names its cause, and the operators fall back to plain torch. `AVATARS_LIBRARIES` names
another folder to look in, e.g. one with a sanitized build.
"""

from __future__ import annotations

import ctypes
import os
import sys
import warnings
from functools import cache
from pathlib import Path

from cuda_ext import abi

_FOLDER = Path(os.environ.get("AVATARS_LIBRARIES") or Path(__file__).resolve().parent)
_SUFFIX = {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")
_REMEDY = {
    "cpu": "reinstall with a C++ compiler on the path: pip install -e . (needs g++)",
    "cuda": "reinstall with nvcc on the path: pip install -e .",
}


class KernelError(RuntimeError):
    """A native kernel refused its arguments or failed; the message is the library's own."""


def policy() -> str:
    """The value of AVATARS_KERNELS: "auto" (default), "native" or "reference"."""
    value = os.environ.get("AVATARS_KERNELS", "auto").strip().lower() or "auto"
    if value not in ("auto", "native", "reference"):
        raise ValueError(f"AVATARS_KERNELS must be auto, native or reference, got {value!r}")
    return value


@cache
def open_library(kind: str) -> tuple[ctypes.CDLL | None, str]:
    """Open the "cpu" or "cuda" library: (library, its instruction sets), or (None, why not)."""
    path = _FOLDER / f"libavatars_{kind}{_SUFFIX}"
    if not path.exists():
        return None, f"{path.name} was not built; {_REMEDY[kind]}"
    try:
        library = ctypes.CDLL(str(path), mode=getattr(os, "RTLD_LOCAL", 0) | getattr(os, "RTLD_NOW", 0))
        library.av_abi_version.restype = ctypes.c_int32
        library.av_abi_size.restype = ctypes.c_int64
        library.av_abi_size.argtypes = [ctypes.c_char_p]
        library.av_error.restype = ctypes.c_char_p
        library.av_isa.restype = ctypes.c_char_p
        if (version := library.av_abi_version()) != abi.VERSION:
            return None, f"{path.name} speaks interface {version}, this package {abi.VERSION}; {_REMEDY[kind]}"
        for structure in abi.STRUCTURES:
            size, theirs = ctypes.sizeof(structure), library.av_abi_size(structure.__name__.encode())
            if theirs not in (size, -1):  # -1: an older library without this operator, which then falls back
                return None, f"{path.name}: {structure.__name__} has {theirs} bytes, expected {size}; {_REMEDY[kind]}"
        if (why := _unusable(library)) is not None:
            return None, f"{path.name} cannot run here: {why}"
        for name, (result, arguments) in abi.FUNCTIONS.items():
            function = getattr(library, name, None)
            if function is not None:  # an operator that a library lacks falls back on its own
                function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        return None, f"{path.name} cannot be loaded: {error}; {_REMEDY[kind]}"
    return library, library.av_isa().decode()


def _unusable(library: ctypes.CDLL) -> str | None:
    """The library's reason why nothing can run on this machine; libraries from before it was asked have none."""
    function = getattr(library, "av_unusable", None)
    if function is None:
        return None
    function.restype = ctypes.c_char_p
    why = function()
    return None if why is None else why.decode(errors="replace")


@cache
def _warn_once(kind: str, operator: str, reason: str) -> None:
    what = f"operator {operator}" if operator else "kernels"
    warnings.warn(f"native {kind} {what} unavailable, using the slow reference: {reason}", RuntimeWarning, stacklevel=4)


def native(device_type: str, function: str) -> ctypes.CDLL | None:
    """The library that runs `function` on this kind of device, or None for the reference path.

    Raises KernelError instead of falling back when AVATARS_KERNELS=native.
    """
    wanted = policy()
    if wanted == "reference" or device_type not in ("cpu", "cuda"):
        return None
    library, reason = open_library(device_type)
    operator = ""
    if library is not None:
        if hasattr(library, function):
            return library
        library, reason, operator = None, f"the library has no {function}", function
    if wanted == "native":
        raise KernelError(f"AVATARS_KERNELS=native, but {reason}")
    _warn_once(device_type, operator, reason)
    return None


def check(library: ctypes.CDLL, status: int, operator: str) -> None:
    """Turn a status other than AV_OK into a KernelError with the library's message."""
    if status != abi.OK:
        message = library.av_error().decode(errors="replace")
        raise KernelError(f"{operator}: {message or f'status {status}'}")


def available() -> dict[str, str]:
    """What runs the operators: per device the loaded library with its instruction sets, or why there is none."""
    report = {"policy": policy()}
    for kind in ("cpu", "cuda"):
        library, text = open_library(kind)
        report[kind] = f"native ({text})" if library is not None else f"reference: {text}"
    return report
