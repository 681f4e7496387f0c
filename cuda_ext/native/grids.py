"""Calls of the hash grids."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cuda_ext import abi, library
from cuda_ext.native.calls import contiguous, large_empty, large_like, launch_of, pointer, workspaces

if TYPE_CHECKING:
    from cuda_ext.hash_grid import HashGrid


class HashFunction(torch.autograd.Function):
    """One grid, or with weights an ensemble blended per position."""

    @staticmethod
    def forward(ctx, positions, table, weights, grid: HashGrid, lib):
        positions, table = contiguous((positions, table))
        if weights is not None:
            weights = weights.detach().contiguous()
        out = large_empty((len(positions), grid.channels), positions)
        _run(lib, "av_hash_encode", grid, positions, table, weights, out=out)
        ctx.save_for_backward(positions, table, weights)
        ctx.grid, ctx.lib = grid, lib
        return out

    @staticmethod
    def backward(ctx, v_out):
        positions, table, weights = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        v_positions = torch.empty_like(positions) if wanted[0] else None
        v_table = large_like(table) if wanted[1] else None
        v_weights = torch.empty_like(weights) if wanted[2] else None
        _run(
            ctx.lib, "av_hash_encode_backward", ctx.grid, positions, table, weights,
            v_out=v_out.contiguous(), v_table=v_table, v_positions=v_positions, v_weights=v_weights,
        )  # fmt: skip
        return v_positions, v_table, v_weights, None, None


class TablesFunction(torch.autograd.Function):
    """An ensemble collapsed into one table."""

    @staticmethod
    def forward(ctx, tables, weights, lib):
        tables, weights = contiguous((tables, weights))
        rows, heads, features = tables.shape
        out = large_empty((rows, features), tables)
        args = abi.AvHashTables(launch_of(tables.device), rows, heads, features, tables.data_ptr(), weights.data_ptr(), out.data_ptr())
        library.check(lib, lib.av_hash_tables(args), "blend_tables")
        ctx.save_for_backward(tables, weights)
        ctx.lib = lib
        return out

    @staticmethod
    def backward(ctx, v_out):
        tables, weights = ctx.saved_tensors
        v_out = v_out.contiguous()
        v_tables = large_like(tables) if ctx.needs_input_grad[0] else None
        v_weights = torch.empty_like(weights) if ctx.needs_input_grad[1] else None
        args = abi.AvHashTables(
            launch_of(tables.device), *tables.shape, tables.data_ptr(), weights.data_ptr(), None,
            v_out.data_ptr(), pointer(v_tables), pointer(v_weights),
        )  # fmt: skip
        scratch = workspaces.take(ctx.lib.av_hash_tables_scratch(args), tables.device)
        args.scratch, args.scratch_bytes = scratch.data_ptr(), scratch.numel()
        library.check(ctx.lib, ctx.lib.av_hash_tables_backward(args), "blend_tables backward")
        workspaces.give(scratch)
        return v_tables, v_weights, None


def blend_tables(lib, tables: Tensor, weights: Tensor) -> Tensor:
    """One table [rows, features]."""
    return TablesFunction.apply(tables, weights, lib)


def hash_encode(lib, grid: HashGrid, positions: Tensor, table: Tensor, weights: Tensor | None = None) -> Tensor:
    """Features [N, levels · features]."""
    return HashFunction.apply(positions, table, weights, grid, lib)


def _run(lib, function: str, grid: HashGrid, positions: Tensor, table: Tensor, weights: Tensor | None, **others: Tensor | None) -> None:
    levels, device = grid.levels, positions.device
    args = abi.AvHash(
        launch_of(device), len(positions), levels, grid.features, 0 if weights is None else weights.shape[1], 0,
        ctypes.addressof(scales := (ctypes.c_float * levels)(*grid.scales)),
        ctypes.addressof(resolutions := (ctypes.c_int32 * levels)(*grid.resolutions)),
        ctypes.addressof(offsets := (ctypes.c_int64 * (levels + 1))(*grid.offsets)),
        positions.data_ptr(), table.data_ptr(), pointer(weights), **{name: pointer(t) for name, t in others.items()},
    )  # fmt: skip
    scratch = workspaces.take(lib.av_hash_scratch(args), device)
    args.scratch, args.scratch_bytes = scratch.data_ptr(), scratch.numel()
    library.check(lib, getattr(lib, function)(args), function.removeprefix("av_"))
    workspaces.give(scratch)
    del scales, resolutions, offsets  # read by the call
