"""`python -m cuda_ext.bench`: are the kernels right, and how fast are they here.

A gate of correctness comes first: images within 1e-5 and gradients within 1e-4 relative of the float64 reference, the same
bits for 1, 2 and 4 threads. Then times on generated head-like scenes (bench_rows_*.py, a file per family, each with its part of the
gate): CPU time per thread and wall time, minimum and median, and the ratio to plain torch in the same run. Minima travel between
runs; a busy machine shows in the medians. Last, the machine: instruction sets, two threads, a loaded core (bench_machine.py).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from cuda_ext import bench_machine, ops
from cuda_ext import bench_rows_hash as hashes
from cuda_ext import bench_rows_head as head
from cuda_ext import bench_rows_meshes as meshes
from cuda_ext import bench_rows_splat as splat
from cuda_ext import bench_rows_training as training
from cuda_ext import bench_rows_volumes as volumes
from cuda_ext.bench_times import Row, table

LIMITS = {
    "image_max": 1e-5,
    "mesh_max": 1e-5,
    "composite_max": 1e-5,
    "pixels_left_out": 0.01,
    "march_odd": 0.002,
}  # of the gate's figures; 1e-4 for all others


def gate() -> dict[str, float | bool]:
    """Every figure that must hold before a time counts; raises SystemExit when one does not."""
    figures = splat.gate() | training.gate() | head.gate() | meshes.gate() | volumes.gate() | hashes.gate()
    wrong = [k for k, v in figures.items() if (v is False if isinstance(v, bool) else not v <= LIMITS.get(k, 1e-4))]
    if wrong:
        raise SystemExit(f"the kernels are wrong here, no times: {', '.join(f'{k} = {figures[k]}' for k in wrong)}")
    return figures


def rows(quick: bool) -> list[Row]:
    """The whole table."""
    seconds, cores = (0.3, [1]) if quick else (1.5, sorted({1, min(2, os.cpu_count() or 1)}))
    sizes = [(20_000, 256)] if quick else [(n, s) for s in (256, 512) for n in (20_000, 50_000, 100_000)]
    found = []
    for threads in cores:
        for n, size in sizes:
            found += splat.splat_rows(n, size, threads, seconds, compare=not quick and (n, size, threads) == (20_000, 256, 1))
        first = threads == 1
        found += training.ssim_rows(256, threads, seconds, first)
        found.append(training.adam_row(20_000, threads, seconds, first))
        found.append(head.skin_row(threads, seconds, first))
        found.append(head.blend_row(20_000, threads, seconds, first))
        found += hashes.hash_rows(threads, seconds, compare=first and not quick)
        found += hashes.ensemble_rows(threads, seconds, compare=first and not quick)
        found.append(head.bind_row(20_000, threads, seconds, first))
        found.append(head.carry_row(20_000, threads, seconds, first))
        found += meshes.mesh_rows(4, 256, threads, seconds, first)
        found += volumes.ray_rows(96, threads, seconds, first)
        found.append(splat.step_row(20_000, 256, threads, seconds))
    return found


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m cuda_ext.bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one size, short repetitions, no plain-torch splat")
    parser.add_argument("--machine", action="store_true", help="only two threads against one, a loaded core, and the instruction sets")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args(argv)
    kernels = ops.available()
    print(
        f"CPU kernels: {kernels['cpu']}; CUDA kernels: {kernels['cuda']}; {platform.processor() or platform.machine()}, torch {torch.__version__}"
    )
    figures = gate()
    print("correct: " + ", ".join(f"{k} {v:.1e}" if not isinstance(v, bool) else f"{k} {v}" for k, v in figures.items()))
    found = [] if arguments.machine else rows(arguments.quick)
    if found:
        print("milliseconds; CPU time per thread\n" + table(found))
    machine = [] if arguments.quick and not arguments.machine else bench_machine.findings(arguments.quick)
    if machine:
        print("the machine: splat forward+backward\n" + bench_machine.table(machine))
    if arguments.json is not None:
        report = {
            "kernels": kernels, "gate": figures, "rows": [asdict(r) | {"ratio": r.ratio} for r in found],
            "machine": [asdict(f) for f in machine],
        }  # fmt: skip
        _write(arguments.json, json.dumps(report, indent=1))
    return 0


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
