"""Stills: lossless, readable by others, and with their parameters inside."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from avatars.errors import UserError
from avatars.png import encode_png, read_png_parameters, write_png


@pytest.mark.parametrize("shape", [(1, 1, 3), (17, 31, 3), (8, 5, 4)])
def test_another_decoder_sees_the_same_pixels(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    write_png(tmp_path / "a.png", picture, {"camera": "front", "ß": [1, 2.5]})
    back = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)
    order = [2, 1, 0, 3][: shape[2]]
    np.testing.assert_array_equal(back[..., order], picture)
    assert read_png_parameters(tmp_path / "a.png") == {"camera": "front", "ß": [1, 2.5]}


def test_wrong_input(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="end in .png"):
        write_png(tmp_path / "a.jpg", np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(ValueError, match="uint8"):
        encode_png(np.zeros((2, 2, 3)))
    write_png(tmp_path / "bare.png", np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(UserError, match="no parameters"):
        read_png_parameters(tmp_path / "bare.png")
