"""Multi-resolution hash grid (Müller et al. 2022, Instant Neural Graphics Primitives): positions → features, trilinear.

The layout is tiny-cuda-nn's, so that tables can be exchanged: level l has scale_l = base·growth^l - 1 and R_l = ceil(scale_l) + 1 points
per side; its rows are min(R_l³ rounded up to 8, 2^log2_size). See include/hash.h for the arithmetic, which `_reference` repeats in torch.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cuda_ext import abi, native


@dataclass(frozen=True)
class HashGrid:
    """The shape of a grid; its table is a tensor [rows, features] of the caller's."""

    scales: tuple[float, ...]  # per level: cells per unit length, minus one
    resolutions: tuple[int, ...]  # per level: points per side
    offsets: tuple[int, ...]  # [levels + 1] first row of each level
    features: int  # per level

    @staticmethod
    def build(levels: int = 16, features: int = 2, log2_size: int = 19, base: int = 16, growth: float = 1.5) -> HashGrid:
        """A grid whose level l has about base·growth^l cells per side and at most 2^log2_size rows."""
        if not 1 <= levels <= 32 or features not in (1, 2, 4, 8):
            raise ValueError(f"HashGrid: 1..32 levels of 1, 2, 4 or 8 features, got {levels} of {features}")
        scales = tuple(_float32(base * growth**level - 1) for level in range(levels))
        resolutions = tuple(math.ceil(s) + 1 for s in scales)
        offsets = [0]
        for resolution in resolutions:
            offsets.append(offsets[-1] + min(-(-(resolution**3) // 8) * 8, 2**log2_size))
        return HashGrid(scales, resolutions, tuple(offsets), features)

    @property
    def levels(self) -> int:
        return len(self.scales)

    @property
    def rows(self) -> int:
        """Rows of the table."""
        return self.offsets[-1]

    @property
    def channels(self) -> int:
        """Features of an encoded position."""
        return self.levels * self.features

    def init(self, device: torch.device | str = "cpu") -> Tensor:
        """A fresh table [rows, features], uniform in ±1e-4."""
        return native.large_empty((self.rows, self.features), torch.empty(0, device=device)).uniform_(-1e-4, 1e-4)


def _float32(value: float) -> float:
    return ctypes.c_float(value).value


def hash_encode(
    grid: HashGrid,
    positions: Tensor,  # [N, 3] in 0..1, clamped to it
    table: Tensor,  # [rows, features]
) -> Tensor:
    """Features [N, levels · features]; gradients to the table and, inside the cube, to the positions."""
    if tuple(table.shape) != (grid.rows, grid.features):
        raise ValueError(f"table must be [{grid.rows}, {grid.features}], got {list(table.shape)}")
    _check(positions, table)
    if torch.compiler.is_compiling():
        return torch.ops.avatars.hash_encode(positions, table, grid.scales, grid.resolutions, grid.offsets)[0]
    lib = native.pick("av_hash_encode", positions, table)
    return _reference(grid, positions, table) if lib is None else native.hash_encode(lib, grid, positions, table)


def blend_tables(tables: Tensor, weights: Tensor) -> Tensor:
    """An ensemble of tables [rows, H, features] and weights [H] → one table [rows, features], once per frame (Kirschstein et al. 2023, NeRSemble).

    Gradients to both. 1, 2, 4 or 8 features, H up to 64.
    """
    if tables.dim() != 3 or tuple(weights.shape) != (tables.shape[1],):
        raise ValueError(f"tables must be [rows, H, features] and weights [H], got {list(tables.shape)} and {list(weights.shape)}")
    if not 1 <= len(weights) <= abi.HASH_HEADS or tables.shape[2] not in (1, 2, 4, 8):
        raise ValueError(f"tables must be [rows, H ≤ {abi.HASH_HEADS}, 1, 2, 4 or 8], got {list(tables.shape)}")
    if tables.device != weights.device:
        raise ValueError(f"all tensors must be on one device, got {tables.device} and {weights.device}")
    if torch.compiler.is_compiling():
        return torch.ops.avatars.blend_tables(tables, weights)[0]
    lib = native.pick("av_hash_tables", tables, weights)
    return _reference_tables(tables, weights) if lib is None else native.blend_tables(lib, tables, weights)


def _reference_tables(tables: Tensor, weights: Tensor) -> Tensor:
    return torch.einsum("rhf,h->rf", tables, weights)


def hash_encode_blended(
    grid: HashGrid,
    positions: Tensor,  # [N, 3] in 0..1, clamped to it
    tables: Tensor,  # [rows, H, features]: the heads side by side, so that a corner is one run of memory
    weights: Tensor,  # [N, H]
) -> Tensor:
    """Σ_h weights[:, h] · encoding by tables[:, h]: [N, levels · features] (Kirschstein et al. 2023, NeRSemble, eq. 5).

    Gradients to all three. H up to 64. With one set of weights for many positions, `blend_tables` first may cost less.
    """
    if tables.dim() != 3 or (len(tables), tables.shape[2]) != (grid.rows, grid.features) or not 1 <= tables.shape[1] <= abi.HASH_HEADS:
        raise ValueError(f"tables must be [{grid.rows}, H ≤ {abi.HASH_HEADS}, {grid.features}], got {list(tables.shape)}")
    _check(positions, tables, weights)
    if tuple(weights.shape) != (len(positions), tables.shape[1]):
        raise ValueError(f"weights must be [{len(positions)}, {tables.shape[1]}], got {list(weights.shape)}")
    if torch.compiler.is_compiling():
        return torch.ops.avatars.hash_encode_blended(positions, tables, weights, grid.scales, grid.resolutions, grid.offsets)[0]
    lib = native.pick("av_hash_encode", positions, tables, weights)
    if lib is None:
        return _reference_blended(grid, positions, tables, weights)
    return native.hash_encode(lib, grid, positions, tables, weights)


def _check(positions: Tensor, *others: Tensor) -> None:
    if positions.dim() != 2 or positions.shape[1] != 3:
        raise ValueError(f"positions must be [N,3], got {list(positions.shape)}")
    for other in others:
        if positions.device != other.device:
            raise ValueError(f"all tensors must be on one device, got {positions.device} and {other.device}")


def _reference_blended(grid: HashGrid, positions: Tensor, tables: Tensor, weights: Tensor) -> Tensor:
    """Head by head."""
    return torch.stack([weights[:, h, None] * _reference(grid, positions, tables[:, h]) for h in range(tables.shape[1])]).sum(0)


def _reference(grid: HashGrid, positions: Tensor, table: Tensor) -> Tensor:
    """The same in plain torch, any floating dtype."""
    x = positions.nan_to_num(0).clamp(0, 1)
    encoded = []
    for level, (scale, resolution) in enumerate(zip(grid.scales, grid.resolutions, strict=True)):
        rows = grid.offsets[level + 1] - grid.offsets[level]
        p = x * scale + 0.5
        cell = p.detach().floor()
        fraction, cell = p - cell, cell.long()
        total = torch.zeros(len(x), grid.features, dtype=table.dtype, device=table.device)
        for corner in range(8):
            bits = torch.tensor([corner & 1, corner >> 1 & 1, corner >> 2], device=x.device)
            i, j, k = (cell + bits).unbind(-1)
            if resolution**3 <= rows:
                index = i + resolution * (j + resolution * k)
            else:
                index = i ^ (j * 2654435761 & 0xFFFFFFFF) ^ (k * 805459861 & 0xFFFFFFFF)
            weight = torch.where(bits == 1, fraction, 1 - fraction).prod(-1, keepdim=True)
            total = total + weight * table[grid.offsets[level] + index % rows]
        encoded.append(total)
    return torch.cat(encoded, -1)
