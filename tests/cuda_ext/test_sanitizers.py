"""Fuzzing: always against the built library, and with AVATARS_SANITIZE=1 against one built with AddressSanitizer and UBSan.

The sanitized build takes minutes of compiling, so it has to be asked for: AVATARS_SANITIZE=1 pytest tests/cuda_ext/test_sanitizers.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cuda_ext

FUZZ = Path(__file__).with_name("fuzz.py")
SOURCE = Path(cuda_ext.__file__).resolve().parent


def _fuzz(rounds: int, **environment: str) -> None:
    env = {**os.environ, "PYTHONPATH": str(SOURCE.parent), "AVATARS_KERNELS": "native", **environment}
    done = subprocess.run([sys.executable, str(FUZZ), str(rounds)], env=env, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]


def test_fuzz():
    _fuzz(25)


@pytest.mark.skipif(os.environ.get("AVATARS_SANITIZE") != "1", reason="slow: set AVATARS_SANITIZE=1 to build and fuzz a sanitized library")
@pytest.mark.parametrize("isa", ["", "avx2", "base"])
def test_fuzz_under_sanitizers(isa, tmp_path_factory):
    cmake = shutil.which("cmake")
    assert cmake is not None, "cmake is needed for the sanitized build"
    build = Path(os.environ.get("AVATARS_SANITIZE_BUILD", tmp_path_factory.getbasetemp() / "sanitized"))
    build.mkdir(exist_ok=True)
    subprocess.run([cmake, "-S", SOURCE, "-B", build, "-DAVATARS_SANITIZE=ON", "-DAVATARS_CUDA=OFF"], check=True, capture_output=True)
    subprocess.run([cmake, "--build", build, "--parallel"], check=True, capture_output=True)
    runtime = [
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    _fuzz(
        120, AVATARS_LIBRARIES=str(build), LD_PRELOAD=":".join(runtime), AVATARS_ISA=isa,
        ASAN_OPTIONS="detect_leaks=0", UBSAN_OPTIONS="print_stacktrace=1",
    )  # fmt: skip
