"""Times of a call, for `python -m cuda_ext.bench`: CPU time per thread and wall time, minimum and median, beside plain torch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Row:
    """Times in milliseconds; CPU times are per thread."""

    name: str
    size: str
    threads: int
    cpu_min: float
    cpu_median: float
    wall_min: float
    wall_median: float
    torch: float | None = None  # plain torch, CPU time of one run, same threads

    @property
    def ratio(self) -> float | None:
        """How many times faster than plain torch."""
        return None if self.torch is None else self.torch / self.cpu_min


def measure(
    name: str,
    size: str,
    threads: int,
    run: Callable[[], object],
    seconds: float,
    torch_run: Callable[[], object] | None = None,
) -> Row:
    """Repeat `run` for about `seconds`, at least five times after two to warm up."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        run()
        run()
        cpu, wall, end = [], [], time.monotonic() + seconds
        while len(wall) < 5 or time.monotonic() < end:
            c, w = time.process_time(), time.perf_counter()
            run()
            wall.append(1e3 * (time.perf_counter() - w))
            cpu.append(1e3 * (time.process_time() - c) / threads)
        plain = None
        if torch_run is not None:
            torch_run()
            times = []
            for _ in range(3):
                c = time.process_time()
                torch_run()
                times.append(1e3 * (time.process_time() - c) / threads)
            plain = min(times)
    finally:
        torch.set_num_threads(before)
    return Row(name, size, threads, min(cpu), statistics.median(cpu), min(wall), statistics.median(wall), plain)


def table(found: list[Row]) -> str:
    """For people."""
    lines = [
        f"{'operator':26} {'size':20} {'threads':>7} {'cpu min':>8} {'median':>8} {'wall min':>8} {'median':>8} {'torch':>9} {'ratio':>7}"
    ]
    for r in found:
        plain, ratio = ("", "") if r.torch is None else (f"{r.torch:.1f}", f"{r.ratio:.0f}×")
        lines.append(
            f"{r.name:26} {r.size:20} {r.threads:7} {r.cpu_min:8.2f} {r.cpu_median:8.2f} {r.wall_min:8.2f} {r.wall_median:8.2f} "
            f"{plain:>9} {ratio:>7}"
        )
    return "\n".join(lines)


def relative(a: Tensor, b: Tensor) -> float:
    """‖a - b‖ / ‖b‖ in float64."""
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).norm() / b.norm().clamp_min(1e-300))
