"""The fixture that films a small studio; what it films with is in filming.py, which tests import by that name."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from avatars.types import Cameras

sys.path.insert(0, str(Path(__file__).parent))
from filming import motion, picture, ring, write_video  # noqa: E402


@pytest.fixture
def studio(tmp_path: Path) -> Callable[..., Path]:
    """Film a capture in the NeRSemble v2 layout; returns its folder."""

    def film(name: str = "studio", cameras: Cameras | None = None, frames: int = 16, sequences: Sequence[str] = ("A",), plates: bool = True,
             delays: dict[str, int] | None = None, responses: dict[str, np.ndarray] | None = None, calibration: dict | None = None) -> Path:  # fmt: skip
        folder = tmp_path / name
        cameras = cameras or ring()
        values = {
            "world_2_cam": {n: v.tolist() for n, v in zip(cameras.names, cameras.viewmats, strict=True)},
            "intrinsics": {n: K.tolist() for n, K in zip(cameras.names, cameras.Ks, strict=True)},
            "image_size": [cameras.width, cameras.height],
        }
        values.update(calibration or {})
        (folder / "calibration").mkdir(parents=True)
        (folder / "calibration" / "camera_params.json").write_text(json.dumps({k: v for k, v in values.items() if v is not None}))
        for k, camera in enumerate(cameras.names):
            response = (responses or {}).get(camera)
            for sequence in sequences:
                late = (delays or {}).get(camera, 0)
                path = folder / "sequences" / sequence / "images" / f"cam_{camera}.mp4"
                moves = motion(frames + 20)
                write_video(
                    path,
                    (
                        picture(cameras, k, (moves[t - late + 8][0], 0, 0), moves[t - late + 8][1], response, seed=t)[0]
                        for t in range(frames)
                    ),
                )
            if plates:
                (folder / "BACKGROUND").mkdir(exist_ok=True)
                plate = picture(cameras, k, response=response, seed=999, empty=True)[0]
                cv2.imwrite(str(folder / "BACKGROUND" / f"image_{camera}.png"), plate[..., ::-1])
        return folder

    return film
