"""The emulation of CUDA finds what a GPU would answer with garbage: planted faults stop it, and say what they are."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys

import pytest

from cuda_ext import library

_emulated = sys.modules["emulated"]  # loaded by conftest.py


def run(fault: int) -> subprocess.CompletedProcess[str]:
    """The kernels of faults.cu in a process of their own, since a fault ends it."""
    library = _emulated.build_emulation([_emulated.EMULATION / "faults.cu"])
    program = f"import ctypes; ctypes.CDLL({str(library)!r}).run((ctypes.c_float * 128)(), {fault})"
    return subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True)


def test_right_kernels_pass():
    assert run(0).returncode == 0
    out = (ctypes.c_float * 128)()
    library = ctypes.CDLL(str(_emulated.build_emulation([_emulated.EMULATION / "faults.cu"])))
    library.run(out, 0)
    assert list(out[64:128]) == list(range(63, -1, -1)) and out[0] == 0 and out[5] == 1


@pytest.mark.parametrize(
    "fault, words",
    [
        (1, r"a race in shared memory at .*: a"),
        (2, r"a race in shared memory at .*: a"),
        (3, r"a race in global memory at .*: two writes"),
        (4, r"a race in global memory at .*: a"),
        (5, "a full-mask collective after a lane has returned"),
        (6, "a grid that is too large"),
        (7, "a block that is too large"),
        (8, "a memset of nothing"),
    ],
)
def test_faults_are_found(fault, words):
    done = run(fault)
    assert done.returncode != 0 and re.search(words, done.stderr), done.stderr


@pytest.mark.parametrize(
    "played, words",
    [
        ({"DRIVER": "12080"}, "the driver speaks CUDA 12.8, the kernels were built with 13.0: update the driver"),
        ({"DRIVER": "0"}, "cannot run here: no NVIDIA driver is loaded"),
        ({"DEVICES": "0"}, "cannot run here: CUDA says no CUDA-capable device"),
        ({"CAPABILITY": "61"}, "the best of 1 devices has compute capability 6.1, the kernels need 7.5"),
        ({}, None),
    ],
)
def test_a_machine_that_cannot_run_the_kernels_is_named_when_they_are_opened(played, words, tmp_path, monkeypatch):
    for name, value in played.items():
        monkeypatch.setenv(f"AVATARS_EMULATION_{name}", value)
    shutil.copy(_emulated.build_emulation(), tmp_path / "libavatars_cuda.so")
    monkeypatch.setattr(library, "_FOLDER", tmp_path)
    library.open_library.cache_clear()
    try:
        found, text = library.open_library("cuda")
    finally:
        library.open_library.cache_clear()
    assert (found is not None and text == "host emulation") if words is None else (found is None and words in text)
