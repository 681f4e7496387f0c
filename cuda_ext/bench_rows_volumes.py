"""Rows of `python -m cuda_ext.bench` for radiance fields: hash grids."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cuda_ext import hash_grid
from cuda_ext.bench_scenes import ray_positions
from cuda_ext.bench_times import Row, measure


def hash_rows(threads: int, seconds: float, compare: bool) -> list[Row]:
    """Encode samples along rays; the gradient is to the table.

    Plain torch twice: level by level and corner by corner, as it is mostly written and as the reference is (its gradient allocates a
    table per corner); and all corners in one gather, the fastest way found.
    """
    grid = hash_grid.HashGrid.build()
    positions, table = ray_positions(512, 64), grid.init().requires_grad_()
    upstream = torch.rand(len(positions), grid.channels)
    encoders = {"hash_encode": hash_grid._reference, "hash_encode (one gather)": _one_gather} if compare else {"hash_encode": None}

    def forward(encode: Callable) -> None:
        with torch.no_grad():
            encode(grid, positions, table)

    def both(encode: Callable) -> None:
        encode(grid, positions, table).backward(upstream)
        table.grad = None

    found = []
    for name, plain in encoders.items():
        for step, run in (("forward", forward), ("f+b", both)):
            torch_run = None if plain is None else lambda run=run, plain=plain: run(plain)
            label = f"{len(positions) // 1024}k, {grid.levels} levels"
            found.append(measure(f"{name} {step}", label, threads, lambda run=run: run(hash_grid.hash_encode), seconds, torch_run))
    return found


def _one_gather(grid: hash_grid.HashGrid, positions: Tensor, table: Tensor) -> Tensor:
    """hash_encode in plain torch with one index_select for all levels and corners."""
    corner = torch.tensor([[c & 1, c >> 1 & 1, c >> 2] for c in range(8)])
    rows, weights = [], []
    for level, (scale, resolution) in enumerate(zip(grid.scales, grid.resolutions, strict=True)):
        size = grid.offsets[level + 1] - grid.offsets[level]
        p = positions * scale + 0.5
        low = p.floor()
        fraction = (p - low)[:, None]
        i, j, k = (low.long()[:, None] + corner).unbind(-1)
        dense = resolution**3 <= size
        row = i + resolution * (j + resolution * k) if dense else i ^ (j * 2654435761 & 0xFFFFFFFF) ^ (k * 805459861 & 0xFFFFFFFF)
        rows.append(grid.offsets[level] + row % size)
        weights.append(torch.where(corner == 1, fraction, 1 - fraction).prod(-1))
    index, weight = torch.stack(rows, 1), torch.stack(weights, 1)
    picked = table.index_select(0, index.flatten()).view(*index.shape, grid.features)
    return (picked * weight[..., None]).sum(2).flatten(1)
