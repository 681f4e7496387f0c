"""Rows of `python -m cuda_ext.bench` for what training adds to drawing: the loss of pictures, and the optimiser."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

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


def ssim_rows(size: int, threads: int, seconds: float, compare: bool) -> list[Row]:
    """The loss of a training step and its gradient.

    Plain torch twice: with the window along one axis after the other, as the reference has it, and with the dense window of 11×11 that
    published training code convolves with.
    """
    a, b = torch.rand(1, size, size, 3, requires_grad=True), torch.rand(1, size, size, 3)
    maps = {"l1_ssim f+b (separable)": reference.ssim_map, "l1_ssim f+b (dense 11×11)": dense_ssim_map}

    def run() -> None:
        ops.l1_ssim(a, b).sum().backward()
        a.grad = None

    def plain(similarity: Callable[[Tensor, Tensor], Tensor]) -> None:
        (0.8 * (a - b).abs().mean() + 0.2 * (1 - similarity(a, b).mean())).backward()
        a.grad = None

    if not compare:
        return [measure("l1_ssim f+b", f"{size}²", threads, run, seconds)]
    return [measure(name, f"{size}²", threads, run, seconds, lambda f=f: plain(f)) for name, f in maps.items()]


def dense_ssim_map(a: Tensor, b: Tensor) -> Tensor:
    """`reference.ssim_map` by five depthwise convolutions with the whole window."""
    a, b = a.permute(0, 3, 1, 2), b.permute(0, 3, 1, 2)
    line = reference.ssim_window(a.dtype, a.device)
    window = torch.outer(line, line).expand(3, 1, -1, -1).contiguous()

    def blur(image: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(image, window, padding=reference.SSIM_RADIUS, groups=3)

    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b, covariance = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
    up = (2 * mean_a * mean_b + reference.SSIM_C1) * (2 * covariance + reference.SSIM_C2)
    down = (mean_a**2 + mean_b**2 + reference.SSIM_C1) * (var_a + var_b + reference.SSIM_C2)
    return (up / down).permute(0, 2, 3, 1)


def adam_row(n: int, threads: int, seconds: float, compare: bool) -> Row:
    """All parameters of n Gaussians."""
    shapes = {"means": (n, 3), "quats": (n, 4), "scales": (n, 3), "opacities": (n,), "sh": (n, 16, 3)}
    params = {k: torch.randn(s, requires_grad=True) for k, s in shapes.items()}
    for p in params.values():
        p.grad = torch.randn(p.shape)
    mine = ops.Adam(params, dict.fromkeys(shapes, 1e-4))
    theirs = torch.optim.Adam(params.values(), lr=1e-4, foreach=True)
    return measure("adam", f"{n // 1000}k × 59", threads, mine.step, seconds, theirs.step if compare else None)
