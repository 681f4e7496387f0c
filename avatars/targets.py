"""What the rendered pictures of a training step are compared with: the recorded ones over random backgrounds, in the avatar's colours."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from avatars import losses
from avatars.colors import CameraColors
from avatars.head import HeadModel, ShapedHead
from avatars.pictures import Batch
from avatars.sequence import TrackedSequence
from avatars.train import TrainConfig
from avatars.types import Cameras
from cuda_ext import ops

_HALF = torch.tensor([[0.5], [0.5], [1.0]])  # what half of the size makes of a K
_BLOCK = 100  # steps whose backgrounds are drawn together: making a generator takes as long


@dataclass(frozen=True)
class Target:
    """One frame seen by C cameras, on the device of training."""

    cameras: Cameras
    ids: list[int]
    images: Tensor  # [C, H, W, 4] uint8 as recorded, 0–255: colours times matte, matte; of twice the size when `halved`
    halved: bool
    backgrounds: Tensor  # [C, 3]
    pictures: Tensor  # [C, H, W, 3] over the backgrounds, in the avatar's colours
    mattes: Tensor  # [C, H, W]
    weights: Tensor  # [C, H, W] how much each pixel counts

    def recorded(self, pixels: Tensor) -> Tensor:
        """Colours times matte in 0–1 of some pixels, counted over all pictures, [P] → [P, 3], before any correction."""
        if not self.halved:
            return self.images.reshape(-1, 4).index_select(0, pixels)[:, :3].float() / 255
        (_, h, w), (H, W) = self.mattes.shape, self.images.shape[1:3]
        corners = (pixels // (h * w) * H + 2 * (pixels % (h * w) // w)) * W + 2 * (pixels % w)
        squares = corners[:, None] + torch.tensor([0, 1, W, W + 1], device=pixels.device)
        return self.images.reshape(-1, 4)[squares][..., :3].float().mean(1) / 255


class Targets:
    """Makes the targets of a training; all of it follows from the batch, the step's number and `colors`."""

    def __init__(
        self, tracked: TrackedSequence, head: HeadModel, shaped: ShapedHead, colors: CameraColors, config: TrainConfig, device: torch.device
    ) -> None:
        self.tracked, self.head, self.shaped, self.colors, self.config, self.device = tracked, head, shaped, colors, config, device
        self.attention = losses.attention_of(head, config.mouth_weight, config.eyes_weight)
        self.cameras = tracked.cameras.to(device)
        self.windows: dict[int, Tensor] = {}  # frame → [C, W, 5], made when the frame is first seen
        self.drawn = (-1, np.empty(0, np.float32))  # number of a block of steps, their backgrounds

    @torch.no_grad()
    def of(self, batch: Batch, step: int, halved: bool) -> Target:
        """The target of a step, at half of the resolution when `halved`."""
        cameras, images, ids = batch.cameras.to(self.device), batch.images.to(self.device), list(batch.camera_ids)
        if halved:
            cameras = _halved_cameras(cameras)
        backgrounds, rows = self._backgrounds(step, len(ids)).to(self.device), torch.tensor(ids)
        inverse, windows = (
            self.colors.inverse.index_select(0, rows).to(self.device),
            self._windows(batch.t).index_select(0, rows.to(self.device)),
        )
        pictures, mattes, weights = ops.compose(images, inverse, backgrounds, windows=windows, Ks=cameras.Ks, halve=halved)
        assert weights is not None
        return Target(cameras, ids, images, halved, backgrounds, pictures, mattes, weights)

    def _backgrounds(self, step: int, count: int) -> Tensor:
        """[C, 3] random colours."""
        block, place = divmod(step, _BLOCK)
        if self.drawn[0] != block:
            rng = np.random.default_rng((self.config.seed, 3, block))
            self.drawn = (block, rng.random((_BLOCK, self.config.views, 3), dtype=np.float32))
        return torch.from_numpy(self.drawn[1][place, :count])

    def _windows(self, t: int) -> Tensor:
        """[C, W, 5] where pixels count more, for all cameras.

        It follows from the tracked codes: tuning moves the face by less than a pixel, and finding the windows takes a millisecond.
        """
        if t not in self.windows:
            vertices = self.head.vertices(self.shaped, self.tracked.codes[t].to(self.device))[0]
            self.windows[t] = self.attention.windows(vertices, self.cameras)
        return self.windows[t]


def _halved_cameras(cameras: Cameras) -> Cameras:
    """At half of the size, an odd last row or column dropped."""
    return replace(cameras, Ks=cameras.Ks * _HALF.to(cameras.Ks), width=cameras.width // 2, height=cameras.height // 2)
