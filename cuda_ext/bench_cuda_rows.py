"""Rows of `python -m cuda_ext.bench_cuda` for everything but drawing Gaussians: ours against plain torch on the same device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cuda_ext import hash_grid, ops, reference
from cuda_ext.bench_cuda_times import Report
from cuda_ext.bench_scenes import head_field, head_like_mesh, head_positions, head_rig, head_views


def operators(report: Report, device: str, small: bool = False) -> None:
    """All rows. `small`: sizes for a rehearsal."""
    torch.manual_seed(0)
    for rows in (_loss, _adam, _bind, _blend, _basis, _skin, _pictures, _hash, _meshes, _rays):
        rows(report, device, small)


def _compare(report: Report, what: str, ours: Callable[[], object], plain: Callable[[], object]) -> None:
    report.add(what, "ours", lambda: ours)
    report.add(what, "torch", lambda: plain, graph=False)


def _leaves(device: str, *shapes: tuple[int, ...]) -> list[Tensor]:
    return [torch.randn(s, device=device, requires_grad=True) for s in shapes]


def _loss(report: Report, device: str, small: bool) -> None:
    height, width = (40, 30) if small else (802, 550)
    a, b = torch.rand(1, height, width, 3, device=device, requires_grad=True), torch.rand(1, height, width, 3, device=device)

    def plain() -> object:
        l1, ssim = reference.l1_and_ssim(a, b)
        return torch.autograd.grad((0.8 * l1 + 0.2 * (1 - ssim)).sum(), a)

    _compare(report, f"L1 + SSIM, {width}×{height}, forward + backward", lambda: torch.autograd.grad(ops.l1_ssim(a, b).sum(), a), plain)


def _adam(report: Report, device: str, small: bool) -> None:
    n = 100 if small else 100_000
    tensors: dict[str, Tensor] = dict(
        zip(("means", "quats", "scales", "opacities", "sh"), _leaves(device, (n, 3), (n, 4), (n, 3), (n,), (n, 16, 3)), strict=True)
    )
    for tensor in tensors.values():
        tensor.grad = torch.randn_like(tensor)
    fused = torch.optim.Adam(tensors.values(), lr=1e-3, fused=True)
    _compare(report, f"Adam, {n // 1000}k × 59", ops.Adam(tensors, dict.fromkeys(tensors, 1e-3)).step, fused.step)


def _bind(report: Report, device: str, small: bool) -> None:
    n = 100 if small else 100_000
    vertices, faces = (t.to(device) for t in head_like_mesh(60, 90))
    face_ids = torch.randint(len(faces), (n,), device=device)
    leaves = [vertices.requires_grad_(), *_leaves(device, (n, 3), (n, 4), (n, 3))]
    upstream = [torch.randn(n, k, device=device) for k in (3, 4, 3)]

    def run(function: Callable) -> object:
        return torch.autograd.grad(function(leaves[0], faces, face_ids, *leaves[1:], log_scales=True), leaves, upstream)

    _compare(report, f"bind, {n // 1000}k on {len(faces) // 1000}k, forward + backward", lambda: run(ops.bind), lambda: run(reference.bind))


def _blend(report: Report, device: str, small: bool) -> None:
    n = 100 if small else 100_000
    basis, *leaves = _leaves(device, (n, 10, 12), (12,), (n, 3), (n, 4), (n, 16, 3))
    upstream = [torch.randn(s, device=device) for s in ((n, 3), (n, 4), (n, 16, 3))]

    def run(function: Callable) -> object:
        return torch.autograd.grad(function(basis, *leaves), [basis, *leaves], upstream)

    _compare(report, f"blend, {n // 1000}k × 12, forward + backward", lambda: run(ops.blend), lambda: run(reference.blend))


def _basis(report: Report, device: str, small: bool) -> None:
    """A step of what most of an avatar's memory is: read for the corrections, read for the gradient to the weights, moved."""
    n, K = 100 if small else 100_000, 20
    basis, *leaves = _leaves(device, (n, 10, K), (K,), (n, 3), (n, 4), (n, 4, 3))
    twin = basis.detach().clone().requires_grad_()
    upstream = [torch.randn_like(t) for t in leaves[1:]]
    ours = ops.Adam({"basis": basis}, {"basis": 1e-3}, factored=["basis"], halves=["basis"])
    plain = torch.optim.Adam([twin], lr=1e-3, fused=True)

    def run(blend: Callable, moved: Tensor, optimizer: ops.Adam | torch.optim.Adam) -> None:
        torch.autograd.backward(blend(moved, *leaves), upstream, inputs=[moved, *leaves])
        optimizer.step()
        optimizer.zero_grad()
        for leaf in leaves:
            leaf.grad = None

    label = f"blend and the Adam of its basis, {n // 1000}k × {K}"
    _compare(report, label, lambda: run(ops.blend, basis, ours), lambda: run(reference.blend, twin, plain))


def _skin(report: Report, device: str, small: bool) -> None:
    rig = head_rig(500 if small else 7500, device=device)
    V, E, J = len(rig.rest), len(rig.shapes), len(rig.joints)
    for poses in (1, 16):
        pose, upstream = _leaves(device, (poses, E), (poses, J, 3), (poses, 3), (poses, 3)), torch.randn(poses, V, 3, device=device)

        def run(function: Callable, pose: list[Tensor] = pose, upstream: Tensor = upstream) -> object:
            return torch.autograd.grad(function(rig, *pose), pose, upstream)

        label = f"skin, {poses} × {V / 1000:.1f}k vertices, {E} shapes, forward + backward"
        _compare(report, label, lambda run=run: run(ops.skin), lambda run=run: run(reference.skin))


def _pictures(report: Report, device: str, small: bool) -> None:
    C, height, width = (2, 20, 30) if small else (16, 802, 550)
    images = torch.randint(0, 256, (C, height, width, 4), dtype=torch.uint8, device=device)
    matrices, backgrounds = torch.randn(C, 3, 4, device=device), torch.rand(C, 3, device=device)
    label = f"compose, {C} × {width}×{height}"
    _compare(report, label, lambda: ops.compose(images, matrices, backgrounds), lambda: reference.compose(images, matrices, backgrounds))


def _hash(report: Report, device: str, small: bool) -> None:
    grid = hash_grid.HashGrid.build(log2_size=10 if small else 19)
    positions, table = head_positions(1024 if small else 524288).to(device), grid.init(device).requires_grad_()
    upstream = torch.rand(len(positions), grid.channels, device=device)

    def forward(encode: Callable) -> object:
        with torch.no_grad():
            return encode(grid, positions, table)

    def both(encode: Callable) -> object:
        return torch.autograd.grad(encode(grid, positions, table), table, upstream)

    for what, run in (("forward", forward), ("forward + backward", both)):
        label = f"hash_encode, {len(positions) // 1024}k, {grid.levels} levels, {what}"
        _compare(report, label, lambda run=run: run(hash_grid.hash_encode), lambda run=run: run(hash_grid._reference))


def _meshes(report: Report, device: str, small: bool) -> None:
    cameras, size, rows = (2, 24, 12) if small else (16, 512, 100)
    vertices, faces, Ks = (t.to(device) for t in head_views(cameras, size, rows))
    edges = ops.mesh_edges(faces)
    label = f"{cameras} × {size}², {len(faces) // 1000}k faces"
    report.add(f"rasterize_mesh, {label}", "ours", lambda: lambda: ops.rasterize_mesh(vertices, faces, Ks, size, size))
    ids, barycentrics, depth = ops.rasterize_mesh(vertices, faces, Ks, size, size)
    attributes, image = _leaves(device, (vertices.shape[1], 3), (cameras, size, size, 3))
    moving, still, upstream = vertices.clone().requires_grad_(), barycentrics.clone().requires_grad_(), torch.randn_like(image)

    def interpolated(function: Callable[..., Tensor]) -> object:
        return torch.autograd.grad(function(attributes, faces, ids, still), (attributes, still), upstream)

    def antialiased(function: Callable[..., Tensor]) -> object:
        return torch.autograd.grad(function(image, depth, moving, edges, Ks), (image, moving), upstream)

    for name, run in (("interpolate", interpolated), ("antialias", antialiased)):
        mine, plain = getattr(ops, name), getattr(reference, name)
        _compare(report, f"{name}, {label}, forward + backward", lambda r=run, f=mine: r(f), lambda r=run, f=plain: r(f))


def _rays(report: Report, device: str, small: bool) -> None:
    field = head_field(12 if small else 256).to(device=device)
    samples = field.march(ops.march)
    count = len(samples.starts)
    rays = f"{len(field.origins) / 1000:.0f}k rays, {count // 1000}k samples"

    def marched() -> object:
        return reference.march(field.origins, field.directions, None, field.occupancy[None], field.box, field.near, field.far, field.step)

    _compare(report, f"march, {rays}", lambda: field.march(ops.march, capacity=count), marched)
    densities, colors = (torch.rand(s, device=device).requires_grad_() for s in ((count,), (count, 3)))
    upstream = torch.randn(len(field.origins), 3, device=device)

    def composited() -> object:
        return torch.autograd.grad(ops.composite(samples, 40 * densities, colors).color, (densities, colors), upstream)

    def plain() -> object:
        color = reference.composite(40 * densities, colors, samples.starts, samples.ends, samples.offsets, None, 0.0)[0]
        return torch.autograd.grad(color, (densities, colors), upstream)

    _compare(report, f"composite, {rays}, forward + backward", composited, plain)
