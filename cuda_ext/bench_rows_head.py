"""Rows of `python -m cuda_ext.bench` for the head: its skin, and Gaussians bound to it and corrected by codes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cuda_ext import ops, reference
from cuda_ext.bench_scenes import head_like_mesh, head_rig
from cuda_ext.bench_times import Row, measure, relative


def gate(device: str = "cpu") -> dict[str, float | bool]:
    """The gradients to codes and joints, and those of carried Gaussians, against float64."""
    rig, pose = head_rig(500, device=device), [torch.rand(1, *shape, device=device) for shape in ((52,), (5, 3), (3,), (3,))]
    ends = [[t.detach().to(dtype).clone().requires_grad_() for t in pose] for dtype in (torch.float32, torch.float64)]
    for leaves in ends:
        ops.skin(rig, *leaves).square().sum().backward()
    fixed, exact = _carried(200, device, 12)
    carried = [{k: t.detach().to(dtype).clone().requires_grad_() for k, t in exact.items()} for dtype in (torch.float32, torch.float64)]
    for leaves in carried:
        torch.stack([t.square().sum() for t in _carry(fixed, leaves)]).sum().backward()
    pairs = {"v_skin": zip(*ends, strict=True), "v_carry": zip(*(each.values() for each in carried), strict=True)}
    return {k: max(relative(p.grad, q.grad) for p, q in v if p.grad is not None and q.grad is not None) for k, v in pairs.items()}


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


def _carried(n: int, device: str = "cpu", faces_wide: int = 90) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Arguments of `carry`: (the mesh's faces, each Gaussian's, their reach), (name → leaf)."""
    vertices, faces = head_like_mesh(2 * faces_wide // 3, faces_wide)
    shapes = {
        "basis": (n, 10, 12),
        "weights": (12,),
        "means": (n, 3),
        "quats": (n, 4),
        "log_scales": (n, 3),
        "sh": (n, 4, 3),
        "logits": (n,),
    }
    leaves = {"vertices": vertices} | {k: 0.3 * torch.randn(s) for k, s in shapes.items()}
    return [faces.to(device), torch.randint(len(faces), (n,)).to(device), torch.full((n,), 1.5, device=device)], {
        k: v.to(device).requires_grad_() for k, v in leaves.items()
    }


_PENALTIES = ops.Penalties(0.01, 1.0, 0.002, 1.0, 0.01)


def _carry(fixed: list[Tensor], leaves: dict[str, Tensor]) -> tuple[Tensor, ...]:
    vertices, basis, weights, means, quats, log_scales, sh, logits = leaves.values()
    faces, face_ids, reach = fixed
    return ops.carry(
        vertices, faces, face_ids, basis, weights, means, quats, log_scales, sh, penalties=_PENALTIES, logit_opacities=logits,
        reach=reach.to(vertices),
    )  # fmt: skip


def _plain_carry(fixed: list[Tensor], leaves: dict[str, Tensor]) -> tuple[Tensor, ...]:
    vertices, basis, weights, means, quats, log_scales, sh, logits = leaves.values()
    faces, face_ids, reach = fixed
    shares = (0.01, 1.0, 0.002, 1.0, 0.01)
    return reference.carry(vertices, faces, face_ids, basis, weights, (means, quats, log_scales, sh), shares, logits, reach)


def carry_row(n: int, threads: int, seconds: float, compare: bool) -> Row:
    """Corrections by twelve weights, triangles and penalties, forward and backward; the basis takes its step of Adam."""
    fixed, leaves = _carried(n)
    basis = leaves["basis"]
    upstream = [torch.randn(n, 3), torch.randn(n, 4), torch.randn(n, 3), torch.randn(n, 4, 3), torch.ones(())]
    mine = ops.Adam({"basis": basis}, {"basis": 1e-4}, factored=("basis",), halves=("basis",))
    other = torch.optim.Adam([basis], lr=1e-4, foreach=True)

    class Loss:
        """What `descend` wants of a loss: gradients that come from elsewhere."""

        def backward(self) -> None:
            torch.autograd.backward(_carry(fixed, leaves), upstream)

    def run() -> None:
        mine.descend(Loss())
        for leaf in leaves.values():
            leaf.grad = None

    def plain() -> None:
        torch.autograd.backward(_plain_carry(fixed, leaves), upstream)
        other.step()
        for leaf in leaves.values():
            leaf.grad = None

    return measure(
        "carry forward+backward+Adam", f"{n // 1000}k × 12 on {len(fixed[0]) // 1000}k", threads, run, seconds, plain if compare else None
    )
