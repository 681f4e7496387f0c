"""The page that `python -m cuda_ext.bench_cuda --markdown` writes."""

from __future__ import annotations

import math


def markdown(report: dict) -> str:
    """A page: card, commands, errors, times, and ratios: the peer's best time over ours, like with like.

    A graph has no like, since gsplat waits for the device in mid-frame and cannot be captured: it stands against the peer's stream.
    """
    gates = [f"Against the float64 reference: {_errors(report['gate'])}."]
    if "peer_gate" in report:
        gates.append(f"gsplat against ours (100k, 550×802): {_errors(report['peer_gate'])}.")
    if "peer_error" in report:
        gates.append(f"gsplat did not run: {report['peer_error'].splitlines()[0][:200]}")
    lines = [
        f"# CUDA kernels on one {report['card']}",
        "",
        f"torch {report['torch']}, CUDA {report['cuda']}; gsplat {report.get('gsplat', 'absent')}. Measured by",
        "`python -m cuda_ext.bench_cuda --json bench.json --markdown cuda_ext/BENCHMARKS.md`, whose docstring says what the columns mean.",
        "",
        *gates,
        "",
        "Milliseconds, medians:",
        "",
        "| case | who | kernels | stream | graph | latency |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    best: dict[str, dict[str, float]] = {}
    for row in report["rows"]:
        cells = [f"{row[k]:.3f}" if row[k] is not None else "" for k in ("kernels", "stream", "graph", "latency")]
        lines.append(f"| {row['what']} | {row['who']} | {' | '.join(cells)} |")
        if row["who"] != "ours" and "our SSIM" not in row["who"]:
            known = best.setdefault(row["what"], {})
            for key in ("kernels", "stream", "latency"):
                if row[key] is not None:
                    known[key] = min(known.get(key, math.inf), row[key])
    lines += ["", "Times faster:", "", "| case | kernels | stream | stream, ours in a graph | latency |", "| --- | --- | --- | --- | --- |"]
    for row in report["rows"]:
        if row["who"] == "ours" and row["what"] in best:
            peer, pairs = best[row["what"]], (("kernels", "kernels"), ("stream", "stream"), ("stream", "graph"), ("latency", "latency"))
            ratios = [f"{peer[theirs] / row[ours]:.1f}×" if row[ours] and theirs in peer else "" for theirs, ours in pairs]
            lines.append(f"| {row['what']} | " + " | ".join(ratios) + " |")
    lines += ["", "Where our time goes, microseconds per call:", "", "| case | kernels |", "| --- | --- |"]
    for row in report["rows"]:
        if row["who"] == "ours":
            parts = [f"{_short(k)} {1e3 * v:.1f}" for k, v in list(row["by_kernel"].items())[:9]]
            if not parts:
                continue
            lines.append(f"| {row['what']} | {', '.join(parts)} |")
    failed = [f"- {row['what']}, {row['who']}: {row['error']}" for row in report["rows"] if "error" in row]
    lines += ["", "Failed:", "", *failed] if failed else []
    return "\n".join(lines) + "\n"


def _errors(errors: dict[str, float]) -> str:
    return ", ".join(f"{k} {v:.1e}" for k, v in errors.items())


def _short(kernel: str) -> str:
    """The bare name of a kernel."""
    name = kernel.split("(")[0].split("<")[0].split("::")[-1].split()
    return name[-1] if name else kernel[:30]
