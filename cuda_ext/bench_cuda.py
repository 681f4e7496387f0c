"""python -m cuda_ext.bench_cuda: CUDA kernels against the reference (the gate), gsplat and plain torch, on the card at hand.

Four times per row, in milliseconds, medians: `kernels` sums the device time of all kernels of a call (profiler); `stream` is the time between
two events around the call, launch gaps included; `graph` the same for the replay of a captured graph; `latency` the
wall time of call and synchronisation. gsplat is measured when it is installed, packed and not, and the better of the two counts.
`--json FILE` writes everything, `--markdown FILE` the table.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from cuda_ext import bench_scenes, ops, reference

Scene = dict[str, Tensor]
NAMES = ("means", "quats", "scales", "opacities", "sh")


def head_scene(n: int, cameras: int, width: int, height: int) -> Scene:
    """The scene of `cuda_ext.bench` on the card, by the names of the operators' arguments."""
    scene = bench_scenes.head_scene(n, width, height, cameras).to(device="cuda")
    return {k: getattr(scene, k).contiguous() for k in (*NAMES, "viewmats", "Ks")}


def arguments(scene: Scene) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The tensors of a scene in the order that both libraries take them."""
    s = scene
    return s["means"], s["quats"], s["scales"], s["opacities"], s["sh"], s["viewmats"], s["Ks"]


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


def kernel_time(call: Callable[[], object], repeats: int) -> tuple[float, dict[str, float]]:
    """Milliseconds of device time per call, in all and by kernel."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as run:
        for _ in range(repeats):
            call()
        torch.cuda.synchronize()
    kernels: dict[str, float] = {}
    for event in run.key_averages():
        if event.self_device_time_total > 0:
            kernels[event.key] = event.self_device_time_total / repeats / 1e3
    return sum(kernels.values()), dict(sorted(kernels.items(), key=lambda item: -item[1]))


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
    """All four times of a call."""
    for _ in range(5):
        call()
    torch.cuda.synchronize()
    result: dict = {"stream": median_stream(call, repeats), "latency": median_latency(call, repeats)}
    result["kernels"], result["by_kernel"] = kernel_time(call, 10)
    result["graph"] = graph_time(call, repeats) if graph else None
    return result


def leaves(scene: Scene) -> Scene:
    """The scene with gradients wanted for the Gaussians."""
    return {k: v.clone().requires_grad_(k in NAMES) for k, v in scene.items()}


def ours(scene: Scene, width: int, height: int, backward: bool) -> Callable[[], object]:
    """One forward, or forward and backward."""
    if not backward:

        def forward() -> object:
            with torch.no_grad():
                return ops.splat(*arguments(scene), width, height, depth=False).color

        return forward
    scene = leaves(scene)
    v_color = torch.randn(len(scene["viewmats"]), height, width, 3, device="cuda")
    inputs = [scene[k] for k in NAMES]

    def both() -> object:
        color = ops.splat(*arguments(scene), width, height, depth=False).color
        return torch.autograd.grad(color, inputs, v_color)

    return both


def theirs(scene: Scene, width: int, height: int, backward: bool, packed: bool) -> Callable[[], object]:
    """The same by gsplat."""
    from gsplat import rasterization  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]

    degree = math.isqrt(scene["sh"].shape[1]) - 1

    def draw(s: Scene) -> Tensor:
        return rasterization(*arguments(s), width, height, near_plane=0.01, eps2d=0.3, sh_degree=degree, packed=packed)[0]

    if not backward:

        def forward() -> object:
            with torch.no_grad():
                return draw(scene)

        return forward
    scene = leaves(scene)
    v_color = torch.randn(len(scene["viewmats"]), height, width, 3, device="cuda")
    inputs = [scene[k] for k in NAMES]
    return lambda: torch.autograd.grad(draw(scene), inputs, v_color)


def training_step(scene: Scene, width: int, height: int, draw: str) -> Callable[[], object]:
    """Render, L1 + SSIM, backward, Adam. `draw`: native | gsplat | gsplat with our loss and Adam."""
    raw = {k: scene[k].clone() for k in NAMES}
    raw["scales"], raw["opacities"] = raw["scales"].log(), raw["opacities"].logit()
    params = {k: v.requires_grad_() for k, v in raw.items()}
    drawn = params | {"viewmats": scene["viewmats"], "Ks": scene["Ks"]}
    with torch.no_grad():
        target = ops.splat(*arguments(scene), width, height, depth=False).color * 0.9
    rates = {"means": 1e-5, "quats": 1e-4, "scales": 1e-4, "opacities": 1e-3, "sh": 1e-4}
    degree = math.isqrt(scene["sh"].shape[1]) - 1
    if draw == "native":
        optimizer = ops.Adam(params, rates, capturable=True)

        def step() -> object:
            image = ops.splat(*arguments(drawn), width, height, depth=False, log_scales=True, logit_opacities=True).color
            ops.l1_ssim(image, target).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            return None

        return step
    from gsplat import rasterization  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]

    groups = [{"params": [p], "lr": rates[k]} for k, p in params.items()]
    optimizer = torch.optim.Adam(groups, eps=1e-15, fused=True) if draw == "gsplat" else ops.Adam(params, rates)

    def other() -> object:
        active = drawn | {"scales": drawn["scales"].exp(), "opacities": drawn["opacities"].sigmoid()}
        image = rasterization(
            *arguments(active), width, height, near_plane=0.01, eps2d=0.3, sh_degree=degree, packed=False
        )[0]
        if draw == "gsplat":
            l1, ssim = reference.l1_and_ssim(image, target)
            loss = 0.8 * l1 + 0.2 * (1 - ssim)
        else:
            loss = ops.l1_ssim(image, target)
        loss.sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        return None

    return other


def gate() -> dict[str, float]:
    """Errors against the float64 reference on a 20k, 256² scene, and between gsplat and us; raises when ours are too large."""
    width = height = 256
    scene = head_scene(20000, 1, width, height)
    exact = {k: v.double().requires_grad_(k in NAMES) for k, v in scene.items()}
    color, alpha, depth, _, margin = reference.rasterize(*reference.project(*arguments(exact), width, height), width, height)
    sure = margin > 1e-4
    v_color = torch.randn(1, height, width, 3, device="cuda") * sure[..., None]
    expected = torch.autograd.grad(color, [exact[k] for k in NAMES], v_color.double())
    scene = leaves(scene)
    out = ops.splat(*arguments(scene), width, height)
    actual = torch.autograd.grad(out.color, [scene[k] for k in NAMES], v_color)
    errors = {"color": float(((out.color - color) * sure[..., None]).abs().max()), "left out": float((~sure).float().mean())}
    errors["alpha"] = float(((out.alpha - alpha)[..., 0] * sure).abs().max())
    assert out.depth is not None
    errors["depth"] = float(((out.depth - depth)[..., 0] * sure).abs().max())
    for name, a, e in zip(NAMES, actual, expected, strict=True):
        errors[f"v_{name}"] = float((a - e).norm() / e.norm())
    print("gate:", ", ".join(f"{k} {v:.2e}" for k, v in errors.items()))
    if errors["color"] > 1e-5 or errors["alpha"] > 1e-5 or max(v for k, v in errors.items() if k.startswith("v_")) > 1e-4:
        raise SystemExit("the kernels are wrong: no times are worth printing")
    return errors


def peer_gate(width: int = 550, height: int = 802) -> dict[str, float]:
    """Largest difference of images and relative difference of gradients between gsplat and us."""
    scene = leaves(head_scene(100_000, 1, width, height))
    v_color = torch.randn(1, height, width, 3, device="cuda")
    from gsplat import rasterization  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]

    mine = ops.splat(*arguments(scene), width, height, depth=False).color
    peer = rasterization(*arguments(scene), width, height, near_plane=0.01, eps2d=0.3, sh_degree=3, packed=False)[0]
    a = torch.autograd.grad(mine, [scene[k] for k in NAMES], v_color)
    b = torch.autograd.grad(peer, [scene[k] for k in NAMES], v_color)
    difference = (mine - peer).abs()
    errors = {"largest": float(difference.max()), "mean": float(difference.mean())}
    errors |= {f"v_{k}": float((x - y).norm() / y.norm()) for k, x, y in zip(NAMES, a, b, strict=True)}
    print("gsplat against ours:", ", ".join(f"{k} {v:.2e}" for k, v in errors.items()))
    return errors


def main() -> None:
    """Gate, then table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--quick", action="store_true", help="ours alone, the 100k scene alone")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device")
    properties = torch.cuda.get_device_properties(0)
    print(f"{properties.name}, torch {torch.__version__}, {ops.available()}")
    report: dict = {"card": properties.name, "torch": torch.__version__, "cuda": torch.version.cuda, "gate": gate(), "rows": []}
    peer = False
    if not options.quick:
        try:
            report["peer_gate"] = peer_gate()
            report["gsplat"] = importlib.metadata.version("gsplat")
            peer = True
        except Exception as error:  # whatever its build does, say so and go on
            print(f"gsplat cannot run: {type(error).__name__}: {str(error)[:500]}")
            report["peer_error"] = str(error)[:2000]
    sizes = [(100_000, 1, 550, 802)] if options.quick else [
        (20_000, 1, 256, 256), (100_000, 1, 512, 512), (100_000, 1, 550, 802), (100_000, 16, 550, 802)
    ]  # fmt: skip
    for n, cameras, width, height in sizes:
        scene = head_scene(n, cameras, width, height)
        label = f"{n // 1000}k, {width}×{height}" + (f", {cameras} views" if cameras > 1 else "")
        for backward in (False, True):
            what = "forward + backward" if backward else "forward"
            add(report, f"{label}, {what}", "ours", ours(scene, width, height, backward))
            for packed in (False, True) if peer else ():
                add(report, f"{label}, {what}", f"gsplat{' packed' * packed}", theirs(scene, width, height, backward, packed), graph=False)
    scene = head_scene(100_000, 1, 550, 802)
    with_loss(report, scene, peer)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))
    page = markdown(report)
    if options.markdown:
        options.markdown.write_text(page)
    print(page)


def with_loss(report: dict, scene: Scene, peer: bool) -> None:
    """Rows for the loss, Adam and the whole training step."""
    a, b = torch.rand(1, 802, 550, 3, device="cuda", requires_grad=True), torch.rand(1, 802, 550, 3, device="cuda")
    add(report, "L1 + SSIM, 550×802, forward + backward", "ours", lambda: torch.autograd.grad(ops.l1_ssim(a, b).sum(), a))

    def plain() -> object:
        l1, ssim = reference.l1_and_ssim(a, b)
        return torch.autograd.grad((0.8 * l1 + 0.2 * (1 - ssim)).sum(), a)

    add(report, "L1 + SSIM, 550×802, forward + backward", "torch", plain)
    tensors = {k: scene[k].clone().requires_grad_() for k in NAMES}
    for tensor in tensors.values():
        tensor.grad = torch.randn_like(tensor)
    add(report, "Adam, 100k × 59", "ours", ops.Adam(tensors, dict.fromkeys(NAMES, 1e-3)).step)
    fused = torch.optim.Adam(tensors.values(), lr=1e-3, fused=True)
    add(report, "Adam, 100k × 59", "torch fused", fused.step, graph=False)
    label = "training step, 100k, 550×802"
    add(report, label, "ours", training_step(scene, 550, 802, "native"))
    if peer:
        add(report, label, "gsplat, torch's SSIM and fused Adam", training_step(scene, 550, 802, "gsplat"), graph=False)
        add(report, label, "gsplat, our SSIM and Adam", training_step(scene, 550, 802, "mixed"), graph=False)


def add(report: dict, what: str, who: str, call: Callable[[], object], graph: bool = True) -> None:
    """Measure a call and keep it."""
    row = {"what": what, "who": who} | measure(call, graph=graph)
    report["rows"].append(row)
    times = ", ".join(f"{k} {row[k]:.4f}" for k in ("kernels", "stream", "graph", "latency") if row[k] is not None)
    print(f"{what} | {who}: {times}", flush=True)


def markdown(report: dict) -> str:
    """A page: card, commands, errors, times, and ratios: the peer's best time over ours, like with like.

    A graph has no like, since gsplat waits for the device in mid-frame and cannot be captured: it stands against the peer's stream.
    """
    gates = [f"Against the float64 reference (20k Gaussians, 256²): {_errors(report['gate'])}."]
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
    best: dict[str, dict] = {}
    for row in report["rows"]:
        cells = [f"{row[k]:.3f}" if row[k] is not None else "" for k in ("kernels", "stream", "graph", "latency")]
        lines.append(f"| {row['what']} | {row['who']} | {' | '.join(cells)} |")
        if row["who"] != "ours" and "our SSIM" not in row["who"]:
            known = best.setdefault(row["what"], dict.fromkeys(("kernels", "stream", "latency"), math.inf))
            for key in known:
                known[key] = min(known[key], row[key])
    lines += ["", "Times faster:", "", "| case | kernels | stream | stream, ours in a graph | latency |", "| --- | --- | --- | --- | --- |"]
    for row in report["rows"]:
        if row["who"] == "ours" and row["what"] in best:
            peer = best[row["what"]]
            ratios = [peer[k] / row[k] for k in ("kernels", "stream")]
            ratios += [peer["stream"] / row["graph"] if row["graph"] else math.nan, peer["latency"] / row["latency"]]
            lines.append(f"| {row['what']} | " + " | ".join(f"{r:.1f}×" for r in ratios) + " |")
    lines += ["", "Where our time goes, microseconds per call:", "", "| case | kernels |", "| --- | --- |"]
    for row in report["rows"]:
        if row["who"] == "ours":
            parts = [f"{_short(k)} {1e3 * v:.1f}" for k, v in list(row["by_kernel"].items())[:9]]
            lines.append(f"| {row['what']} | {', '.join(parts)} |")
    return "\n".join(lines) + "\n"


def _errors(errors: dict[str, float]) -> str:
    return ", ".join(f"{k} {v:.1e}" for k, v in errors.items())


def _short(kernel: str) -> str:
    """The bare name of a kernel."""
    name = kernel.split("(")[0].split("<")[0].split("::")[-1].split()
    return name[-1] if name else kernel[:30]


if __name__ == "__main__":
    main()
