"""Canonical Gaussians: bound to the triangles of a head, stored in the triangles' own frames.

A triangle's frame (Qian et al. 2024, GaussianAvatars, eq. 2–4): origin at the centroid, axes [a0 along the first edge,
a1 the normal, a2], unit of length k = (|e0| + height) / 2. A Gaussian stores its triangle and its mean, rotation and
scale in that frame, so it follows when the head deforms. `cuda_ext.ops.bind` evaluates the binding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from avatars.head import HeadModel
from avatars.types import _Movable

SH_C0 = 0.28209479177387814  # Y_0: colour = SH_C0 · sh[0] + 0.5

DENSITY = {
    "face": 2.2, "nose": 2.5, "lips": 4.0, "eyelids": 4.0, "brows": 3.0, "ears": 1.5, "scalp": 0.8, "neck": 0.7, "torso": 0.35,
    "mouth_bag": 1.0, "tongue": 1.5, "teeth_upper": 4.0, "teeth_lower": 4.0, "gums_upper": 1.0, "gums_lower": 1.0,
    "eyeball_left": 3.0, "eyeball_right": 3.0, "iris_left": 8.0, "iris_right": 8.0, "pupil_left": 8.0, "pupil_right": 8.0,
}  # fmt: skip
"""Gaussians per area, relative: what people look at gets more."""


@dataclass(frozen=True)
class CanonicalGaussians(_Movable):
    """N Gaussians in the frames of their triangles."""

    face_ids: Tensor  # [N] int64
    means: Tensor  # [N, 3] triangle units
    quats: Tensor  # [N, 4] wxyz
    log_scales: Tensor  # [N, 3] log of triangle units
    logit_opacities: Tensor  # [N]
    sh: Tensor  # [N, K, 3] sh[:, 0] is the constant term

    def __post_init__(self) -> None:
        n = self.face_ids.shape[0]
        k = self.sh.shape[1] if self.sh.dim() == 3 else -1
        expected = {"means": (n, 3), "quats": (n, 4), "log_scales": (n, 3), "logit_opacities": (n,), "sh": (n, k, 3)}
        for key, shape in expected.items():
            found = tuple(getattr(self, key).shape)
            if found != shape:
                raise ValueError(f"CanonicalGaussians: {n} face ids need {key} {list(shape)}, got {list(found)}")
        if k not in (1, 4, 9, 16):
            raise ValueError(f"CanonicalGaussians: sh must hold 1, 4, 9 or 16 coefficients, got {k}")

    def __len__(self) -> int:
        return self.face_ids.shape[0]

    def __getitem__(self, ids: Tensor) -> CanonicalGaussians:
        """The Gaussians `ids` (indices or a mask)."""
        return CanonicalGaussians(*(getattr(self, f.name)[ids] for f in fields(self)))

    @staticmethod
    def cat(parts: list[CanonicalGaussians]) -> CanonicalGaussians:
        """Join sets that have the same SH degree."""
        return CanonicalGaussians(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(CanonicalGaussians)))

    def tensors(self) -> dict[str, Tensor]:
        """Fields by name, for storage."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(frozen=True)
class FaceFrames:
    """The frames of F triangles in one pose."""

    origins: Tensor  # [F, 3]
    axes: Tensor  # [F, 3, 3], columns a0, a1 (normal), a2
    sizes: Tensor  # [F] metres

    @property
    def normals(self) -> Tensor:
        """[F, 3] unit, outward."""
        return self.axes[..., 1]


def face_frames(vertices: Tensor, faces: Tensor) -> FaceFrames:
    """Frames of `faces` [F, 3] over `vertices` [V, 3]; the plain form of what `ops.bind` fuses."""
    a, b, c = vertices[faces].unbind(-2)
    e0 = b - a
    length = e0.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    a0 = e0 / length
    normal = torch.linalg.cross(a0, c - a)
    a1 = normal / normal.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    a2 = -torch.linalg.cross(a1, a0)
    size = (length[:, 0] + (a2 * (c - a)).sum(-1).abs()) / 2
    return FaceFrames((a + b + c) / 3, torch.stack([a0, a1, a2], -1), size)


def triangle_areas(vertices: Tensor, faces: Tensor) -> Tensor:
    """[F] areas of triangles over vertices [V, 3]."""
    a, b, c = vertices[faces].unbind(-2)
    return torch.linalg.cross(b - a, c - a).norm(dim=-1) / 2


def sample_surface(
    head: HeadModel, vertices: Tensor, count: int, generator: torch.Generator, density: Mapping[str, float] = DENSITY, degree: int = 1
) -> CanonicalGaussians:
    """About `count` flat Gaussians on the mesh, area-weighted with a density per region; grey, mostly opaque.

    vertices [V, 3] is the neutral shape. Every triangle of nonzero weight has a chance; the expected spacing sets the size, so
    the surface is closed from the start.
    """
    areas = triangle_areas(vertices, head.faces)
    per_region = torch.tensor([density.get(n, 1.0) for n in head.region_names], dtype=areas.dtype)
    weights = areas * per_region[head.face_regions.long()]
    share = weights / weights.sum() * count
    # Stratified: each triangle gets the whole part of its share, and one more with the probability of the rest.
    number = share.floor()
    number = (number + (torch.rand(share.shape, generator=generator) < share - number)).long()
    face_ids = torch.repeat_interleave(torch.arange(head.F), number)
    spacing = (areas / share.clamp_min(1e-9)).sqrt()[face_ids]  # metres between neighbours
    points = _points_in_triangles(vertices[head.faces[face_ids]], generator)
    scales = torch.stack([0.6 * spacing, 0.15 * spacing, 0.6 * spacing], -1)
    return bind_points(points, face_ids, scales, face_frames(vertices, head.faces), opacity=0.8, degree=degree)


def bind_points(
    points: Tensor, face_ids: Tensor, scales: Tensor, frames: FaceFrames, opacity: float, degree: int = 1
) -> CanonicalGaussians:
    """Gaussians at world points [N, 3] with world scales [N, 3] along their triangles' axes; grey, SH of `degree`."""
    n = points.shape[0]
    size = frames.sizes[face_ids].clamp_min(1e-9)
    local = torch.einsum("nij,ni->nj", frames.axes[face_ids], points - frames.origins[face_ids]) / size[:, None]
    quats = points.new_zeros(n, 4)
    quats[:, 0] = 1
    return CanonicalGaussians(
        face_ids,
        local,
        quats,
        (scales / size[:, None]).clamp_min(1e-9).log(),
        torch.full((n,), float(torch.logit(torch.tensor(opacity))), dtype=points.dtype),
        points.new_zeros(n, (degree + 1) ** 2, 3),
    )


def with_colors(gaussians: CanonicalGaussians, colors: Tensor) -> CanonicalGaussians:
    """The same Gaussians with constant colours [N, 3] in 0–1."""
    sh = gaussians.sh.clone()
    sh[:, 0] = (colors - 0.5) / SH_C0
    return replace(gaussians, sh=sh)


def _points_in_triangles(corners: Tensor, generator: torch.Generator) -> Tensor:
    """One uniform point in each triangle [N, 3 corners, 3] → [N, 3] (Osada et al. 2002, eq. 1)."""
    r = torch.rand(corners.shape[0], 2, generator=generator).to(corners)
    root = r[:, :1].sqrt()
    return (1 - root) * corners[:, 0] + root * (1 - r[:, 1:]) * corners[:, 1] + root * r[:, 1:] * corners[:, 2]
