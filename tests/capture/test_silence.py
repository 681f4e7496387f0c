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
