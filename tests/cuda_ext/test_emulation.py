"""The emulation of CUDA finds what a GPU would answer with garbage: planted faults stop it, and say what they are."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

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
        (1, "a race in shared memory: a"),
        (2, "a race in shared memory: a"),
        (3, "a race in global memory: two writes"),
        (4, "a race in global memory: a"),
        (5, "a full-mask collective after a lane has returned"),
        (6, "a grid that is too large"),
        (7, "a block that is too large"),
        (8, "a memset of nothing"),
    ],
)
def test_faults_are_found(fault, words):
    done = run(fault)
    assert done.returncode != 0 and words in done.stderr, done.stderr
