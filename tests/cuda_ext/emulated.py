"""Builds the CUDA kernels for the host, under the emulation of emulation/; needs g++ and no CUDA toolkit."""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cuda_ext import abi

ROOT = Path(__file__).resolve().parents[2]
KERNELS = sorted((ROOT / "cuda_ext" / "cuda").glob("*.cu"))
EMULATION = Path(__file__).parent / "emulation"


def build_emulation(kernels: Sequence[Path] = KERNELS) -> Path:
    """Compile kernels for the host, once per content of the sources."""
    machinery = sorted(EMULATION.glob("*.cpp"))
    headers = [*(ROOT / "cuda_ext").glob("cuda/*.cuh"), *(ROOT / "cuda_ext").glob("include/*.h"), *EMULATION.glob("*.h")]
    parts = [Path(__file__), *sorted([*kernels, *machinery, *headers])]
    digest = hashlib.sha256(b"".join(p.read_bytes() for p in parts)).hexdigest()[:16]
    target = ROOT / "build" / "emulation" / f"libavatars_emulated_{digest}.so"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    options = [
        "g++",
        "-O1",
        "-std=c++17",
        "-fPIC",
        "-DAV_EMULATE",
        "-fno-gnu-unique",
        "-U_FORTIFY_SOURCE",
        f"-I{EMULATION}",
        f"-I{ROOT / 'cuda_ext' / 'cuda'}",
    ]
    with tempfile.TemporaryDirectory() as folder:

        def compile_one(source: Path) -> str:
            there = Path(folder) / f"{source.stem}.o"
            watched = ["-fsanitize=thread"] if source in kernels else []  # answered by emulation/races.cpp
            command = [*options, *watched, "-x", "c++", "-c", str(source), "-o", str(there)]
            result = subprocess.run(command, capture_output=True, text=True)
            assert result.returncode == 0, result.stderr
            return str(there)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(compile_one, [*kernels, *machinery]))
        temporary = target.with_suffix(f".{os.getpid()}.tmp")
        subprocess.run(["g++", "-shared", "-Wl,-z,defs", *objects, "-o", str(temporary)], check=True)
    os.replace(temporary, target)
    return target


def declare(library: ctypes.CDLL) -> ctypes.CDLL:
    """Give every function its types."""
    for name, (result, arguments) in abi.FUNCTIONS.items():
        if hasattr(library, name):
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    library.av_error.restype = ctypes.c_char_p
    library.av_abi_size.restype = ctypes.c_int64
    return library
