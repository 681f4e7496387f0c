"""Training losses, and what they compare with. Pictures are [C, H, W, 3] in 0–1.

Every loss returns a scalar and is differentiable in its first argument.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from avatars.head import HeadModel
from avatars.transforms import project_points
from avatars.types import Cameras
from cuda_ext import ops

EYES = ("eyelids", "eyeball_left", "eyeball_right", "iris_left", "iris_right", "pupil_left", "pupil_right")
MOUTH = ("lips", "mouth_bag", "tongue", "teeth_upper", "teeth_lower", "gums_upper", "gums_lower")


def photometric(rendered: Tensor, target: Tensor, ssim_weight: float, weights: Tensor | None = None) -> Tensor:
    """(1−λ)·L1 + λ·(1−SSIM) (Kerbl et al. 2023, eq. 7), averaged over pictures; weights [C, H, W] multiply both maps."""
    return ops.l1_ssim(rendered, target, ssim_weight=ssim_weight, weights=weights).mean()


def coverage(alpha: Tensor, masks: Tensor) -> Tensor:
    """Mean |alpha − mask|, both [C, H, W]: nothing floats outside of the foreground, nothing is see-through inside."""
    return (alpha - masks).abs().mean()


@dataclass(frozen=True)
class Attention:
    """Where pictures count more: windows around the mouth and each eye. `attention_of` makes it once per head."""

    windows: tuple[tuple[Tensor, float, float], ...]  # vertex ids, gain, metres around them
    inside: Tensor  # [Q] vertex ids whose mean lies inside of the head

    def weights(self, vertices: Tensor, cameras: Cameras) -> Tensor:
        """[C, H, W]: 1, and more in the windows where the camera sees the face; vertices [V, 3].

        A camera beyond about 80° of the face gets none.
        """
        total = torch.ones(len(cameras), cameras.height, cameras.width, device=vertices.device)
        for ids, gain, metres in self.windows:
            points = vertices[ids]
            pixels, z = project_points(points, cameras.viewmats, cameras.Ks)
            low, high = pixels.amin(1), pixels.amax(1)  # [C, 2]
            half = (high - low) / 2 + metres * cameras.Ks[:, 0, 0, None] / z.mean(1, keepdim=True)
            outward = torch.nn.functional.normalize(points.mean(0) - vertices[self.inside].mean(0), dim=0)
            facing = (torch.nn.functional.normalize(cameras.centers - points.mean(0), dim=1) @ outward - 0.17).clamp(0, 0.2) / 0.2
            for c, (centre, size, strength) in enumerate(zip(((low + high) / 2).tolist(), half.tolist(), (gain * facing).tolist(), strict=True)):
                _add_window(total[c], centre, size, strength)
        return total


def attention_of(head: HeadModel, mouth: float, eyes: float) -> Attention:
    """Windows with extra weight `mouth` and `eyes`, on a head that has these regions."""
    wanted = ((("lips",), mouth, 0.012), (("iris_left", "pupil_left"), eyes, 0.018), (("iris_right", "pupil_right"), eyes, 0.018))
    windows = [(head.region_vertices(*names), gain, metres) for names, gain, metres in wanted]
    inside = head.region_vertices("scalp", "neck")
    if not len(inside):
        inside = torch.arange(head.V, device=head.faces.device)
    return Attention(tuple(w for w in windows if len(w[0]) and w[1] > 0), inside)


def _add_window(weights: Tensor, centre: list[float], half: list[float], strength: float) -> None:
    """Add a soft box exp(−(x/half)⁴) to weights [H, W], in place; beyond 1.5 half-sizes it is below 1 % and left out."""
    if strength <= 0 or not all(map(math.isfinite, (*centre, *half))):
        return
    ranges, profiles = [], []
    for middle, size, limit in ((centre[1], half[1], weights.shape[0]), (centre[0], half[0], weights.shape[1])):
        first, last = max(int(middle - 1.5 * size), 0), min(int(middle + 1.5 * size) + 1, limit)
        if first >= last:
            return
        x = torch.arange(first, last, device=weights.device) + (0.5 - middle)
        ranges.append(slice(first, last))
        profiles.append(torch.exp(-((x / size) ** 4)))
    weights[ranges[0], ranges[1]] += strength * profiles[0][:, None] * profiles[1]


def composite(images: Tensor, backgrounds: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures [C, H, W, 4] (0–255, colours times matte) over backgrounds [C, 3] → float pictures [C,H,W,3] and mattes [C,H,W].

    `inverse` [C, 3, 4] maps what each sensor recorded to the avatar's colours. Everything is one affine map of the four channels:
    A·premultiplied + (b − background)·matte + background.
    """
    matrices = torch.cat([inverse[..., :3], inverse[..., 3:] - backgrounds[..., None]], 2) / 255
    if images.device.type == "cpu":
        import cv2  # its vectorised transform takes a tenth of the time of torch's operations here

        target = torch.empty(*images.shape[:3], 3)
        mattes = torch.empty(images.shape[:3])
        full = torch.cat([matrices, backgrounds[..., None]], 2).numpy()
        for i, picture in enumerate(images.numpy()):
            values = picture.astype(np.float32)
            cv2.transform(values, full[i], dst=target[i].numpy())
            np.multiply(values[..., 3], 1 / 255, out=mattes[i].numpy())
        return target, mattes
    values = images.to(backgrounds.dtype)
    flat = torch.baddbmm(backgrounds[:, None], values.flatten(1, 2), matrices.transpose(1, 2))
    return flat.reshape(*images.shape[:3], 3), values[..., 3] / 255
