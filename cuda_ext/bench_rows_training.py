"""Rows of `python -m cuda_ext.bench` for what training adds to drawing: the loss of pictures, and the optimiser."""

from __future__ import annotations

import torch

from cuda_ext import ops, reference
from cuda_ext.bench_times import Row, measure, relative


def gate(device: str = "cpu") -> dict[str, float | bool]:
    """The loss's gradient against float64."""
    a, b = torch.rand(1, 64, 64, 3, device=device), torch.rand(1, 64, 64, 3, device=device)
    x, y = a.clone().requires_grad_(), a.double().requires_grad_()
    ops.l1_ssim(x, b).sum().backward()
    ops.l1_ssim(y, b.double()).sum().backward()
    assert x.grad is not None and y.grad is not None
    return {"v_l1_ssim": relative(x.grad, y.grad)}


def ssim_row(size: int, threads: int, seconds: float, compare: bool) -> Row:
    """The loss of a training step and its gradient."""
    a, b = torch.rand(1, size, size, 3, requires_grad=True), torch.rand(1, size, size, 3)

    def run() -> None:
        ops.l1_ssim(a, b).sum().backward()
        a.grad = None

    def plain() -> None:
        l1, similarity = reference.l1_and_ssim(a, b)
        (0.8 * l1 + 0.2 * (1 - similarity)).sum().backward()
        a.grad = None

    return measure("l1_ssim forward+backward", f"{size}²", threads, run, seconds, plain if compare else None)


def adam_row(n: int, threads: int, seconds: float, compare: bool) -> Row:
    """All parameters of n Gaussians."""
    shapes = {"means": (n, 3), "quats": (n, 4), "scales": (n, 3), "opacities": (n,), "sh": (n, 16, 3)}
    params = {k: torch.randn(s, requires_grad=True) for k, s in shapes.items()}
    for p in params.values():
        p.grad = torch.randn(p.shape)
    mine = ops.Adam(params, dict.fromkeys(shapes, 1e-4))
    theirs = torch.optim.Adam(params.values(), lr=1e-4, foreach=True)
    return measure("adam", f"{n // 1000}k × 59", threads, mine.step, seconds, theirs.step if compare else None)
