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

from cuda_ext import library, native


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
        return torch.empty(self.rows, self.features, device=device).uniform_(-1e-4, 1e-4)


def _float32(value: float) -> float:
    return ctypes.c_float(value).value


def hash_encode(
    grid: HashGrid,
    positions: Tensor,  # [N, 3] in 0..1, clamped to it
    table: Tensor,  # [rows, features]
) -> Tensor:
    """Features [N, levels · features]; gradients to the table and, inside the cube, to the positions."""
    if positions.dim() != 2 or positions.shape[1] != 3:
        raise ValueError(f"positions must be [N,3], got {list(positions.shape)}")
    if tuple(table.shape) != (grid.rows, grid.features):
        raise ValueError(f"table must be [{grid.rows}, {grid.features}], got {list(table.shape)}")
    if positions.device != table.device:
        raise ValueError(f"all tensors must be on one device, got {positions.device} and {table.device}")
    if torch.compiler.is_compiling():
        return torch.ops.avatars.hash_encode(positions, table, grid.scales, grid.resolutions, grid.offsets)[0]
    lib = native.pick("av_hash_forward", positions, table)
    if lib is None:
        return _reference(grid, positions, table)
    return _HashFunction.apply(positions, table, grid, lib)


def blend_tables(tables: Tensor, weights: Tensor) -> Tensor:
    """An ensemble of tables [H, rows, features] and weights [H] → one table, once per frame (Kirschstein et al. 2023, NeRSemble)."""
    if tables.dim() != 3 or tuple(weights.shape) != (len(tables),):
        raise ValueError(f"tables must be [H, rows, features] and weights [H], got {list(tables.shape)} and {list(weights.shape)}")
    return torch.tensordot(weights, tables, 1)


def hash_encode_blended(
    grid: HashGrid,
    positions: Tensor,  # [N, 3]
    tables: Tensor,  # [H, rows, features]
    weights: Tensor,  # [N, H]
) -> Tensor:
    """Σ_h weights[:, h] · encoding by table h: [N, levels · features]. With one set of weights a frame, `blend_tables` costs less."""
    if tables.dim() != 3 or tuple(weights.shape) != (len(positions), len(tables)):
        raise ValueError(f"weights must be [{len(positions)}, {len(tables)}], got {list(weights.shape)}")
    parts = [weights[:, h, None] * hash_encode(grid, positions, table) for h, table in enumerate(tables)]
    return torch.stack(parts).sum(0)


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


class _HashFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, positions, table, grid, lib):
        positions, table = positions.detach().contiguous(), table.detach().contiguous()
        out = table.new_empty(len(positions), grid.channels)
        status = lib.av_hash_forward(*_arguments(grid, positions), positions.data_ptr(), table.data_ptr(), out.data_ptr())
        library.check(lib, status, "hash_encode")
        ctx.save_for_backward(positions, table)
        ctx.grid, ctx.lib = grid, lib
        return out

    @staticmethod
    def backward(ctx, v_out):
        positions, table = ctx.saved_tensors
        v_out = v_out.contiguous()
        v_positions = torch.empty_like(positions) if ctx.needs_input_grad[0] else None
        v_table = torch.empty_like(table) if ctx.needs_input_grad[1] else None
        status = ctx.lib.av_hash_backward(
            *_arguments(ctx.grid, positions), positions.data_ptr(), table.data_ptr(), v_out.data_ptr(),
            None if v_table is None else v_table.data_ptr(), None if v_positions is None else v_positions.data_ptr(),
        )  # fmt: skip
        library.check(ctx.lib, status, "hash_encode backward")
        return v_positions, v_table, None, None


def _arguments(grid: HashGrid, positions: Tensor) -> tuple:
    """What both calls begin with; the arrays live as long as the tuple."""
    return (
        native.launch_of(positions.device),
        len(positions),
        grid.levels,
        grid.features,
        (ctypes.c_float * grid.levels)(*grid.scales),
        (ctypes.c_int32 * grid.levels)(*grid.resolutions),
        (ctypes.c_int64 * (grid.levels + 1))(*grid.offsets),
    )
