"""Rows of `python -m cuda_ext.bench` for drawing Gaussians: forward, backward, and all kernels of a training step.

What bounds the splat, counted: one visit of a 4×4 block by a Gaussian (76,000 of them at 20k, 256²; 358,000 at 100k, 512²) takes
15 multiplications and multiply-adds of sixteen lanes forward, and 30 backward besides 16 shuffles per Gaussian and tile. A
processor that issues one of them per cycle (Zen 4: two pipes of 256 bits) needs 15 and 30 cycles at least, one that issues two
half of that. Everything else included, compositing takes about 24 cycles a visit forward and 60 backward here
(`perf record -e cpu-clock` gives the shares of the stages). At 100k the caches end: parameters, records, slots and gradients are
85 MB of traffic a step, 3.5 ms at the 25 GB/s that one core gets.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cuda_ext import ops, reference
from cuda_ext.bench_scenes import Scene, head_like_mesh, head_scene
from cuda_ext.bench_times import Row, measure, relative


def gate() -> dict[str, float | bool]:
    """The image and all gradients against float64, and the same bits from 1, 2 and 4 threads."""
    scene = head_scene(4000, 96, 96, cameras=2)
    upstream = torch.rand(2, 96, 96, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    color, gradients = _gradients(scene, upstream.float())
    exact = scene.to(torch.float64)
    exact_color, exact_gradients = _gradients(exact, upstream)
    margin = reference.rasterize(*reference.project(*exact.tensors, 96, 96), 96, 96)[4]
    figures: dict[str, float | bool] = {
        # Pixels where rounding alone decides whether a contribution reaches the cut-off are left out of the image's figure.
        "image_max": float((color - exact_color).abs().amax(-1)[margin > 1e-5].max()),
        "pixels_left_out": float((margin <= 1e-5).double().mean()),
    }
    for name, a, b in zip(("means", "quats", "scales", "opacities", "sh"), gradients, exact_gradients, strict=True):
        figures[f"v_{name}"] = relative(a, b)
    before, same = torch.get_num_threads(), True
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        again, others = _gradients(scene, upstream.float())
        same &= torch.equal(again, color) and all(torch.equal(p, q) for p, q in zip(others, gradients, strict=True))
    torch.set_num_threads(before)
    return figures | {"same_bits": same}


def _gradients(scene: Scene, upstream: Tensor) -> tuple[Tensor, list[Tensor]]:
    scene = scene.leaves()
    leaves = scene.tensors[:5]
    color = ops.splat(*scene.tensors, scene.width, scene.height, depth=False).color
    color.backward(upstream.to(color.dtype))
    return color.detach(), [t.grad for t in leaves if t.grad is not None]


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
