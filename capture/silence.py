"""Keeping the start of mediapipe off the terminal: it logs from C++ straight to the process's standard error.

What is written meanwhile is held back, and of that only the lines that every start produces are dropped. Errors, and what other threads
had to say, reach the terminal when the silence ends.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

_NOISE = re.compile(
    rb"[IW]\d{4,8} [\d:.]+ +\d+ \S+:\d+\] "  # glog's and absl's informations and warnings; their errors begin with E or F
    rb"|INFO: |WARNING: All log messages before absl::InitializeLog"  # TensorFlow Lite, absl
)
_lock = threading.Lock()
_inside = 0  # threads that want silence
_stderr = -1  # the standard error while there is silence
_held: IO[bytes] | None = None  # what was written meanwhile


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back what is written to file descriptor 2, for the short while in which mediapipe starts; then pass on all but its chatter.

    Several threads may be inside at once; the last one out brings the standard error back.
    """
    global _inside, _stderr, _held
    os.environ.setdefault("GLOG_minloglevel", "2")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    warnings.filterwarnings("ignore", message="SymbolDatabase.GetPrototype", category=UserWarning)  # protobuf, of mediapipe's calls
    with _lock:
        _inside += 1
        if _inside == 1:
            _stderr, _held = os.dup(2), tempfile.TemporaryFile()
            os.dup2(_held.fileno(), 2)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0 and _held is not None:
                os.dup2(_stderr, 2)
                os.close(_stderr)
                _held.seek(0)
                lines = _held.read().splitlines(keepends=True)
                _held.close()
                if rest := b"".join(line for line in lines if not _NOISE.match(line)):
                    os.write(2, rest)
