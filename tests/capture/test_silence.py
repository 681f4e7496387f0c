"""The standard error is silent inside and itself again afterwards, also after an error."""

from __future__ import annotations

import os

import pytest

from capture.silence import quiet


def test_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError), quiet():
        os.write(2, b"inside")
        raise RuntimeError
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"


def test_threads_that_overlap_do_not_lose_the_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    first, second = quiet(), quiet()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)  # the first one in leaves first
    os.write(2, b"inside")
    second.__exit__(None, None, None)
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"
