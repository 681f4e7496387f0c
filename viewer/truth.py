"""What the capture's cameras recorded, and how far an avatar is from it, by region."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from avatars.avatar import Avatar
from avatars.metrics import psnr, region_masks, ssim
from avatars.pictures import PictureCache
from avatars.sequence import TrackedSequence
from avatars.types import Gaussians, HeadPose
from viewer.layers import Colour, draw_color
from viewer.stage import REGIONS

HEIGHT = 400  # pictures that are measured are at most this tall


class Truth:
    """The pictures of a tracked sequence."""

    def __init__(self, tracked: TrackedSequence) -> None:
        self.tracked = tracked
        self._pictures = PictureCache(tracked, megabytes=64)  # a sequence of one camera: more fills slowly and looks like a leak

    def picture(self, frame: int, camera: str, background: Colour) -> tuple[np.ndarray, np.ndarray] | None:
        """The person [H, W, 3] over a background, and the matte [H, W]; None where nothing was recorded."""
        if camera not in self.tracked.cameras.names:
            return None
        index = self.tracked.cameras.names.index(camera)
        if frame >= self.tracked.frame_count or not self.tracked.valid[frame, index]:
            return None
        picture = self._pictures.get(frame, index).astype(np.float32) / 255  # colours times matte, matte
        alpha = picture[..., 3:]
        return picture[..., :3] + np.asarray(background, np.float32) * (1 - alpha), alpha[..., 0]

    @torch.no_grad()
    def measure(self, avatar: Avatar, pose: HeadPose, gaussians: Gaussians, frame: int, camera: str, backend: str) -> np.ndarray | None:
        """[2, 3] PSNR (dB) and SSIM of a posed avatar over each of `REGIONS`, over white; NaN where a region is not seen."""
        truth = self.picture(frame, camera, (1.0, 1.0, 1.0))
        if truth is None:
            return None
        cameras = self.tracked.cameras.select([camera])
        scale = min(1.0, HEIGHT / cameras.height)
        size = max(round(cameras.width * scale), 1), max(round(cameras.height * scale), 1)
        cameras = cameras.resized(*size)
        rendered = torch.from_numpy(draw_color(avatar, gaussians, cameras, (1.0, 1.0, 1.0), backend))[None]
        picture, mask = (torch.from_numpy(cv2.resize(x, size, interpolation=cv2.INTER_AREA))[None] for x in truth)
        vertices = avatar.vertices(pose)[0]
        masks = region_masks(avatar.head, vertices, cameras.to(vertices.device), mask.to(vertices.device))
        weights = [None if (m := masks[name]) is None else m.cpu() for name in REGIONS]
        return np.array([[float(figure(rendered, picture, w)) for w in weights] for figure in (psnr, ssim)])
