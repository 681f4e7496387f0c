"""python -m cuda_ext.bench_cuda: CUDA kernels against the reference (the gate), gsplat and plain torch, on the card at hand.

Four times per row, in milliseconds, medians: `kernels` sums the device time of all kernels of a call (profiler); `stream` is the time between
two events around the call, launch gaps included; `graph` the same for the replay of a captured graph; `latency` the
wall time of call and synchronisation. gsplat is measured when it is installed, packed and not, and the better of the two counts.
`--json FILE` is written after every row, `--markdown FILE` at the end; a row that fails says so and stops nothing else. `--rehearse`
runs every row once on the CPU, small: it measures nothing and finds what would stop the bench on a GPU.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from cuda_ext import bench_rows_head as head
from cuda_ext import bench_rows_meshes as meshes
from cuda_ext import bench_rows_training as training
from cuda_ext import bench_rows_volumes as volumes
from cuda_ext import bench_scenes, ops, reference
from cuda_ext.bench import LIMITS
from cuda_ext.bench_cuda_page import markdown
from cuda_ext.bench_cuda_rows import operators
from cuda_ext.bench_cuda_times import Report

Scene = dict[str, Tensor]
NAMES = ("means", "quats", "scales", "opacities", "sh")


def head_scene(n: int, cameras: int, width: int, height: int, device: str) -> Scene:
    """The scene of `cuda_ext.bench` on the card, by the names of the operators' arguments."""
    scene = bench_scenes.head_scene(n, width, height, cameras).to(device=device)
    return {k: getattr(scene, k).contiguous() for k in (*NAMES, "viewmats", "Ks")}


def arguments(scene: Scene) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The tensors of a scene in the order that both libraries take them."""
    s = scene
    return s["means"], s["quats"], s["scales"], s["opacities"], s["sh"], s["viewmats"], s["Ks"]


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
    v_color = torch.randn(len(scene["viewmats"]), height, width, 3, device=scene["means"].device)
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
    v_color = torch.randn(len(scene["viewmats"]), height, width, 3, device=scene["means"].device)
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
        optimizer = ops.Adam(params, rates, capturable=scene["means"].is_cuda)

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
        image = rasterization(*arguments(active), width, height, near_plane=0.01, eps2d=0.3, sh_degree=degree, packed=False)[0]
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


def gate(device: str = "cuda", n: int = 20_000, size: int = 256) -> dict[str, float]:
    """Errors of all families against the float64 reference; raises when they are too large."""
    width = height = size
    scene = head_scene(n, 1, width, height, device)
    exact = {k: v.double().requires_grad_(k in NAMES) for k, v in scene.items()}
    color, alpha, depth, _, margin = reference.rasterize(*reference.project(*arguments(exact), width, height), width, height)
    sure = margin > 1e-4
    v_color = torch.randn(1, height, width, 3, device=device) * sure[..., None]
    expected = torch.autograd.grad(color, [exact[k] for k in NAMES], v_color.double())
    scene = leaves(scene)
    out = ops.splat(*arguments(scene), width, height)
    actual = torch.autograd.grad(out.color, [scene[k] for k in NAMES], v_color)
    errors = {"color": float(((out.color - color) * sure[..., None]).detach().abs().max()), "left out": float((~sure).float().mean())}
    errors["alpha"] = float(((out.alpha - alpha)[..., 0] * sure).detach().abs().max())
    assert out.depth is not None
    errors["depth"] = float(((out.depth - depth)[..., 0] * sure).detach().abs().max())
    for name, a, e in zip(NAMES, actual, expected, strict=True):
        errors[f"v_{name}"] = float((a - e).norm() / e.norm())
    for family in (training, head, meshes, volumes):
        errors |= family.gate(device)
    print("gate:", ", ".join(f"{k} {v:.2e}" for k, v in errors.items()))
    limits = LIMITS | {"color": 1e-5, "alpha": 1e-5, "depth": math.inf, "left out": 0.01}
    wrong = [k for k, v in errors.items() if not v <= limits.get(k, 1e-4)]
    if wrong:
        raise SystemExit(f"the kernels are wrong, no times are worth printing: {', '.join(f'{k} = {errors[k]}' for k in wrong)}")
    return errors


def peer_gate(width: int = 550, height: int = 802) -> dict[str, float]:
    """Largest difference of images and relative difference of gradients between gsplat and us."""
    scene = leaves(head_scene(100_000, 1, width, height, "cuda"))
    v_color = torch.randn(1, height, width, 3, device="cuda")
    from gsplat import rasterization  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]

    mine = ops.splat(*arguments(scene), width, height, depth=False).color
    peer = rasterization(*arguments(scene), width, height, near_plane=0.01, eps2d=0.3, sh_degree=3, packed=False)[0]
    a = torch.autograd.grad(mine, [scene[k] for k in NAMES], v_color)
    b = torch.autograd.grad(peer, [scene[k] for k in NAMES], v_color)
    difference = (mine - peer).abs()
    errors = {"largest": float(difference.detach().max()), "mean": float(difference.detach().mean())}
    errors |= {f"v_{k}": float((x - y).norm() / y.norm()) for k, x, y in zip(NAMES, a, b, strict=True)}
    print("gsplat against ours:", ", ".join(f"{k} {v:.2e}" for k, v in errors.items()))
    return errors


def splats(report: Report, device: str, sizes: list[tuple[int, int, int, int]], peer: bool) -> None:
    """Drawing alone, ours and gsplat's."""
    for n, cameras, width, height in sizes:
        scene = head_scene(n, cameras, width, height, device)
        label = f"{n // 1000}k, {width}×{height}" + (f", {cameras} views" if cameras > 1 else "")
        for backward in (False, True):
            what = f"{label}, {'forward + backward' if backward else 'forward'}"
            report.add(what, "ours", lambda s=scene, w=width, h=height, b=backward: ours(s, w, h, b))
            for packed in (False, True) if peer else ():
                make = lambda s=scene, w=width, h=height, b=backward, p=packed: theirs(s, w, h, b, p)  # noqa: E731
                report.add(what, f"gsplat{' packed' * packed}", make, graph=False)


def steps(report: Report, device: str, n: int, width: int, height: int, peer: bool) -> None:
    """Whole steps of training."""
    scene = head_scene(n, 1, width, height, device)
    label = f"training step, {n // 1000}k, {width}×{height}"
    report.add(label, "ours", lambda: training_step(scene, width, height, "native"))
    if peer:
        report.add(label, "gsplat, torch's SSIM and fused Adam", lambda: training_step(scene, width, height, "gsplat"), graph=False)
        report.add(label, "gsplat, our SSIM and Adam", lambda: training_step(scene, width, height, "mixed"), graph=False)


def with_peer(report: Report) -> bool:
    """Whether gsplat runs here; says why when it does not."""
    try:
        report.note("peer_gate", peer_gate())
        report.note("gsplat", importlib.metadata.version("gsplat"))
        return True
    except Exception as error:  # whatever its build does, say so and go on
        print(f"gsplat cannot run: {type(error).__name__}: {str(error)[:500]}")
        report.note("peer_error", str(error)[:2000])
        return False


def rehearse() -> Report:
    """Every row once, on the CPU and small."""
    report = Report({"card": "CPU (a rehearsal)", "torch": torch.__version__, "cuda": None}, rehearsal=True)
    report.note("gate", gate("cpu", 300, 32))
    splats(report, "cpu", [(200, 2, 33, 40)], peer=False)
    steps(report, "cpu", 200, 32, 32, peer=False)
    operators(report, "cpu", small=True)
    return report


def main(argv: list[str] | None = None) -> None:
    """Gate, then table."""
    parser = argparse.ArgumentParser(prog="python -m cuda_ext.bench_cuda", description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--quick", action="store_true", help="ours alone, the 100k scene alone")
    parser.add_argument("--rehearse", action="store_true", help="run every row once on the CPU, to test the bench itself")
    options = parser.parse_args(argv)
    if options.rehearse:
        print(markdown(rehearse().figures))
        return
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device")
    properties = torch.cuda.get_device_properties(0)
    print(f"{properties.name}, torch {torch.__version__}, {ops.available()}")
    report = Report({"card": properties.name, "torch": torch.__version__, "cuda": torch.version.cuda}, options.json)
    report.note("gate", gate())
    peer = not options.quick and with_peer(report)
    sizes = [(100_000, 1, 550, 802)]
    if not options.quick:
        sizes += [(20_000, 1, 256, 256), (100_000, 1, 512, 512), (100_000, 16, 550, 802)]
    splats(report, "cuda", sizes, peer)
    steps(report, "cuda", 100_000, 550, 802, peer)
    operators(report, "cuda")
    page = markdown(report.figures)
    if options.markdown:
        options.markdown.write_text(page)
    print(page)


if __name__ == "__main__":
    main()
