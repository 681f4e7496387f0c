"""Builds the CUDA kernels for the host, under the emulation of emulation/; needs g++ and no CUDA toolkit."""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cuda_ext import abi

ROOT = Path(__file__).resolve().parents[2]
KERNELS = sorted((ROOT / "cuda_ext" / "cuda").glob("*.cu"))
EMULATION = Path(__file__).parent / "emulation"


def build_emulation() -> Path:
    """Compile the kernels for the host, once per content of the sources."""
    sources = [*KERNELS, EMULATION / "emulation.cpp"]
    headers = [*(ROOT / "cuda_ext").glob("cuda/*.cuh"), *(ROOT / "cuda_ext").glob("include/*.h"), EMULATION / "emulation.h"]
    digest = hashlib.sha256(b"".join(p.read_bytes() for p in sorted([*sources, *headers]))).hexdigest()[:16]
    target = ROOT / "build" / "emulation" / f"libavatars_emulated_{digest}.so"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    options = ["g++", "-O1", "-std=c++17", "-fPIC", "-DAV_EMULATE", "-U_FORTIFY_SOURCE", f"-I{EMULATION}"]
    with tempfile.TemporaryDirectory() as folder:
        objects = [Path(folder) / f"{source.stem}.o" for source in sources]

        def compile_one(source: Path, target: Path) -> None:
            command = [*options, "-x", "c++", "-c", str(source), "-o", str(target)]
            result = subprocess.run(command, capture_output=True, text=True)
            assert result.returncode == 0, result.stderr

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(compile_one, sources, objects))
        temporary = target.with_suffix(f".{os.getpid()}.tmp")
        subprocess.run(["g++", "-shared", *map(str, objects), "-o", str(temporary)], check=True)
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
