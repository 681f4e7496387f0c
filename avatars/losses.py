"""Training losses, and what they compare with. Pictures are [C, H, W, 3] in 0–1.

Every loss returns a scalar and is differentiable in its first argument.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from avatars.head import HeadModel
from avatars.transforms import project_points
from avatars.types import Cameras
from cuda_ext import ops

EYES = ("eyelids", "eyeball_left", "eyeball_right", "iris_left", "iris_right", "pupil_left", "pupil_right")
MOUTH = ("lips", "mouth_bag", "tongue", "teeth_upper", "teeth_lower", "gums_upper", "gums_lower")


def pictures(
    color: Tensor,  # [C, H, W, 3] rendered
    alpha: Tensor,  # [C, H, W, 1]
    target: Tensor,  # [C, H, W, 3]
    mattes: Tensor,  # [C, H, W]
    weights: Tensor | None,  # [C, H, W] how much each pixel's colour counts
    ssim_weight: float,
    coverage_weight: float,
) -> Tensor:
    """(1−λ)·L1 + λ·(1−SSIM) (Kerbl et al. 2023, eq. 7), and how far alpha is from the mattes: nothing floats outside of the foreground,
    nothing is see-through inside. Averaged over pictures. One operator makes all of it and both gradients in one sweep.
    """
    return ops.picture_loss(color, alpha, target, mattes, ssim_weight=ssim_weight, matte_weight=coverage_weight, weights=weights)


@dataclass(frozen=True)
class Attention:
    """Where pictures count more: windows around the mouth and each eye. `attention_of` makes it once per head."""

    ids: Tensor  # [W, P] vertex ids of each window, the last repeated to fill its row
    shares: Tensor  # [W, P] of each point in the window's centre: 1 / number of points, 0 where an id repeats
    gains: Tensor  # [W]
    metres: Tensor  # [W] around the points
    inside: Tensor  # [Q] vertex ids whose mean lies inside of the head

    def windows(self, vertices: Tensor, cameras: Cameras) -> Tensor:
        """[C, W, 5] what `ops.compose` takes: where the windows lie in each picture, and how much they count; vertices [V, 3].

        In focal lengths from the principal point: pictures may be cut and resized. A camera beyond about 80° of the face gets windows without
        strength.
        """
        C, (W, P) = len(cameras), self.ids.shape
        if not W:
            return vertices.new_zeros(C, 0, 5)
        points = vertices[self.ids]
        places, z = project_points(points.reshape(1, -1, 3), cameras.viewmats, torch.eye(3).to(cameras.Ks).expand(C, 3, 3))
        places, z = places.reshape(C, W, P, 2), z.reshape(C, W, P)
        low, high = torch.aminmax(places, dim=2)  # [C, W, 2]
        half = (high - low) / 2 + (self.metres / (z * self.shares).sum(2))[..., None]
        centers = (points * self.shares[..., None]).sum(1)  # [W, 3]
        outward = torch.nn.functional.normalize(centers - vertices[self.inside].mean(0), dim=1)
        facing = (torch.nn.functional.normalize(cameras.centers[:, None] - centers, dim=2) * outward).sum(2)
        strength = self.gains * ((facing - 0.17).clamp(0, 0.2) / 0.2)
        return torch.cat([(low + high) / 2, half, strength[..., None]], 2)


def attention_of(head: HeadModel, mouth: float, eyes: float) -> Attention:
    """Windows with extra weight `mouth` and `eyes`, on a head that has these regions."""
    wanted = ((("lips",), mouth, 0.012), (("iris_left", "pupil_left"), eyes, 0.018), (("iris_right", "pupil_right"), eyes, 0.018))
    windows = [(head.region_vertices(*names), gain, metres) for names, gain, metres in wanted]
    windows = [w for w in windows if len(w[0]) and w[1] > 0]
    inside = head.region_vertices("scalp", "neck")
    device = head.faces.device
    if not len(inside):
        inside = torch.arange(head.V, device=device)
    most = max((len(ids) for ids, _, _ in windows), default=0)
    rows = [torch.cat([ids, ids[-1:].expand(most - len(ids))]) for ids, _, _ in windows]
    ids = torch.stack(rows) if rows else torch.zeros(0, 0, dtype=torch.int64, device=device)
    shares = torch.zeros(ids.shape, device=device)
    for row, (own, _, _) in zip(shares, windows, strict=True):
        row[: len(own)] = 1 / len(own)
    gains, metres = (torch.tensor([w[i] for w in windows], device=device) for i in (1, 2))
    return Attention(ids, shares, gains, metres, inside)
