"""`python -m cuda_ext.bench`: are the kernels right, and how fast are they here.

A gate of correctness comes first: images within 1e-5 and gradients within 1e-4 relative of the float64 reference, the same
bits for 1, 2 and 4 threads. Then times on generated head-like scenes: CPU time per thread and wall time, minimum and
median, and the ratio to plain torch in the same run. Minima travel between runs; a busy machine shows in the medians. Last, the
machine: instruction sets, two threads, a loaded core (bench_machine.py).

What bounds the splat, counted: one visit of a 4×4 block by a Gaussian (76,000 of them at 20k, 256²; 358,000 at 100k, 512²) takes
15 multiplications and multiply-adds of sixteen lanes forward, and 30 backward besides 16 shuffles per Gaussian and tile. A
processor that issues one of them per cycle (Zen 4: two pipes of 256 bits) needs 15 and 30 cycles at least, one that issues two
half of that. Everything else included, compositing takes about 24 cycles a visit forward and 60 backward here
(`perf record -e cpu-clock` gives the shares of the stages). At 100k the caches end: parameters, records, slots and gradients are
100 MB of traffic a step, 4 ms at the 25 GB/s that one core gets.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from cuda_ext import bench_machine, hash_grid, ops, reference
from cuda_ext.bench_scenes import Scene, head_like_mesh, head_scene, ray_positions


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


# correctness


def relative(a: Tensor, b: Tensor) -> float:
    """‖a - b‖ / ‖b‖ in float64."""
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).norm() / b.norm().clamp_min(1e-300))


def _splat_gradients(scene: Scene, upstream: Tensor) -> tuple[Tensor, list[Tensor]]:
    scene = scene.leaves()
    leaves = scene.tensors[:5]
    color = ops.splat(*scene.tensors, scene.width, scene.height, depth=False).color
    color.backward(upstream.to(color.dtype))
    return color.detach(), [t.grad for t in leaves if t.grad is not None]


def gate() -> dict[str, float | bool]:
    """Every figure that must hold before a time counts; raises SystemExit when one does not."""
    scene = head_scene(4000, 96, 96, cameras=2)
    upstream = torch.rand(2, 96, 96, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    color, gradients = _splat_gradients(scene, upstream.float())
    exact = scene.to(torch.float64)
    exact_color, exact_gradients = _splat_gradients(exact, upstream)
    margin = reference.rasterize(*reference.project(*exact.tensors, 96, 96), 96, 96)[4]
    figures: dict[str, float | bool] = {
        # Pixels where rounding alone decides whether a contribution reaches the cut-off are left out of the image's figure.
        "image_max": float((color - exact_color).abs().amax(-1)[margin > 1e-5].max()),
        "pixels_left_out": float((margin <= 1e-5).double().mean()),
    }
    for name, a, b in zip(("means", "quats", "scales", "opacities", "sh"), gradients, exact_gradients, strict=True):
        figures[f"v_{name}"] = relative(a, b)
    a, b = torch.rand(1, 64, 64, 3), torch.rand(1, 64, 64, 3)
    x, y = a.clone().requires_grad_(), a.double().requires_grad_()
    ops.l1_ssim(x, b).sum().backward()
    ops.l1_ssim(y, b.double()).sum().backward()
    assert x.grad is not None and y.grad is not None
    figures["v_l1_ssim"] = relative(x.grad, y.grad)
    rig, pose = head_rig(500), [torch.rand(1, *shape) for shape in ((52,), (5, 3), (3,), (3,))]
    ends = [[t.detach().to(dtype).clone().requires_grad_() for t in pose] for dtype in (torch.float32, torch.float64)]
    for leaves in ends:
        ops.skin(rig, *leaves).square().sum().backward()
    figures["v_skin"] = max(relative(p.grad, q.grad) for p, q in zip(*ends, strict=True) if p.grad is not None and q.grad is not None)
    before, same = torch.get_num_threads(), True
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        again, others = _splat_gradients(scene, upstream.float())
        same &= torch.equal(again, color) and all(torch.equal(p, q) for p, q in zip(others, gradients, strict=True))
    torch.set_num_threads(before)
    figures["same_bits"] = same
    limits = {"image_max": 1e-5, "pixels_left_out": 0.01}
    wrong = [k for k, v in figures.items() if (v is False if isinstance(v, bool) else not v <= limits.get(k, 1e-4))]
    if wrong:
        raise SystemExit(f"the kernels are wrong here, no times: {', '.join(f'{k} = {figures[k]}' for k in wrong)}")
    return figures


# times


def splat_rows(n: int, size: int, threads: int, seconds: float, compare: bool) -> list[Row]:
    """Forward, and forward with backward."""
    scene = head_scene(n, size, size).leaves()
    leaves = scene.tensors[:5]
    upstream = torch.rand(1, size, size, 3)

    def forward() -> None:
        with torch.no_grad():
            ops.splat(*scene.tensors, size, size, depth=False)

    def both() -> None:
        ops.splat(*scene.tensors, size, size, depth=False).color.backward(upstream)
        for leaf in leaves:
            leaf.grad = None

    def plain() -> Tensor:
        return reference.rasterize(*reference.project(*scene.tensors, size, size), size, size)[0]

    def plain_forward() -> None:
        with torch.no_grad():
            plain()

    def plain_both() -> None:
        plain().backward(upstream)
        for leaf in leaves:
            leaf.grad = None

    label = f"{n // 1000}k, {size}²"
    return [
        measure("splat forward", label, threads, forward, seconds, plain_forward if compare else None),
        measure("splat forward+backward", label, threads, both, seconds, plain_both if compare else None),
    ]


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


def hash_rows(threads: int, seconds: float, compare: bool) -> list[Row]:
    """Encode samples along rays; the gradient is to the table.

    Plain torch twice: level by level and corner by corner, as it is mostly written and as the reference is (its gradient allocates a
    table per corner); and all corners in one gather, the fastest way found.
    """
    grid = hash_grid.HashGrid.build()
    positions, table = ray_positions(512, 64), grid.init().requires_grad_()
    upstream = torch.rand(len(positions), grid.channels)
    encoders = {"hash_encode": hash_grid._reference, "hash_encode (one gather)": _one_gather} if compare else {"hash_encode": None}

    def forward(encode: Callable) -> None:
        with torch.no_grad():
            encode(grid, positions, table)

    def both(encode: Callable) -> None:
        encode(grid, positions, table).backward(upstream)
        table.grad = None

    found = []
    for name, plain in encoders.items():
        for step, run in (("forward", forward), ("f+b", both)):
            torch_run = None if plain is None else lambda run=run, plain=plain: run(plain)
            label = f"{len(positions) // 1024}k, {grid.levels} levels"
            found.append(measure(f"{name} {step}", label, threads, lambda run=run: run(hash_grid.hash_encode), seconds, torch_run))
    return found


def _one_gather(grid: hash_grid.HashGrid, positions: Tensor, table: Tensor) -> Tensor:
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


def bind_row(n: int, threads: int, seconds: float, compare: bool) -> Row:
    """Forward and backward, the mesh included."""
    vertices, faces = head_like_mesh(60, 90)
    vertices = vertices.requires_grad_()
    face_ids = torch.randint(len(faces), (n,))
    local = [torch.randn(n, k, requires_grad=True) for k in (3, 4, 3)]
    upstream = [torch.randn(n, k) for k in (3, 4, 3)]

    def run(function: Callable) -> None:
        out = function(vertices, faces, face_ids, *local, log_scales=True)
        torch.autograd.backward(out, upstream)
        vertices.grad = None
        for leaf in local:
            leaf.grad = None

    plain = (lambda: run(reference.bind)) if compare else None
    return measure(
        "bind forward+backward",
        f"{n // 1000}k on {len(faces) // 1000}k",
        threads,
        lambda: run(ops.bind),
        seconds,
        plain,
    )


def mesh_row(cameras: int, size: int, threads: int, seconds: float) -> Row:
    """Triangle ids, barycentrics and depth of a head-sized mesh."""
    vertices, faces = head_like_mesh(100, 100)
    scene = head_scene(1, size, size, cameras)
    posed = vertices @ scene.viewmats[:, :3, :3].transpose(1, 2) + scene.viewmats[:, None, :3, 3]
    return measure(
        "rasterize_mesh", f"{cameras} × {size}², {len(faces) // 1000}k faces", threads,
        lambda: ops.rasterize_mesh(posed, faces, scene.Ks, size, size), seconds,
    )  # fmt: skip


def head_rig(V: int = 7500, E: int = 52, J: int = 5) -> ops.Rig:
    """A head's numbers, if not its looks: each expression moves a seventh of the vertices, in runs."""
    g = torch.Generator().manual_seed(0)
    moves = torch.rand(E, V // 50, generator=g).repeat_interleave(50, 1)[..., None] > 6 / 7
    weights = torch.softmax(4 * torch.randn(V, J + 1, generator=g), 1)
    turns = 0.2 * torch.randn(E, J, 3, generator=g)
    return ops.Rig(torch.randn(V, 3, generator=g), torch.zeros(J, 3), 0.01 * torch.randn(E, V, 3, generator=g) * moves, turns, weights, (-1, 0, 1, 1, 1))


def skin_row(threads: int, seconds: float, compare: bool) -> Row:
    """Vertices of one pose, and the gradients to codes and joints."""
    rig = head_rig()
    V, E, J = len(rig.rest), len(rig.shapes), len(rig.joints)
    pose = [(0.3 * torch.rand(1, *shape)).requires_grad_() for shape in ((E,), (J, 3), (3,), (3,))]
    upstream = torch.randn(1, V, 3)

    def run(function: Callable) -> None:
        torch.autograd.grad(function(rig, *pose), pose, upstream)

    plain = (lambda: run(reference.skin)) if compare else None
    return measure("skin forward+backward", f"{V / 1000:.1f}k vertices, {E}", threads, lambda: run(ops.skin), seconds, plain)


def blend_row(n: int, threads: int, seconds: float, compare: bool) -> Row:
    """Twelve corrections of each Gaussian, and all gradients but that to the basis, which Adam takes in parts."""
    leaves = [torch.randn(s, requires_grad=True) for s in ((12,), (n, 3), (n, 4), (n, 4, 3))]
    basis, upstream = 0.01 * torch.randn(n, 10, 12), [torch.randn(n, 3), torch.randn(n, 4), torch.randn(n, 4, 3)]

    def run(function: Callable) -> None:
        torch.autograd.grad(function(basis, *leaves), leaves, upstream)

    plain = (lambda: run(reference.blend)) if compare else None
    return measure("blend forward+backward", f"{n // 1000}k × 12", threads, lambda: run(ops.blend), seconds, plain)


def step_row(n: int, size: int, threads: int, seconds: float) -> Row:
    """What the kernels do in one training step: bind, splat, loss, all gradients, Adam."""
    scene = head_scene(n, size, size)
    vertices, faces = head_like_mesh(60, 90)
    face_ids = torch.randint(len(faces), (n,))
    with torch.no_grad():
        frames = reference.triangle_frames(vertices, faces)
        centre, rotation, k = (f[face_ids] for f in frames)
        local = (rotation.transpose(1, 2) @ (scene.means - centre)[..., None])[..., 0] / k[:, None]
    raw = {
        "means": local, "quats": scene.quats, "scales": (scene.scales / k[:, None]).log(),
        "opacities": torch.logit(scene.opacities.clamp(0.01, 0.99)), "sh": scene.sh,
    }  # fmt: skip
    params = {name: t.clone().requires_grad_() for name, t in raw.items()}
    optimizer = ops.Adam(params, dict.fromkeys(params, 1e-6))
    target, background = torch.rand(1, size, size, 3), torch.rand(1, 3)
    gaussian_statistics = ops.SplatStatistics.zeros(n)

    def run() -> None:
        means, quats, scales = ops.bind(vertices, faces, face_ids, params["means"], params["quats"], params["scales"], log_scales=True)
        image = ops.splat(
            means, quats, scales, params["opacities"], params["sh"], scene.viewmats, scene.Ks, size, size,
            backgrounds=background, logit_opacities=True, depth=False, statistics=gaussian_statistics,
        )  # fmt: skip
        ops.l1_ssim(image.color, target).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return measure("training step (kernels)", f"{n // 1000}k, {size}²", threads, run, seconds)


def rows(quick: bool) -> list[Row]:
    """The whole table."""
    seconds, cores = (0.3, [1]) if quick else (1.5, sorted({1, min(2, os.cpu_count() or 1)}))
    sizes = [(20_000, 256)] if quick else [(n, s) for s in (256, 512) for n in (20_000, 50_000, 100_000)]
    found = []
    for threads in cores:
        for n, size in sizes:
            found += splat_rows(n, size, threads, seconds, compare=not quick and (n, size, threads) == (20_000, 256, 1))
        first = threads == 1
        found.append(ssim_row(256, threads, seconds, first))
        found.append(adam_row(20_000, threads, seconds, first))
        found.append(skin_row(threads, seconds, first))
        found.append(blend_row(20_000, threads, seconds, first))
        found += hash_rows(threads, seconds, compare=first and not quick)
        found.append(bind_row(20_000, threads, seconds, first))
        found.append(mesh_row(4, 256, threads, seconds))
        found.append(step_row(20_000, 256, threads, seconds))
    return found


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
