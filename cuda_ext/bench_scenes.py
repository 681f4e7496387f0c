"""The scenes that tests and `python -m cuda_ext.bench` run on: a head-like shell with hair, generated, the same on every machine."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cuda_ext.ops import Rig, Samples, march
from cuda_ext.reference import quat_multiply


@dataclass(frozen=True)
class Scene:
    """N Gaussians and C cameras, ready for `ops.splat(*scene.tensors, scene.width, scene.height)`."""

    means: Tensor  # [N, 3]
    quats: Tensor  # [N, 4]
    scales: Tensor  # [N, 3]
    opacities: Tensor  # [N]
    sh: Tensor  # [N, 16, 3]
    viewmats: Tensor  # [C, 4, 4]
    Ks: Tensor  # [C, 3, 3]
    width: int
    height: int

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """In the order of the operators' arguments."""
        return self.means, self.quats, self.scales, self.opacities, self.sh, self.viewmats, self.Ks

    def leaves(self) -> Scene:
        """A copy whose Gaussians ask for gradients."""
        names = ("means", "quats", "scales", "opacities", "sh")
        return replace(self, **{k: getattr(self, k).clone().requires_grad_() for k in names})

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Scene:
        """The same in another dtype or on another device."""
        names = ("means", "quats", "scales", "opacities", "sh", "viewmats", "Ks")
        return replace(self, **{k: getattr(self, k).to(device=device, dtype=dtype) for k in names})


def head_scene(n: int, width: int, height: int, cameras: int = 1, seed: int = 0) -> Scene:
    """Three quarters flat Gaussians on an ellipsoid of a head's size, one quarter thin ones as hair, one metre away.

    Scales shrink with 1/√n, so that the layers per pixel stay about the same.
    """
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=random)

    radii = torch.tensor([0.078, 0.115, 0.098])
    direction = torch.nn.functional.normalize(normal(n, 3), dim=-1)
    hair = torch.arange(n) >= n - n // 4
    direction[hair, 1] = -direction[hair, 1].abs()  # y points down: hair is on top
    shell = 1 + 0.01 * normal(n, 1)
    shell[hair] = 1.02 + 0.18 * uniform(int(hair.sum()), 1)
    means = direction * radii * shell
    normals = torch.nn.functional.normalize(direction / radii, dim=-1)
    quats = _turn_z_to(normals, uniform(n) * 2 * math.pi)
    size = 0.105 / math.sqrt(n)
    scales = size * torch.exp(0.35 * normal(n, 3))
    scales[:, 2] *= 0.15
    scales[hair] = size * torch.tensor([2.5, 0.25, 0.25]) * torch.exp(0.3 * normal(int(hair.sum()), 3))
    opacities = torch.sigmoid(0.5 + 1.5 * normal(n))
    sh = 0.08 * normal(n, 16, 3)
    sh[:, 0] = 0.6 * normal(n, 3)
    angles = torch.linspace(-0.6, 0.6, cameras) if cameras > 1 else torch.zeros(1)
    viewmats = torch.eye(4).repeat(cameras, 1, 1)
    viewmats[:, 0, 0] = viewmats[:, 2, 2] = angles.cos()
    viewmats[:, 0, 2], viewmats[:, 2, 0] = -angles.sin(), angles.sin()
    viewmats[:, 2, 3] = 1.0
    focal = 3.36 * min(width, height)
    Ks = torch.tensor([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]]).repeat(cameras, 1, 1)
    return Scene(means, quats, scales, opacities, sh, viewmats, Ks, width, height)


def head_like_mesh(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """A closed-enough ellipsoid of quads cut in two: vertices [V, 3], faces [F, 3]."""
    theta, phi = torch.meshgrid(torch.linspace(0.05, 3.09, rows), torch.linspace(0, 6.2832, columns), indexing="ij")
    vertices = torch.stack([0.08 * theta.sin() * phi.cos(), 0.115 * theta.cos(), 0.1 * theta.sin() * phi.sin()], -1)
    corner = (torch.arange(rows - 1)[:, None] * columns + torch.arange(columns - 1)).flatten()
    faces = [[corner, corner + 1, corner + columns], [corner + 1, corner + columns + 1, corner + columns]]
    return vertices.reshape(-1, 3), torch.cat([torch.stack(f, 1) for f in faces])


def head_views(cameras: int, size: int, rows: int = 100) -> tuple[Tensor, Tensor, Tensor]:
    """A head-sized mesh of 2·rows² triangles, nearly, before square pictures: vertices [C, V, 3] as the cameras see them, faces [F, 3], Ks [C, 3, 3]."""
    vertices, faces = head_like_mesh(rows, rows)
    scene = head_scene(1, size, size, cameras)
    return vertices @ scene.viewmats[:, :3, :3].transpose(1, 2) + scene.viewmats[:, None, :3, 3], faces, scene.Ks


@dataclass(frozen=True)
class Field:
    """Rays of one square picture at a head-shaped shell of occupied cells: `ops.march(f.origins, f.directions, f.occupancy, f.box, ...)`."""

    origins: Tensor  # [R, 3]
    directions: Tensor  # [R, 3] of length one
    occupancy: Tensor  # [64, 64, 64] bool
    box: tuple[float, ...]
    step: float = 0.32 / 512
    near: float = 0.8
    far: float = 1.2

    def march(self, function: Callable[..., Samples], **options) -> Samples:
        """The samples by `ops.march` or one like it."""
        return function(self.origins, self.directions, self.occupancy, self.box, step=self.step, near=self.near, far=self.far, **options)

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Field:
        """The same in another dtype or on another device."""
        origins, directions = (t.to(device=device, dtype=dtype) for t in (self.origins, self.directions))
        return replace(self, origins=origins, directions=directions, occupancy=self.occupancy.to(device=device))


def head_field(size: int) -> Field:
    """The shell reaches from 0.85 to 1.25 of the head that `head_scene` draws; rays start at its first camera."""
    pixels = (torch.arange(size) + 0.5 - size / 2) / (3.36 * size)
    y, x = torch.meshgrid(pixels, pixels, indexing="ij")
    directions = torch.nn.functional.normalize(torch.stack([x, y, torch.ones_like(x)], -1).reshape(-1, 3), dim=-1)
    box = (-0.16, -0.16, -0.16, 0.16, 0.16, 0.16)
    centres = (torch.arange(64) + 0.5) / 64 * 0.32 - 0.16
    points = torch.stack(torch.meshgrid(centres, centres, centres, indexing="ij"), -1)
    reach = (points / torch.tensor([0.078, 0.115, 0.098])).norm(dim=-1)
    return Field(torch.tensor([0.0, 0.0, -1.0]).repeat(len(directions), 1), directions, (reach > 0.85) & (reach < 1.25), box)


def head_rig(V: int = 7500, E: int = 52, J: int = 5, device: torch.device | str = "cpu") -> Rig:
    """A head's numbers, if not its looks: each expression moves a seventh of the vertices, in runs."""
    g = torch.Generator().manual_seed(0)
    moves = torch.rand(E, V // 50, generator=g).repeat_interleave(50, 1)[..., None] > 6 / 7
    weights = torch.softmax(4 * torch.randn(V, J + 1, generator=g), 1)
    turns = 0.2 * torch.randn(E, J, 3, generator=g)
    tensors = [torch.randn(V, 3, generator=g), torch.zeros(J, 3), 0.01 * torch.randn(E, V, 3, generator=g) * moves, turns, weights]
    rest, joints, shapes, turns, weights = (t.to(device) for t in tensors)
    return Rig(rest, joints, shapes, turns, weights, (-1, 0, 1, 1, 1))


def head_positions(count: int) -> Tensor:
    """The first `count` samples [count, 3] of `head_field`'s rays, ray by ray, its box the unit cube: what an encoder of positions is asked for."""
    size = 8
    while len((samples := (field := head_field(size)).march(march)).starts) < count:
        size += size // 4
    ids, t = samples.ray_ids[:count], (0.5 * (samples.starts + samples.ends))[:count, None]
    low, high = torch.tensor(field.box).view(2, 3)
    return (field.origins[ids] + t * field.directions[ids] - low) / (high - low)


def _turn_z_to(normals: Tensor, spin: Tensor) -> Tensor:
    """Quaternions wxyz [N, 4] that take z to `normals` [N, 3] after a turn by `spin` [N] about z."""
    x, y, z = normals.unbind(-1)
    w = (1 + z).clamp_min(1e-6)
    tilt = torch.stack([w, -y, x, torch.zeros_like(x)], -1)
    turn = torch.stack([(spin / 2).cos(), torch.zeros_like(x), torch.zeros_like(x), (spin / 2).sin()], -1)
    return torch.nn.functional.normalize(quat_multiply(tilt, turn), dim=-1)
