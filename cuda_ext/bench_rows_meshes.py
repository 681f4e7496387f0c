"""Rows of `python -m cuda_ext.bench` for the head's mesh in pictures: triangles, attributes, and outlines that move."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cuda_ext import ops, reference
from cuda_ext.bench_scenes import head_views
from cuda_ext.bench_times import Row, measure, relative


def gate(device: str = "cpu") -> dict[str, float | bool]:
    """Pixels and gradients to vertices, cameras and attributes against float64, on the triangles that float32 finds."""
    vertices, faces, Ks = (t.to(device) for t in head_views(2, 64, 24))
    g = torch.Generator().manual_seed(0)
    attributes, upstream = (t.to(device) for t in (torch.rand(vertices.shape[1], 3, generator=g), torch.randn(2, 64, 64, 3, generator=g)))
    ids, barycentrics, depth = ops.rasterize_mesh(vertices, faces, Ks, 64, 64)
    edges, results = ops.mesh_edges(faces), []
    for dtype in (torch.float32, torch.float64):
        leaves = [t.detach().to(dtype).requires_grad_() for t in (vertices, Ks, attributes, barycentrics)]
        color = ops.interpolate(leaves[2], faces, ids, leaves[3])
        image = ops.antialias(color, depth.to(dtype), leaves[0], edges, leaves[1])
        image.backward(upstream.to(dtype))
        results.append((image.detach(), [leaf.grad for leaf in leaves if leaf.grad is not None]))
    (image, gradients), (exact_image, exact) = results
    figures: dict[str, float | bool] = {"mesh_max": float((image - exact_image).abs().max())}
    names = ("mesh_vertices", "mesh_Ks", "attributes", "barycentrics")
    return figures | {f"v_{name}": relative(a, b) for name, a, b in zip(names, gradients, exact, strict=True)}


def mesh_rows(cameras: int, size: int, threads: int, seconds: float, compare: bool) -> list[Row]:
    """Triangle ids, barycentrics and depth; then colours at the pixels and antialiased outlines, with all gradients.

    Plain torch goes triangle by triangle for the first, which is no fair match, and through whole tensors for the others.
    """
    vertices, faces, Ks = head_views(cameras, size)
    g = torch.Generator().manual_seed(0)
    ids, barycentrics, depth = ops.rasterize_mesh(vertices, faces, Ks, size, size)
    edges = ops.mesh_edges(faces)
    attributes, image = (torch.rand(*shape, generator=g).requires_grad_() for shape in ((vertices.shape[1], 3), (cameras, size, size, 3)))
    upstream = torch.randn(cameras, size, size, 3, generator=g)
    moving, still = vertices.clone().requires_grad_(), barycentrics.clone().requires_grad_()

    def interpolated(function: Callable[..., Tensor]) -> None:
        torch.autograd.grad(function(attributes, faces, ids, still), (attributes, still), upstream)

    def antialiased(function: Callable[..., Tensor]) -> None:
        torch.autograd.grad(function(image, depth, moving, edges, Ks), (image, moving), upstream)

    label = f"{cameras} × {size}², {len(faces) // 1000}k faces"
    plain = [(lambda: interpolated(reference.interpolate)), (lambda: antialiased(reference.antialias))] if compare else [None, None]
    return [
        measure("rasterize_mesh", label, threads, lambda: ops.rasterize_mesh(vertices, faces, Ks, size, size), seconds),
        measure("interpolate f+b", label, threads, lambda: interpolated(ops.interpolate), seconds, plain[0]),
        measure("antialias f+b", label, threads, lambda: antialiased(ops.antialias), seconds, plain[1]),
    ]
