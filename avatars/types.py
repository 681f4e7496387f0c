"""The small frozen types that the stages exchange.

Conventions, everywhere in this project: metres, seconds, right-handed world; OpenCV cameras (x right, y down,
z forward; the corner of the image is (0, 0) and the centre of the first pixel (0.5, 0.5)); quaternions wxyz;
images float RGB in 0–1 with shape [C, H, W, 3], sRGB-encoded as the sensor delivered them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T", bound="_Movable")


class _Movable:
    """Moves every tensor field to a device or dtype; used by all types below."""

    def to(self: T, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> T:
        """Tensors on `device`, floating ones of `dtype`; the same object when they are so already."""

        def move(value):
            if not isinstance(value, Tensor):
                return value
            return value.to(device=device, dtype=dtype if value.is_floating_point() else None)

        values = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        moved = {k: move(v) for k, v in values.items()}
        return self if all(moved[k] is v for k, v in values.items()) else replace(self, **moved)  # type: ignore[type-var]

    def detach(self: T) -> T:
        """Return a copy whose tensors carry no gradient."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        return replace(self, **{k: v.detach() if isinstance(v, Tensor) else v for k, v in values.items()})  # type: ignore[type-var]


@dataclass(frozen=True)
class Cameras(_Movable):
    """C pinhole cameras that share one image size. Index with an int, slice or list to get a smaller batch."""

    names: tuple[str, ...]
    Ks: Tensor  # [C, 3, 3] pixels; any principal point, no skew assumed zero
    viewmats: Tensor  # [C, 4, 4] world → camera
    width: int
    height: int

    def __post_init__(self) -> None:
        c = len(self.names)
        if tuple(self.Ks.shape) != (c, 3, 3) or tuple(self.viewmats.shape) != (c, 4, 4):
            raise ValueError(
                f"Cameras: {c} names need Ks [{c},3,3] and viewmats [{c},4,4], got {tuple(self.Ks.shape)} and {tuple(self.viewmats.shape)}"
            )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int | slice | Sequence[int]) -> Cameras:
        ids = [index] if isinstance(index, int) else list(range(len(self)))[index] if isinstance(index, slice) else list(index)
        return replace(self, names=tuple(self.names[i] for i in ids), Ks=self.Ks[ids], viewmats=self.viewmats[ids])

    def select(self, names: Sequence[str]) -> Cameras:
        """The cameras called `names`, in that order; ValueError lists the known names when one is absent."""
        missing = [n for n in names if n not in self.names]
        if missing:
            raise ValueError(f"no camera {', '.join(missing)}; known: {', '.join(self.names)}")
        return self[[self.names.index(n) for n in names]]

    def resized(self, width: int, height: int) -> Cameras:
        """The same cameras imaging onto `width` × `height` pixels."""
        scale = torch.tensor([width / self.width, height / self.height, 1.0], dtype=self.Ks.dtype, device=self.Ks.device)
        return replace(self, Ks=self.Ks * scale[:, None], width=width, height=height)

    @property
    def centers(self) -> Tensor:
        """[C, 3] camera centres in the world."""
        R, t = self.viewmats[:, :3, :3], self.viewmats[:, :3, 3]
        return -(R.transpose(1, 2) @ t[..., None])[..., 0]


@dataclass(frozen=True)
class Identity(_Movable):
    """Who: the shape of one person, constant over time."""

    coefficients: Tensor  # [I] in standard deviations
    offsets: Tensor | None = None  # [V, 3] metres, added to the neutral shape
    scale: float | Tensor = 1.0  # uniform scale of the head about its origin


@dataclass(frozen=True)
class HeadPose(_Movable):
    """What the head does in B frames.

    Expression weights are nominally 0–1. Joint rotations are axis-angle, in radians, in the parent joint's frame,
    and add to those that the expressions themselves cause. The root moves the whole figure in the world.
    """

    expression: Tensor  # [B, E]
    joints: Tensor  # [B, J, 3] axis-angle
    rotation: Tensor  # [B, 3] axis-angle, root → world
    translation: Tensor  # [B, 3] metres

    def __len__(self) -> int:
        return self.expression.shape[0]

    def __getitem__(self, index) -> HeadPose:
        """Frames `index` (int keeps the batch dimension)."""
        if isinstance(index, int):
            index = [index]
        return HeadPose(self.expression[index], self.joints[index], self.rotation[index], self.translation[index])

    @staticmethod
    def cat(poses: Sequence[HeadPose]) -> HeadPose:
        """Join along the frame dimension."""
        return HeadPose(*(torch.cat([getattr(p, f.name) for p in poses]) for f in fields(HeadPose)))


@dataclass(frozen=True)
class Mesh(_Movable):
    """Triangles, possibly in B poses."""

    vertices: Tensor  # [B, V, 3]
    faces: Tensor  # [F, 3] int64


@dataclass(frozen=True)
class Gaussians(_Movable):
    """N world-space Gaussians with activated parameters, ready to be rendered."""

    means: Tensor  # [N, 3] metres
    quats: Tensor  # [N, 4] wxyz, need not be unit
    scales: Tensor  # [N, 3] standard deviations, metres
    opacities: Tensor  # [N] in 0–1
    sh: Tensor  # [N, K, 3] spherical-harmonics coefficients, K = (degree+1)²; colour = max(0, SH + 0.5)

    def __len__(self) -> int:
        return self.means.shape[0]


@dataclass(frozen=True)
class Image(_Movable):
    """What a renderer returns for C cameras."""

    color: Tensor  # [C, H, W, 3] composited over the background
    alpha: Tensor  # [C, H, W, 1]
    depth: Tensor | None = None  # [C, H, W, 1] expected depth along z, metres; 0 where nothing is
