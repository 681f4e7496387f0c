"""Making a sample: another capture of the same layout, smaller, whose cameras still agree with its pictures."""

from __future__ import annotations

import wave
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from filming import ring

from avatars.errors import CaptureError
from capture.formats import open_capture
from capture.quality import require_usable
from capture.sample.make import encode, make_sample


def test_half_size_sample(studio: Callable[..., Path], tmp_path: Path) -> None:
    source = studio(frames=6, sequences=("A", "B"), cameras=ring(4, (128, 160)))
    with wave.open(str(source / "sequences" / "B" / "audio.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(bytes(3200))
    chosen = ("220000", "220002", "220003")
    out = make_sample(source, tmp_path / "small", chosen, (64, 80))
    full, small = open_capture(source, cameras=chosen), open_capture(out)
    require_usable(small)
    assert small.camera_names == chosen and small.image_size == (64, 80) and small.fps == full.fps and small.truth is None
    np.testing.assert_allclose(small.cameras.Ks, full.cameras.resized(64, 80).Ks, atol=1e-3)
    np.testing.assert_allclose(small.cameras.viewmats, full.cameras.viewmats)
    assert small.audio("A") is None and small.audio("B").read_bytes() == full.audio("B").read_bytes()
    for a, b in zip(full.frames("B", "220002"), small.frames("B", "220002"), strict=True):
        reference = cv2.resize(a, (64, 80), interpolation=cv2.INTER_AREA).astype(float)
        assert np.abs(reference - b).mean() < 2
    plate = cv2.resize(full.clean_plate("220002"), (64, 80), interpolation=cv2.INTER_AREA).astype(float)
    assert np.abs(plate - small.clean_plate("220002")).mean() < 1.5
    with pytest.raises(CaptureError, match="no camera 999"):
        make_sample(source, tmp_path / "bad", ("999",), (64, 80))
    assert not (tmp_path / "bad").exists()


def test_nothing_to_encode(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no pictures"):
        encode(tmp_path / "a.mp4", [], 24.0, "libx264", "yuv444p", {})
