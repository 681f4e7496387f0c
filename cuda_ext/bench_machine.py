"""How the CPU kernels use the machine: two threads against one, a busy core, one instruction set against another.

Part of `python -m cuda_ext.bench` (`--machine` prints this alone). Every ratio is taken inside one run, with the compared
things in turn, so that a change of the machine's speed meets both.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from cuda_ext import ops
from cuda_ext.bench_scenes import head_scene

SIZES = ((20_000, 256), (100_000, 512))
MOST_SLOWED = 2.5  # median over minimum with one core loaded
LEAST_SCALING = 1.7  # two threads over one
SETS = ("avx512", "avx2", "base")


@dataclass(frozen=True)
class Finding:
    """One figure about the machine, and the bar it is held against, if any."""

    name: str
    size: str
    figure: float
    text: str
    bar: str = ""


def splat_step(n: int, size: int) -> Callable[[], None]:
    """Forward and backward of one view."""
    scene = head_scene(n, size, size).leaves()
    upstream = torch.rand(1, size, size, 3)

    def run() -> None:
        ops.splat(*scene.tensors, size, size, depth=False).color.backward(upstream)
        for leaf in scene.tensors[:5]:
            leaf.grad = None

    return run


def _wall(run: Callable[[], None], threads: int) -> float:
    torch.set_num_threads(threads)
    start = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - start)


def scaling(seconds: float) -> list[Finding]:
    """Wall time of one thread over that of two, minima of runs in turn: both need a quiet moment."""
    found = []
    for n, size in SIZES:
        run, times = splat_step(n, size), {1: [], 2: []}
        end = time.monotonic() + seconds
        while len(times[2]) < 5 or time.monotonic() < end:
            for threads, into in times.items():
                _wall(run, threads)  # the pool wakes up
                into.append(_wall(run, threads))
        one, two = min(times[1]), min(times[2])
        found.append(Finding("two threads", _label(n, size), one / two, f"{one:.2f} → {two:.2f} ms", f"≥ {LEAST_SCALING}"))
    return found


def handing_over(seconds: float) -> list[Finding]:
    """Median wall time of two threads over that of one for a splat so small that there is nothing to gain: what handing over costs.

    About 1.0 where both cores have a cache in common, 1.25 where they have none: a line of memory then takes 140 to 170 ns from one to the
    other in place of 27, and a step of training on two threads a quarter longer. A host may move the cores of a virtual machine apart, and
    together again, from minute to minute: read the other rows, and any time on two threads, with this one.
    """
    n, size = 256, 32
    scene, times = head_scene(n, size, size), {1: [], 2: []}
    end = time.monotonic() + seconds

    def run() -> None:
        ops.splat(*scene.tensors, size, size, depth=False)

    with torch.no_grad():
        while len(times[2]) < 5 or time.monotonic() < end:
            for threads, into in times.items():
                into += [_wall(run, threads) for _ in range(50)]
    one, two = statistics.median(times[1]), statistics.median(times[2])
    text = f"{1e3 * one:.0f} → {1e3 * two:.0f} µs on two threads"
    return [Finding("too small to share", f"{n}, {size}²", two / one, text)]


def limit(seconds: float) -> list[Finding]:
    """What two threads could reach: twice the CPU time of a step alone over that of a step beside another process that does the same.

    Two processes share nothing but the machine: its memory, its last cache, its clock, and perhaps one core that pretends to be two.
    """
    children = [_Child(""), _Child("")]
    found = []
    try:
        for n, size in SIZES:
            alone, beside = float("inf"), float("inf")
            for _ in range(3):
                alone = min(alone, children[0].measure(n, size, seconds / 3))
                for child in children:
                    child.ask(n, size, seconds / 3)
                beside = min(beside, statistics.fmean([child.answer() for child in children]))
            text = f"alone {alone:.2f} ms, beside its like {beside:.2f} ms"
            found.append(Finding("two processes", _label(n, size), 2 * alone / beside, text))
    finally:
        for child in children:
            child.close()
    return found


def busy(seconds: float) -> list[Finding]:
    """Median over minimum of the wall time on two threads while another process never lets go of a core.

    Half of one of two cores is gone, so 1.3 to 1.5 is what sharing costs; a pool whose threads spin for each other costs far more.
    """
    found = []
    for n, size in SIZES:
        run = splat_step(n, size)
        spinner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            time.sleep(0.2)
            times, end = [], time.monotonic() + seconds
            while len(times) < 15 or time.monotonic() < end:
                times.append(_wall(run, 2))
        finally:
            spinner.kill()
            spinner.wait()
        least, median = min(times), statistics.median(times)
        text = f"median {median:.2f} ms, minimum {least:.2f} ms"
        found.append(Finding("one core loaded", _label(n, size), median / least, text, f"≤ {MOST_SLOWED}"))
    return found


def instruction_sets(seconds: float) -> list[Finding]:
    """CPU time of one thread per instruction set, over that of the best one. A library chooses its set once, hence processes."""
    best = ops.available()["cpu"]
    sets = SETS[next((i for i, name in enumerate(SETS) if name in best), len(SETS)) :]
    children = {name: _Child(name) for name in sets}
    found = []
    try:
        for n, size in SIZES:
            times: dict[str, float] = dict.fromkeys(sets, float("inf"))
            for _ in range(3):
                for name, child in children.items():
                    times[name] = min(times[name], child.measure(n, size, seconds / 3))
            for name in sets[1:]:
                ratio = times[name] / times[sets[0]]
                text = f"{sets[0]} {times[sets[0]]:.2f} ms, {name} {times[name]:.2f} ms"
                found.append(Finding(f"{name} over {sets[0]}", _label(n, size), ratio, text, "≤ 2.2" if name == "avx2" else ""))
    finally:
        for child in children.values():
            child.close()
    return found


class _Child:
    """A process that measures one instruction set (the best one when it is \"\") when asked."""

    def __init__(self, isa: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            env={**os.environ, **({"AVATARS_ISA": isa} if isa else {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, n: int, size: int, seconds: float) -> None:
        assert self.process.stdin is not None
        print(json.dumps([n, size, seconds]), file=self.process.stdin, flush=True)

    def answer(self) -> float:
        assert self.process.stdout is not None
        return float(self.process.stdout.readline())

    def measure(self, n: int, size: int, seconds: float) -> float:
        self.ask(n, size, seconds)
        return self.answer()

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def _serve() -> None:
    """What a child does: a request per line, the least CPU time in milliseconds as the answer."""
    torch.set_num_threads(1)
    steps: dict[tuple[int, int], Callable[[], None]] = {}
    for line in sys.stdin:
        n, size, seconds = json.loads(line)
        if (n, size) not in steps:
            steps[n, size] = splat_step(n, size)
            steps[n, size]()
        least, end = float("inf"), time.monotonic() + seconds
        while least == float("inf") or time.monotonic() < end:
            start = time.process_time()
            steps[n, size]()
            least = min(least, 1e3 * (time.process_time() - start))
        print(least, flush=True)


def _label(n: int, size: int) -> str:
    return f"{n // 1000}k, {size}²"


def findings(quick: bool) -> list[Finding]:
    """Everything, in 5 or 30 seconds of a quiet machine."""
    before, seconds = torch.get_num_threads(), 0.4 if quick else 3.0
    try:
        found = instruction_sets(seconds)
        if (os.cpu_count() or 1) > 1:
            found += handing_over(seconds) + limit(seconds) + scaling(seconds) + busy(seconds)
    finally:
        torch.set_num_threads(before)
    return found


def table(found: list[Finding]) -> str:
    """For people."""
    return "\n".join(f"{f.name:26} {f.size:20} {f.figure:7.2f}×  {f.bar:7} {f.text}" for f in found)


if __name__ == "__main__":
    _serve()
