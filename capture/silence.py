"""Keeping libraries quiet that write to the process's standard error from C++."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_inside = 0  # threads that want silence
_stderr = -1  # the standard error while there is silence


@contextmanager
def quiet() -> Iterator[None]:
    """Send what is written to file descriptor 2 nowhere, for the short while in which mediapipe starts.

    Several threads may be inside at once; the last one out brings the standard error back.
    """
    global _inside, _stderr
    os.environ.setdefault("GLOG_minloglevel", "3")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _lock:
        _inside += 1
        if _inside == 1:
            _stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 2)
            os.close(null)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                os.dup2(_stderr, 2)
                os.close(_stderr)
