"""Gradients to the cameras: the CPU kernels, and the CUDA ones under the emulation, against the float64 reference."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cuda_ext import abi, ops, reference
from cuda_ext.bench_scenes import head_scene

_calls = sys.modules["cuda_calls"]  # loaded by conftest.py
SplatCall, head_like = _calls.SplatCall, _calls.head_like
close, launch_of, pointer, to = _calls.close, _calls.launch_of, _calls.pointer, _calls.to

WIDTH, HEIGHT = 64, 48


def cloud(n: int, near: bool = False):
    """A head before two cameras with skew; `near`: so near that many Gaussians lie beyond the borders, where tx and ty are held."""
    scene = head_scene(n, WIDTH, HEIGHT, cameras=2)
    Ks, viewmats = scene.Ks.clone(), scene.viewmats.clone()
    Ks[:, 0, 1], Ks[1, 0, 2] = 1.5, 25.0
    if near:
        viewmats[:, 2, 3] = 0.3
    return replace(scene, Ks=Ks, viewmats=viewmats)


def gradients(scene, dtype: torch.dtype, **options) -> tuple[Tensor, list[Tensor]]:
    """The picture, and the gradients to viewmats and Ks of a fixed random loss of all images."""
    s = scene.to(dtype)
    cameras = [t.clone().requires_grad_() for t in (s.viewmats, s.Ks)]
    out = ops.splat(*s.tensors[:5], *cameras, WIDTH, HEIGHT, **options)
    random = torch.Generator().manual_seed(5)
    assert out.depth is not None
    weights = [torch.rand(i.shape, generator=random, dtype=torch.float64).to(dtype) for i in (out.color, out.alpha, out.depth)]
    loss = (out.color * weights[0]).sum() + 0.3 * (out.alpha * weights[1]).sum() + 0.1 * (out.depth * weights[2]).sum()
    return out.color.detach(), list(torch.autograd.grad(loss, cameras))


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


@pytest.mark.parametrize("options", [{}, {"antialiased": True}, {"sh_degree": 1}], ids=str)
@pytest.mark.parametrize("near", [False, True])
def test_they_match_the_reference(options, near):
    scene = cloud(900, near)
    _, found = gradients(scene, torch.float32, **options)
    _, expected = gradients(scene, torch.float64, **options)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape and relative(a, b) < 1e-4
    assert bool((found[0][:, 3] == 0).all()) and bool((found[1][:, 2] == 0).all())  # rows that no kernel reads


def test_they_are_the_same_bits_on_any_number_of_threads():
    scene, before, results = cloud(3000), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            results.append(gradients(scene, torch.float32))
    finally:
        torch.set_num_threads(before)
    for color, found in results[1:]:
        assert torch.equal(color, results[0][0])
        assert all(torch.equal(a, b) for a, b in zip(found, results[0][1], strict=True))


def test_asking_for_them_changes_nothing_else():
    scene = cloud(500)
    pictures, others = [], []
    for moving in (False, True):
        leaves = [t.clone().requires_grad_() for t in scene.tensors[:5]]
        cameras = [t.clone().requires_grad_(moving) for t in scene.tensors[5:]]
        statistics = ops.SplatStatistics.zeros(500)
        out = ops.splat(*leaves, *cameras, WIDTH, HEIGHT, statistics=statistics)
        out.color.square().sum().backward()
        pictures.append(out.color.detach())
        others.append([*(t.grad for t in leaves), statistics.grad_norm, statistics.contributions, statistics.count])
    assert torch.equal(*pictures)
    assert all(torch.equal(a, b) for a, b in zip(*others, strict=True))


def test_contributions_count_once_when_only_cameras_move():
    scene = cloud(300)
    still, moving = ops.SplatStatistics.zeros(300), ops.SplatStatistics.zeros(300)
    ops.splat(*scene.tensors, WIDTH, HEIGHT, statistics=still)
    out = ops.splat(*scene.tensors[:5], scene.viewmats.clone().requires_grad_(), scene.Ks, WIDTH, HEIGHT, statistics=moving)
    out.color.sum().backward()
    assert torch.allclose(still.contributions, moving.contributions, rtol=1e-4, atol=1e-5)


def test_a_camera_finds_its_way_back():
    """Descent on the native gradients alone recovers a displaced camera."""
    scene = cloud(2000)
    scene = replace(scene, viewmats=scene.viewmats[:1], Ks=scene.Ks[:1])
    with torch.no_grad():
        target = ops.splat(*scene.tensors, WIDTH, HEIGHT).color
    shift = torch.tensor([0.004, -0.003, 0.01])
    moved = shift.clone().requires_grad_()
    adam = torch.optim.Adam([moved], lr=1e-3)
    for _ in range(60):
        viewmats = torch.cat([scene.viewmats[:, :3, :3], scene.viewmats[:, :3, 3:] + moved[:, None]], -1)
        viewmats = torch.cat([viewmats, scene.viewmats[:, 3:]], 1)
        adam.zero_grad()
        (ops.splat(*scene.tensors[:5], viewmats, scene.Ks, WIDTH, HEIGHT).color - target).square().mean().backward()
        adam.step()
    assert float(moved.detach().norm()) < 0.15 * float(shift.norm())


@pytest.mark.parametrize("case", [{"degree": 3, "cameras": 2}, {"degree": 1, "cameras": 1, "antialiased": True}], ids=str)
def test_cuda_kernels_match_the_reference(backend, case):
    library, device = backend
    antialiased = case.get("antialiased", False)
    scene = head_like(300, case["cameras"], WIDTH, HEIGHT, case["degree"])
    exact = {k: v.double() for k, v in scene.items()}
    for key in ("viewmats", "Ks"):
        exact[key].requires_grad_()
    random = torch.Generator().manual_seed(2)
    v_color = torch.rand(case["cameras"], HEIGHT, WIDTH, 3, generator=random)
    projected = reference.project(*exact.values(), WIDTH, HEIGHT, antialiased=antialiased)
    (reference.rasterize(*projected, WIDTH, HEIGHT)[0] * v_color).sum().backward()

    call = SplatCall(
        library, dict(zip(scene, to(device, *scene.values()), strict=True)), WIDTH, HEIGHT, antialiased=antialiased, depth=False
    ).forward()
    out = call.backward(*to(device, v_color), cameras=True)
    call.verify()
    close(out["viewmats"], exact["viewmats"].grad, 1e-4, "viewmats")
    close(out["Ks"], exact["Ks"].grad, 1e-4, "Ks")


def test_cuda_projection_alone_matches_the_reference(backend):
    library, device = backend
    N, C = 150, 2
    scene = head_like(N, C, WIDTH, HEIGHT, 2)
    exact = {k: v.double() for k, v in scene.items()}
    for key in ("viewmats", "Ks"):
        exact[key].requires_grad_()
    expected = reference.project(*exact.values(), WIDTH, HEIGHT, antialiased=True)
    random = torch.Generator().manual_seed(3)
    upstream = [torch.rand(t.shape, generator=random) * (10.0 if i == 1 else 1.0) for i, t in enumerate(expected[:5])]
    torch.autograd.backward(expected[:5], [u.double() for u in upstream])

    held = dict(zip(scene, to(device, *scene.values()), strict=True))
    av_scene = abi.AvScene(N, C, WIDTH, HEIGHT, 9, 2, abi.ANTIALIASED, 0.01, 0.3, 0.0, *(pointer(t) for t in held.values()), None)
    shapes = ((C, N, 2), (C, N, 3), (C, N), (C, N, 3), (C, N))
    seen = [torch.empty(shape, device=device) for shape in shapes]
    radii = torch.empty(C, N, 2, dtype=torch.int32, device=device)
    projected = abi.AvProjected(*(pointer(t) for t in seen), pointer(radii))
    assert library.av_project_forward(ctypes.byref(abi.AvProject(launch_of(device), av_scene, projected))) == abi.OK
    v = [torch.full_like(t, torch.nan) for t in list(held.values())[:5]]
    cameras = [torch.full((C, 4, 4), torch.nan, device=device), torch.full((C, 3, 3), torch.nan, device=device)]
    sums = torch.full((C, -(-N // abi.CAMERA_GROUP), abi.CAMERA_SUMS), torch.nan, device=device)
    given = to(device, *upstream)
    args = abi.AvProjectBackward(
        launch_of(device), av_scene, projected, abi.AvProjected(*(pointer(t) for t in given), None), *(pointer(t) for t in v),
        *(pointer(t) for t in cameras), pointer(sums),
    )  # fmt: skip
    assert library.av_project_backward(ctypes.byref(args)) == abi.OK
    close(cameras[0], exact["viewmats"].grad, 1e-4, "viewmats")
    close(cameras[1], exact["Ks"].grad, 1e-4, "Ks")
