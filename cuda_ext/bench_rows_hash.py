"""Rows of `python -m cuda_ext.bench` for hash grids: 16 levels of up to 2^19 rows of two features, 52 MB, and ensembles of smaller ones.

What bounds them: 32k positions touch 87 % of the large table's lines, 63 % on a head's rays, so the least is to read it in order, and to write its
gradient in order ("the table in order" is torch doing both: 2.2 ms). At random, each line that the cache lacks costs 5 to 7 ns on one core however many
are asked for at once, and the 12 hashed levels ask for 1.8 million, 10 ms. So the kernels read a level in order first, 1.5 ms for all, and
then at random from the shared cache, where a line costs 0.85 ns: 1.5 ms. The rest is arithmetic: 3.2 ms forward and 3.5 backward
when the tables fit a core's own cache. A sparse gradient would help little: 40 % of the rows are touched, 26 % on a head's rays, and indices weigh as much as values.

Plain torch with gradients makes a gradient of the whole table for each corner and level, 128 times 52 MB. In a process of its own each of
these is mapped, faulted in page by page and given back: 1.6 million faults and 3.7 to 4.5 s, which is what a training in plain torch
pays (the row "alone": ratios around 300). After other work has left the C library's heap a hole of 52 MB, as in the bench itself,
there are no faults and 1.1 s (ratios of 85 to 90).
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from cuda_ext import hash_grid
from cuda_ext.bench_scenes import head_positions
from cuda_ext.bench_times import Row, measure, relative
from cuda_ext.hash_grid import HashGrid

COUNT = 32768  # positions


def gate() -> dict[str, float | bool]:
    """Features and gradients of a grid and of an ensemble."""
    grid = HashGrid.build(levels=6, log2_size=9, base=4, growth=1.7)
    g = torch.Generator().manual_seed(0)
    positions = torch.rand(300, 3, generator=g)
    inputs = (
        [positions, torch.randn(grid.rows, 2, generator=g)],
        [positions, torch.randn(grid.rows, 5, 2, generator=g), torch.rand(300, 5, generator=g)],
    )
    upstream = torch.randn(300, grid.channels, generator=g)
    figures: dict[str, float | bool] = {}
    for name, function, tensors in zip(("hash", "ensemble"), (hash_grid.hash_encode, hash_grid.hash_encode_blended), inputs, strict=True):
        results = []
        for dtype in (torch.float32, torch.float64):
            leaves = [t.to(dtype).requires_grad_() for t in tensors]
            out = function(grid, *leaves)
            results.append([out, *torch.autograd.grad(out, leaves, upstream.to(dtype))])
        figures[name], *gradients = (relative(a, b) for a, b in zip(*results, strict=True))
        figures |= {f"v_{name}_{k}": v for k, v in zip(("positions", "table", "weights"), gradients, strict=False)}
    return figures


def hash_rows(threads: int, seconds: float, compare: bool) -> list[Row]:
    """Encode the samples that rays take in a head's cells, and random positions; the gradient is to the table.

    Plain torch twice: level by level and corner by corner, as it is mostly written and as the reference is (its gradient allocates a
    table per corner); and all corners in one gather, the fastest way found.
    """
    grid = HashGrid.build()
    table = grid.init().requires_grad_()
    g = torch.Generator().manual_seed(0)
    rays, random = head_positions(COUNT), torch.rand(COUNT, 3, generator=g)
    found = []
    for name, where, positions, plain in (
        ("hash_encode", "head rays", rays, hash_grid._reference),
        ("hash_encode (gather)", "head rays", rays, _one_gather),
        ("hash_encode", "random", random, hash_grid._reference),
    ):
        if plain is _one_gather and not compare:
            continue
        given = (grid, positions, table)
        found += _rows(name, f"{COUNT // 1024}k {where}", hash_grid.hash_encode, plain if compare else None, given, threads, seconds)
        if compare and positions is rays and plain is not _one_gather:
            found.append(replace(found[-1], name="hash_encode f+b (alone)", torch=_torch_alone(threads)))
    if not compare:
        return found
    with torch.no_grad():
        found.append(measure("the table in order", "52 MB, read, write", threads, lambda: (table.sum(), table.zero_()), seconds))
    return found


def ensemble_rows(threads: int, seconds: float, compare: bool) -> list[Row]:
    """Eight grids blended per position, with gradients to tables, weights and positions; and blended into one table for a frame."""
    grid, heads, count = HashGrid.build(log2_size=15), 8, 8192
    g = torch.Generator().manual_seed(0)
    tables = (0.1 * torch.randn(grid.rows, heads, 2, generator=g)).requires_grad_()
    positions, weights = head_positions(count).requires_grad_(), torch.rand(count, heads, generator=g).requires_grad_()
    given = (grid, positions, tables, weights)
    label = f"{count // 1024}k × {heads} heads"
    plain = hash_grid._reference_blended if compare else None
    found = _rows("hash_encode_blended", label, hash_grid.hash_encode_blended, plain, given, threads, seconds)
    frame, upstream = torch.rand(heads, generator=g).requires_grad_(), torch.rand(grid.rows, 2, generator=g)

    def collapse(function: Callable) -> None:
        torch.autograd.grad(function(tables, frame), [tables, frame], upstream)

    plain_collapse = (lambda: collapse(hash_grid._reference_tables)) if compare else None
    label = f"{heads} heads, {tables.numel() * 4 // 1000000} MB"
    return [*found, measure("blend_tables f+b", label, threads, lambda: collapse(hash_grid.blend_tables), seconds, plain_collapse)]


def _rows(name: str, label: str, encode: Callable, plain: Callable | None, given: tuple, threads: int, seconds: float) -> list[Row]:
    """Forward; and forward with backward to whatever of `given` has a gradient."""
    leaves = [t for t in given[1:] if t.requires_grad]
    upstream = torch.rand(len(given[1]), given[0].channels)

    def forward(function: Callable) -> None:
        with torch.no_grad():
            function(*given)

    def both(function: Callable) -> None:
        torch.autograd.grad(function(*given), leaves, upstream)

    found = []
    for step, run in (("fwd", forward), ("f+b", both)):
        torch_run = None if plain is None else lambda run=run, plain=plain: run(plain)
        found.append(measure(f"{name} {step}", label, threads, lambda run=run: run(encode), seconds, torch_run))
    return found


def _one_gather(grid: HashGrid, positions: Tensor, table: Tensor) -> Tensor:
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


def _torch_alone(threads: int) -> float:
    """CPU time per thread in milliseconds of plain torch with gradients on a head's rays, in a process of its own."""
    run = subprocess.run([sys.executable, "-m", __name__, str(threads)], stdout=subprocess.PIPE, text=True, check=True)
    return float(run.stdout)


def _alone(threads: int) -> float:
    torch.set_num_threads(threads)
    grid = HashGrid.build()
    table, positions = grid.init().requires_grad_(), head_positions(COUNT)
    upstream, times = torch.rand(COUNT, grid.channels), []
    for _ in range(3):
        start = time.process_time()
        torch.autograd.grad(hash_grid._reference(grid, positions, table), [table], upstream)
        times.append(1e3 * (time.process_time() - start) / threads)
    return min(times)


if __name__ == "__main__":
    print(_alone(int(sys.argv[1])))
