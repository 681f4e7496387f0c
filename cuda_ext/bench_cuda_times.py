"""Times of one call on a GPU, for `python -m cuda_ext.bench_cuda`, and the report that they go to."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

TIMES = ("kernels", "stream", "graph", "latency")


def median_stream(call: Callable[[], object], repeats: int) -> float:
    """Milliseconds between events around one call."""
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    for begin, end in events:
        begin.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(b.elapsed_time(e) for b, e in events)


def median_latency(call: Callable[[], object], repeats: int) -> float:
    """Milliseconds of wall time for one call and the wait for it."""
    times = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def kernel_time(call: Callable[[], object], repeats: int) -> tuple[float | None, dict[str, float]]:
    """Milliseconds of device time per call, in all and by kernel; None where the profiler may not look."""
    from torch.profiler import ProfilerActivity, profile

    kernels: dict[str, float] = {}
    try:
        with profile(activities=[ProfilerActivity.CUDA]) as run:
            for _ in range(repeats):
                call()
            torch.cuda.synchronize()
        for event in run.key_averages():
            if event.self_device_time_total > 0:
                kernels[event.key] = event.self_device_time_total / repeats / 1e3
    except RuntimeError as error:
        print(f"  (not profiled: {str(error).splitlines()[0]})", file=sys.stderr)
    return sum(kernels.values()) or None, dict(sorted(kernels.items(), key=lambda item: -item[1]))


def graph_time(call: Callable[[], object], repeats: int) -> float | None:
    """Milliseconds of one replay of the captured call, None when it cannot be captured."""
    try:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
    except RuntimeError as error:
        print(f"  (not captured: {str(error).splitlines()[0]})", file=sys.stderr)
        return None
    for _ in range(5):
        graph.replay()
    return median_stream(graph.replay, repeats)


def measure(call: Callable[[], object], repeats: int = 50, graph: bool = True) -> dict:
    """All four times of a call; slow ones are repeated less."""
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    once = median_latency(call, 3)
    repeats = max(5, min(repeats, int(1000 / max(once, 1e-3))))
    result: dict = {"stream": median_stream(call, repeats), "latency": median_latency(call, repeats)}
    result["kernels"], result["by_kernel"] = kernel_time(call, min(10, repeats))
    result["graph"] = graph_time(call, repeats) if graph else None
    return result


class Report:
    """The gate's figures and the rows, on disk after each of them: what is measured stays when a later row fails or time runs out.

    A rehearsal runs every call once, on the CPU, so that the bench itself can be tested where there is no GPU.
    """

    def __init__(self, header: dict, file: Path | None = None, rehearsal: bool = False) -> None:
        self.figures, self.file, self.rehearsal = header | {"rows": []}, file, rehearsal

    def note(self, key: str, value: object) -> None:
        """Keep one figure."""
        self.figures[key] = value
        self.save()

    def add(self, what: str, who: str, make: Callable[[], Callable[[], object]], graph: bool = True) -> None:
        """Make a call, measure it and keep the row; a row that fails says why, and the others follow."""
        row: dict = {"what": what, "who": who} | dict.fromkeys(TIMES) | {"by_kernel": {}}
        try:
            call = make()
            row |= self._rehearse(call) if self.rehearsal else measure(call, graph=graph)
            print(f"{what} | {who}: " + ", ".join(f"{k} {row[k]:.4f}" for k in TIMES if row[k] is not None), flush=True)
        except Exception as error:
            if self.rehearsal:
                raise
            row["error"] = f"{type(error).__name__}: {str(error)[:500]}"
            print(f"{what} | {who} failed: {row['error']}", flush=True)
        self.figures["rows"].append(row)
        self.save()

    def save(self) -> None:
        """Whole or not at all."""
        if self.file is None:
            return
        partial = self.file.with_name(f".{self.file.name}.{os.getpid()}")
        partial.write_text(json.dumps(self.figures, indent=1))
        os.replace(partial, self.file)

    @staticmethod
    def _rehearse(call: Callable[[], object]) -> dict:
        start = time.perf_counter()
        call()
        return {"latency": 1e3 * (time.perf_counter() - start)}
