"""Rows of `python -m cuda_ext.bench` for the head: its skin, and Gaussians bound to it and corrected by codes."""

from __future__ import annotations

from collections.abc import Callable

import torch

from cuda_ext import ops, reference
from cuda_ext.bench_scenes import head_like_mesh, head_rig
from cuda_ext.bench_times import Row, measure, relative


def gate(device: str = "cpu") -> dict[str, float | bool]:
    """The gradients to codes and joints against float64."""
    rig, pose = head_rig(500, device=device), [torch.rand(1, *shape, device=device) for shape in ((52,), (5, 3), (3,), (3,))]
    ends = [[t.detach().to(dtype).clone().requires_grad_() for t in pose] for dtype in (torch.float32, torch.float64)]
    for leaves in ends:
        ops.skin(rig, *leaves).square().sum().backward()
    return {"v_skin": max(relative(p.grad, q.grad) for p, q in zip(*ends, strict=True) if p.grad is not None and q.grad is not None)}


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
