"""A studio small enough to be filmed in milliseconds: a textured ellipsoid that moves before a wall, seen by calibrated cameras."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

from avatars.transforms import look_at
from avatars.types import Cameras

SIZE = (64, 80)
RADII = np.array([0.08, 0.12, 0.09])


def ring(count: int = 4, size: tuple[int, int] = SIZE, distance: float = 1.0) -> Cameras:
    """Cameras on an arc of 120° around the origin, at two heights."""
    angles = np.linspace(-1.05, 1.05, count)
    views = [
        look_at(
            torch.tensor([distance * np.sin(a), 0.3 * distance * (-1) ** k, distance * np.cos(a)], dtype=torch.float64),
            torch.zeros(3, dtype=torch.float64), torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64),
        )
        for k, a in enumerate(angles)
    ]  # fmt: skip
    focal = 2.6 * size[0]
    K = torch.tensor([[focal, 0, size[0] / 2], [0, focal, size[1] / 2], [0, 0, 1]])
    return Cameras(tuple(f"2200{k:02d}" for k in range(count)), K.expand(count, 3, 3).clone(), torch.stack(views).float(), *size)


def picture(cameras: Cameras, camera: int, shift: Sequence[float] = (0, 0, 0), turn: float = 0.0, response: np.ndarray | None = None,
            noise: float = 1.0, seed: int = 0, empty: bool = False) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """uint8 RGB [H, W, 3] of the ellipsoid at `shift`, turned about y, and its bool mask [H, W]."""
    w, h = cameras.width, cameras.height
    R, K = cameras.viewmats[camera, :3, :3].double().numpy(), cameras.Ks[camera].double().numpy()
    x, y = np.meshgrid(np.arange(w) + 0.5, np.arange(h) + 0.5)
    rays = np.stack([(x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1], np.ones_like(x)], -1) @ R
    origin = cameras.centers[camera].double().numpy() - np.asarray(shift)
    wall = np.stack([0.72 - 0.05 * x / w, 0.73 - 0.04 * y / h, 0.75 + 0 * x], -1)
    d, o = rays / RADII, origin / RADII
    a, b, c = (d * d).sum(-1), (d * o).sum(-1), (o * o).sum() - 1
    hit = (b * b - a * c > 0) & (not empty)
    t = (-b - np.sqrt(np.maximum(b * b - a * c, 0))) / a
    p = origin + t[..., None] * rays
    angle = np.arctan2(p[..., 0], p[..., 2]) + turn
    color = np.stack(
        [0.45 + 0.25 * np.sin(7 * angle), 0.3 + 0.15 * np.cos(60 * p[..., 1]), 0.25 + 0.15 * np.sin(5 * angle + 40 * p[..., 1])], -1
    )
    image = np.where(hit[..., None], color, wall)
    if response is not None:
        image = image @ response.T
    image = 255 * image + noise * np.random.default_rng(seed).normal(size=image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), hit


def write_video(path: Path, frames: Iterable[np.ndarray], fps: int = 24, crf: int = 12, pixels: str = "yuv444p") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:  # the index first: cut files can still be opened
        stream = None
        for frame in frames:
            if stream is None:
                stream = container.add_stream("libx264", rate=Fraction(fps), options={"crf": str(crf), "preset": "ultrafast", "g": "4"})
                stream.height, stream.width, stream.pix_fmt = frame.shape[0], frame.shape[1], pixels
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def motion(frames: int) -> list[tuple[float, float]]:
    """(shift along x in metres, turn in radians) per frame: uneven, so that it can be told when something happened."""
    t = np.arange(frames)
    return [(0.012 * np.sin(0.07 * k * k), 0.15 * np.sin(0.9 * k + 0.05 * k * k)) for k in t]
