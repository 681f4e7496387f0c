"""Rows of `python -m cuda_ext.bench` for radiance fields: rays marched and composited."""

from __future__ import annotations

import torch

from cuda_ext import ops, reference
from cuda_ext.bench_scenes import head_field
from cuda_ext.bench_times import Row, measure, relative


def gate(device: str = "cpu") -> dict[str, float | bool]:
    """The share of samples that float64 does not find, pixels, and gradients to densities and colours."""
    field = head_field(24).to(device=device)
    samples, exact = field.march(ops.march), field.to(torch.float64).march(ops.march)
    odd = (samples.offsets.diff() - exact.offsets.diff()).abs().sum()
    g = torch.Generator().manual_seed(0)
    densities, colors = ((k * torch.rand(len(samples.starts), k, generator=g)).to(device) for k in (1, 3))
    densities, upstream, results = 40 * densities[:, 0], torch.randn(len(field.origins), 3, generator=g).to(device), []
    for dtype in (torch.float32, torch.float64):
        given = ops.Samples(samples.offsets, samples.ray_ids, samples.starts.to(dtype), samples.ends.to(dtype))
        leaves = [t.to(dtype).requires_grad_() for t in (densities, colors)]
        color = ops.composite(given, *leaves).color
        results.append((color.detach(), torch.autograd.grad(color, leaves, upstream.to(dtype))))
    (color, gradients), (exact_color, exact_gradients) = results
    figures: dict[str, float | bool] = {
        "march_odd": float(odd / len(samples.starts)),
        "composite_max": float((color - exact_color).abs().max()),
    }
    return figures | {f"v_{k}": relative(a, b) for k, a, b in zip(("densities", "colors"), gradients, exact_gradients, strict=True)}


def ray_rows(size: int, threads: int, seconds: float, compare: bool) -> list[Row]:
    """One picture's rays sampled in the occupied cells, and those samples composited with their gradients.

    Plain torch looks up every midpoint between near and far, since it has no way to skip.
    """
    field = head_field(size)
    samples = field.march(ops.march)
    rays, count = len(field.origins), len(samples.starts)
    g = torch.Generator().manual_seed(0)
    leaves = [(40 * torch.rand(count, generator=g)).requires_grad_(), torch.rand(count, 3, generator=g).requires_grad_()]
    upstream = torch.randn(rays, 3, generator=g)

    def marched() -> None:
        reference.march(field.origins, field.directions, None, field.occupancy[None], field.box, field.near, field.far, field.step)

    def composited() -> None:
        torch.autograd.grad(ops.composite(samples, *leaves).color, leaves, upstream)

    def plain() -> None:
        color = reference.composite(leaves[0], leaves[1], samples.starts, samples.ends, samples.offsets, None, 0.0)[0]
        torch.autograd.grad(color, leaves, upstream)

    return [
        measure(
            "march",
            f"{rays / 1000:.0f}k rays, {count // 1000}k",
            threads,
            lambda: field.march(ops.march),
            seconds,
            marched if compare else None,
        ),
        measure("composite forward+backward", f"{count // 1000}k samples", threads, composited, seconds, plain if compare else None),
    ]
