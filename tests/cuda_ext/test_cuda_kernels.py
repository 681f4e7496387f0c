"""The CUDA kernels against the float64 reference: on the host under the emulation always, on a GPU where there is one.

The emulation (emulation/) compiles the very same .cu files with g++; it needs no CUDA toolkit. `backend`: conftest.py.
"""

from __future__ import annotations

import ctypes
import sys

import pytest
import torch
from torch import Tensor

from cuda_ext import abi, hash_grid, native, ops, reference

_calls = sys.modules["cuda_calls"]  # loaded by conftest.py
SplatCall, Workspace, head_like = _calls.SplatCall, _calls.Workspace, _calls.head_like
check, close, launch_of, pointer, to = _calls.check, _calls.close, _calls.launch_of, _calls.pointer, _calls.to


def test_structures_have_the_sizes_that_python_expects(backend):
    library, _ = backend
    assert library.av_abi_version() == abi.VERSION
    for structure in abi.STRUCTURES:
        assert library.av_abi_size(structure.__name__.encode()) == ctypes.sizeof(structure), structure.__name__


CASES = {
    "two cameras": dict(n=300, cameras=2, width=70, height=45, degree=3),
    "raw parameters": dict(n=300, cameras=1, width=48, height=48, degree=1, antialiased=True, raw=True, seed=1),
    "color only": dict(n=201, cameras=1, width=33, height=50, degree=0, depth=False, seed=2),
    "crowded": dict(n=3000, cameras=1, width=33, height=17, degree=2, seed=3),
}


@pytest.mark.parametrize("name", CASES)
def test_splat_matches_the_reference(backend, name):
    library, device = backend
    case = {"antialiased": False, "raw": False, "depth": True, "seed": 0} | CASES[name]
    C, W, H = case["cameras"], case["width"], case["height"]
    scene = head_like(case["n"], C, W, H, case["degree"], case["seed"])
    if case["raw"]:
        scene = scene | {"scales": scene["scales"].log(), "opacities": scene["opacities"].logit()}
    g = torch.Generator().manual_seed(5)
    backgrounds, v_color = torch.rand(C, 3, generator=g), torch.randn(C, H, W, 3, generator=g)
    v_alpha, v_depth = torch.randn(C, H, W, generator=g), torch.randn(C, H, W, generator=g)

    exact = {k: v.double().requires_grad_(k not in ("viewmats", "Ks")) for k, v in scene.items()}
    active = dict(exact)
    if case["raw"]:
        active |= {"scales": exact["scales"].exp(), "opacities": exact["opacities"].sigmoid()}
    p = reference.project(*active.values(), W, H, antialiased=case["antialiased"])
    p[0].retain_grad()
    color, alpha, depth, contributions, margin = reference.rasterize(*p, W, H, backgrounds.double())
    sure = margin > 1e-4  # where rounding decides whether a contribution counts, both answers are right
    v_color, v_alpha, v_depth = v_color * sure[..., None], v_alpha * sure, v_depth * sure
    loss = (color * v_color).sum() + (alpha[..., 0] * v_alpha).sum()
    if case["depth"]:
        loss = loss + (depth[..., 0] * v_depth).sum()
    loss.backward()

    call = SplatCall(
        library, dict(zip(scene, to(device, *scene.values()), strict=True)), W, H, backgrounds=to(device, backgrounds)[0],
        antialiased=case["antialiased"], log_scales=case["raw"], logit_opacities=case["raw"], depth=case["depth"],
    ).forward()  # fmt: skip
    call.verify()
    counters = call.counters.tolist()
    assert counters[1] == 0 and counters[0] > 0 and counters[2] == int((p[5] > 0).all(-1).sum())
    assert float(((call.color.cpu() - color) * sure[..., None]).abs().max().detach()) <= 1e-5
    assert float(((call.alpha.cpu() - alpha[..., 0]) * sure).abs().max().detach()) <= 1e-5
    if case["depth"]:
        assert float(((call.depth.cpu() - depth[..., 0]) * sure).abs().max().detach()) <= 1e-5 * 2
    close(call.contributions, contributions, 1e-4, "contributions")
    assert int((call.radii.cpu() != p[5]).sum()) <= 2  # rounding up

    out = call.backward(*to(device, v_color, v_alpha, v_depth if case["depth"] else None))
    call.verify()
    for key in ("means", "quats", "scales", "opacities", "sh"):
        close(out[key], exact[key].grad, 1e-4, key)
    seen = (p[5] > 0).all(-1)
    norm = (p[0].grad * torch.tensor([W / 2, H / 2])).norm(dim=-1)
    close(out["grad_norm"], (norm * seen).sum(0), 1e-4, "grad_norm")
    close(out["count"], seen.sum(0), 0, "count")
    close(out["max_radius"], p[5].amax((0, 2)), 1e-2, "max_radius")


def test_more_gaussians_in_a_tile_than_shared_memory_sorts(backend):
    library, device = backend
    n = 9500  # three pieces, the last one short
    scene = head_like(n, 1, 16, 16, 0, 4)
    scene["scales"] = scene["scales"] * 0.3
    scene["opacities"] = torch.full((n,), 0.02)
    p = reference.project(*(v.double() for v in scene.values()), 16, 16)
    color, alpha, _, _, margin = reference.rasterize(*p, 16, 16)
    call = SplatCall(library, dict(zip(scene, to(device, *scene.values()), strict=True)), 16, 16).forward()
    call.verify()
    assert call.counters[0] > 2 * 4096
    assert float(((call.color.cpu() - color) * (margin > 1e-4)[..., None]).abs().max().detach()) <= 1e-5


def test_ties_in_depth_are_broken_by_index(backend):
    library, device = backend
    scene = head_like(64, 1, 16, 16, 0)
    scene["means"] = torch.zeros(64, 3)
    scene["scales"] = torch.full((64, 3), 0.02)
    for colors in (scene["sh"], scene["sh"].flip(0).contiguous()):
        scene = scene | {"sh": colors}
        color = reference.rasterize(*reference.project(*(v.double() for v in scene.values()), 16, 16), 16, 16)[0]
        call = SplatCall(library, dict(zip(scene, to(device, *scene.values()), strict=True)), 16, 16).forward()
        assert float((call.color.cpu() - color).abs().max().detach()) <= 1e-5


def test_overflow_is_flagged_and_harmless(backend):
    library, device = backend
    scene = dict(zip((s := head_like(400, 2, 40, 40)), to(device, *s.values()), strict=True))
    full = SplatCall(library, scene, 40, 40).forward()
    needed = int(full.counters[0])
    small = SplatCall(library, scene, 40, 40, capacity=needed // 3).forward()
    small.verify()
    assert small.counters.tolist()[:2] == [needed, 1]
    assert bool(small.color.isfinite().all())
    gradients = small.backward(torch.ones_like(small.color), None, None)
    small.verify()
    assert all(bool(v.isfinite().all()) for v in gradients.values())
    exact = SplatCall(library, scene, 40, 40, capacity=needed).forward()
    assert exact.counters.tolist()[:2] == [needed, 0]
    assert torch.equal(exact.color, full.color)


@pytest.mark.parametrize("size", [(1, 1), (300, 3), (3, 70), (330, 270)])
def test_odd_images_and_huge_gaussians(backend, size):
    library, device = backend
    W, H = size
    scene = head_like(40, 1, W, H, 1, 6)
    scene["scales"][:5] = 30.0  # covers everything: shared out among the lanes of a warp
    scene["scales"][5:8] = 1e-8
    p = reference.project(*(v.double() for v in scene.values()), W, H)
    color, alpha, _, _, margin = reference.rasterize(*p, W, H)
    call = SplatCall(library, dict(zip(scene, to(device, *scene.values()), strict=True)), W, H).forward()
    call.verify()
    assert float(((call.color.cpu() - color) * (margin > 1e-4)[..., None]).abs().max()) <= 2e-5


def test_poison_is_dropped(backend):
    library, device = backend
    scene = head_like(60, 1, 32, 32)
    clean = head_like(60, 1, 32, 32)
    scene["means"][0, 1] = torch.nan
    scene["means"][1, 0] = torch.inf
    scene["quats"][2] = 0
    scene["scales"][3, 2] = torch.nan
    scene["opacities"][4] = torch.nan
    scene["sh"][5, 3, 1] = torch.nan
    scene["means"][6, 2] = -5.0  # behind the camera
    scene["opacities"][7] = 0.0
    scene["scales"][8] = 1e30
    scene["sh"][9, 0, 2] = 1e33  # finite, but no image could hold it
    keep = slice(10, None)
    call = SplatCall(library, dict(zip(scene, to(device, *scene.values()), strict=True)), 32, 32).forward()
    assert bool((call.radii[:, :10] == 0).all()) and bool(call.color.isfinite().all())
    rest = {k: v if k in ("viewmats", "Ks") else v[keep].contiguous() for k, v in clean.items()}
    expected = SplatCall(library, dict(zip(rest, to(device, *rest.values()), strict=True)), 32, 32).forward()
    assert torch.equal(call.color, expected.color)
    gradients = call.backward(torch.ones_like(call.color))
    assert all(bool(v.isfinite().all()) for v in gradients.values())
    assert all(bool((gradients[k][:10] == 0).all()) for k in ("means", "quats", "scales", "opacities", "sh"))


def test_nothing_to_draw(backend):
    library, device = backend
    scene = {k: v if k in ("viewmats", "Ks") else v[:0].contiguous() for k, v in head_like(4, 2, 20, 20).items()}
    backgrounds = torch.rand(2, 3)
    scene = dict(zip(scene, to(device, *scene.values()), strict=True))
    call = SplatCall(library, scene, 20, 20, backgrounds=to(device, backgrounds)[0]).forward()
    assert torch.equal(call.color.cpu(), backgrounds[:, None, None].expand(2, 20, 20, 3))
    assert call.counters.tolist() == [0, 0, 0, 0] and float(call.alpha.abs().max()) == 0
    assert all(v.shape[0] == 0 for v in call.backward(torch.ones_like(call.color)).values())


def projected_struct(tensors: list[Tensor]) -> abi.AvProjected:
    return abi.AvProjected(*(pointer(t) for t in tensors))


def test_project_and_rasterize_apart(backend):
    library, device = backend
    C, N, W, H, K = 2, 200, 40, 30, 9
    scene = head_like(N, C, W, H, 2, 7)
    names = ("means", "quats", "scales", "opacities", "sh")
    exact = {k: v.double().requires_grad_(k in names) for k, v in scene.items()}
    p = reference.project(*exact.values(), W, H)
    shapes = [(C, N, 2), (C, N, 3), (C, N), (C, N, 3), (C, N)]
    on_device = dict(zip(scene, to(device, *scene.values()), strict=True))
    out = [torch.full(s, torch.nan, device=device) for s in shapes]
    radii = torch.full((C, N, 2), -1, dtype=torch.int32, device=device)
    av_scene = abi.AvScene(N, C, W, H, K, 2, 0, 0.01, 0.3, 0.0, *(pointer(t) for t in on_device.values()), None)
    launch, struct = launch_of(device), projected_struct([*out, radii])
    check(library, library.av_project_forward(abi.AvProject(launch, av_scene, struct)))
    for actual, expected, what in zip(out, p, ("means2d", "conics", "depths", "colors", "opacities"), strict=False):
        close(actual, expected, 1e-6, what)
    assert int((radii.cpu() != p[5]).sum()) <= 2

    g = torch.Generator().manual_seed(1)
    v_out = [torch.randn(s, generator=g) for s in shapes]
    sum((a * v).sum() for a, v in zip(p, v_out, strict=False)).backward()
    v_device = to(device, *v_out)
    grads = [torch.full_like(on_device[k], torch.nan) for k in names]
    args = abi.AvProjectBackward(launch, av_scene, struct, projected_struct([*v_device, radii]), *(pointer(t) for t in grads))
    check(library, library.av_project_backward(args))
    for k, grad in zip(names, grads, strict=True):
        close(grad, exact[k].grad, 1e-4, k)

    # the rasteriser from the same float32 projection that the reference gets
    leaves = [t.detach().cpu().double().requires_grad_() for t in out]
    color, alpha, depth, contributions, margin = reference.rasterize(*leaves, radii.cpu(), W, H)
    sure = margin > 1e-4
    v_color = torch.randn(C, H, W, 3, generator=g) * sure[..., None]
    v_alpha, v_depth = torch.randn(C, H, W, generator=g) * sure, torch.randn(C, H, W, generator=g) * sure
    ((color * v_color).sum() + (alpha[..., 0] * v_alpha).sum() + (depth[..., 0] * v_depth).sum()).backward()
    capacity = 1 << 14
    saved_size, scratch_size = ctypes.c_int64(), ctypes.c_int64()
    check(library, library.av_splat_sizes(av_scene, capacity, 1, saved_size, scratch_size))
    saved, scratch = Workspace(saved_size.value, device), Workspace(scratch_size.value, device)
    image = [torch.full(s, torch.nan, device=device) for s in ((C, H, W, 3), (C, H, W), (C, H, W), (N,))]
    counters = torch.zeros(4, dtype=torch.int32, device=device)
    spaces = (saved.bytes.data_ptr(), saved.size, scratch.bytes.data_ptr(), scratch.size)
    args = abi.AvRasterize(launch, N, C, W, H, capacity, struct, None, *(pointer(t) for t in image), pointer(counters), *spaces)
    check(library, library.av_rasterize_forward(args))
    for actual, expected in zip(image, (color, alpha[..., 0], depth[..., 0]), strict=False):
        mask = sure[..., None] if actual.dim() == 4 else sure
        assert float(((actual.cpu() - expected) * mask).abs().max().detach()) <= 1e-5
    close(image[3], contributions, 1e-4, "contributions")
    v_in = [torch.full(s, torch.nan, device=device) for s in shapes]
    v_image = to(device, v_color, v_alpha, v_depth)
    args = abi.AvRasterizeBackward(
        launch, N, C, W, H, capacity, struct, projected_struct([*v_in, radii]), None, *(pointer(t) for t in image[:3]),
        *(pointer(t) for t in v_image), *spaces,
    )  # fmt: skip
    check(library, library.av_rasterize_backward(args))
    saved.verify(), scratch.verify()
    for actual, leaf, what in zip(v_in, leaves, ("means2d", "conics", "depths", "colors", "opacities"), strict=True):
        close(actual, leaf.grad, 1e-4, what)


@pytest.mark.parametrize(
    "crop,weighted,shape", [(0, False, (2, 37, 70)), (5, True, (2, 37, 70)), (0, True, (1, 3, 5)), (0, False, (1, 64, 65))]
)
def test_ssim_matches_the_reference(backend, crop, weighted, shape):
    library, device = backend
    B, H, W = shape
    g = torch.Generator().manual_seed(0)
    a, alpha, mattes = torch.rand(*shape, 3, generator=g), torch.rand(shape, generator=g), torch.rand(shape, generator=g)
    b = (a + 0.2 * torch.randn(*shape, 3, generator=g)).clamp(0, 1)
    weights = torch.rand(shape, generator=g) if weighted else None
    exact, exact_alpha = a.double().requires_grad_(), alpha.double().requires_grad_()
    wide = None if weights is None else weights.double()
    l1, ssim = reference.l1_and_ssim(exact, b.double(), wide, crop)
    inside = (slice(None), slice(crop, H - crop), slice(crop, W - crop))
    total = torch.ones(B) if wide is None else wide[inside].mean((1, 2))
    loss = 0.3 * l1 + 1.4 * (total - ssim) + 0.6 * (exact_alpha - mattes.double()).abs().mean((1, 2))
    loss.sum().backward()

    a, b, weights, alpha, mattes = to(device, a, b, weights, alpha, mattes)
    v_a, v_alpha, found = torch.full_like(a, torch.nan), torch.full_like(alpha, torch.nan), []
    expected = torch.stack([l1, ssim, loss]).detach()
    for gradients in ((v_a, v_alpha), (None, None)):
        figures = torch.full((3, B), torch.nan, device=device)
        scratch = Workspace(library.av_ssim_scratch(B, H, W, 1, gradients[0] is not None), device)
        check(library, library.av_ssim(abi.AvSsim(
            launch_of(device), B, H, W, crop, 0.3, 1.4, 0.6, pointer(a), pointer(b), pointer(weights), pointer(alpha), pointer(mattes),
            *(pointer(f) for f in figures), *(pointer(v) for v in gradients), scratch.bytes.data_ptr(), scratch.size,
        )))  # fmt: skip
        scratch.verify()
        close(figures, expected, 1e-5, "figures")
        found.append(figures)
    assert torch.equal(*found)
    close(v_a, exact.grad, 1e-4, "v_a"), close(v_alpha, exact_alpha.grad, 1e-5, "v_alpha")


@pytest.mark.parametrize("sparse", [False, True])
def test_adam_matches_the_reference(backend, sparse):
    library, device = backend
    g = torch.Generator().manual_seed(0)
    rows = torch.tensor([0, 5, 3, 40], dtype=torch.int64)
    tensors, expected, keep = [], [], []
    for shape, head in (((41, 3), 3), ((50, 48), 3), ((70,), 1), ((41, 3), 3)):
        p, m, grad = (torch.randn(shape, generator=g) for _ in range(3))
        v = torch.rand(shape, generator=g)
        columns = p[0].numel()
        exact = [t.double().clone() for t in (p, m, v)]
        rates = torch.full((columns,), 5e-4, dtype=torch.float64)
        rates[:head] = 1e-2
        index = rows if sparse else slice(None)
        part = [t[index] for t in exact]
        reference.adam(part[0], grad.double()[index], part[1], part[2], rates.reshape(p.shape[1:]), 7, 0.9, 0.999, 1e-15)
        if sparse:
            for whole, piece in zip(exact, part, strict=True):
                whole[index] = piece
        expected.append(exact)
        moving = to(device, p, m, v, grad[index])
        ids = rows.to(device)
        keep.append((moving, ids))
        tensors.append(
            abi.AvAdamTensor(pointer(moving[0]), pointer(moving[3]), pointer(moving[1]), pointer(moving[2]), len(p), columns, head,
                             pointer(ids) if sparse else None, len(rows) if sparse else 0, 1e-2, 5e-4)
        )  # fmt: skip
    array = (abi.AvAdamTensor * len(tensors))(*tensors)
    step = torch.full((), 7.0, device=device)
    given = {"step": 7.0, "step_ptr": None} if sparse else {"step": 0.0, "step_ptr": pointer(step)}
    args = abi.AvAdam(launch_of(device), array, len(tensors), 0.9, 0.999, 1e-15, **given)
    check(library, library.av_adam(args))
    for (moving, _), exact in zip(keep, expected, strict=True):
        for actual, right in zip(moving[:3], exact, strict=True):
            close(actual, right, 1e-6, "adam")


@pytest.mark.parametrize("sparse", [False, True])
def test_adam_keeps_halves_of_moments_as_the_reference_does(backend, sparse):
    library, device = backend
    g = torch.Generator().manual_seed(1)
    rows = torch.tensor([3, 20, 7], dtype=torch.int64) if sparse else None
    p, m, v, grad = (
        torch.randn(21, 20, generator=g),
        torch.randn(21, 20, generator=g),
        torch.rand(21, 20, generator=g),
        torch.randn(21, 20, generator=g),
    )
    # an even number of columns: the emulation looks for races by four bytes
    moments = [m.bfloat16().to(device), v.bfloat16().to(device)]
    twin = ops.Adam({"p": p.clone()}, {"p": 1e-2}, halves=("p",))
    twin.m["p"].copy_(moments[0]), twin.v["p"].copy_(moments[1])
    twin.step_count, twin.params["p"].grad = 41, grad
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setenv("AVATARS_KERNELS", "reference")
        twin.step(rows)
    moving, ids = to(device, p, grad), None if rows is None else rows.to(device)
    tensor = abi.AvAdamTensor(
        pointer(moving[0]), pointer(moving[1]), *(pointer(t) for t in moments), 21, 20, 20, pointer(ids), 0 if rows is None else len(rows),
        1e-2, 1e-2, None, 0, abi.HALF_MOMENTS | abi.WHOLE_GRAD,
    )  # fmt: skip
    array = (abi.AvAdamTensor * 1)(tensor)
    check(library, library.av_adam(abi.AvAdam(launch_of(device), array, 1, 0.9, 0.999, 1e-15, 42.0, None)))
    close(moving[0], twin.params["p"], 1e-5, "p")
    for mine, theirs in zip(moments, (twin.m["p"], twin.v["p"]), strict=True):  # a sum that rounds differently may end a unit apart
        assert (mine.cpu() == theirs).float().mean() > 0.97
        close(mine, theirs.float(), 2e-3, "moment")


@pytest.mark.parametrize("halves", [False, True])
@pytest.mark.parametrize("K", [1, 5, 12])
def test_adam_takes_the_factors_of_a_gradient_as_the_gradient(backend, K, halves):
    library, device = backend
    g = torch.Generator().manual_seed(2)
    rows, columns = 31, 10 * K  # K = 5: quadruples of elements lie across rows of the factor
    start = [torch.randn(rows, columns, generator=g), torch.randn(rows, columns, generator=g), torch.rand(rows, columns, generator=g)]
    d, factor = to(device, torch.randn(rows, 10, generator=g), torch.randn(K, generator=g))
    ends = []
    for whole in (True, False):
        p, m, v = (t.to(device).clone() for t in start)
        if halves:
            m, v = m.bfloat16(), v.bfloat16()
        grad = (d[..., None] * factor).reshape(rows, columns).contiguous() if whole else d
        tensor = abi.AvAdamTensor(
            pointer(p), pointer(grad), pointer(m), pointer(v), rows, columns, 3 * K, None, 0, 1e-2, 1e-3, None if whole else pointer(factor),
            K, abi.HALF_MOMENTS * halves,
        )  # fmt: skip
        check(library, library.av_adam(abi.AvAdam(launch_of(device), (abi.AvAdamTensor * 1)(tensor), 1, 0.9, 0.999, 1e-15, 3.0, None)))
        ends.append((p, m, v))
    for one, other, before in zip(*ends, start, strict=True):
        assert torch.equal(one, other) and not torch.equal(one.cpu().float(), before)


def test_adam_refuses_factors_that_do_not_fit(backend):
    library, device = backend
    p, m, v, d, factor = (torch.zeros(n, device=device) for n in (40, 40, 40, 20, 3))
    for size in (0, 3, 65):
        tensor = abi.AvAdamTensor(*(pointer(t) for t in (p, d, m, v)), 4, 10, 10, None, 0, 1e-2, 1e-2, pointer(factor), size, 0)
        status = library.av_adam(abi.AvAdam(launch_of(device), (abi.AvAdamTensor * 1)(tensor), 1, 0.9, 0.999, 1e-15, 3.0, None))
        assert status == abi.INVALID and b"factored gradient" in library.av_error()


@pytest.mark.parametrize("log_scales", [False, True])
def test_bind_matches_the_reference(backend, log_scales):
    library, device = backend
    g = torch.Generator().manual_seed(3)
    V, F, N = 20, 30, 100
    vertices = torch.randn(V, 3, generator=g)
    faces = torch.stack([torch.randperm(V, generator=g)[:3] for _ in range(F)])
    ids = torch.randint(0, F, (N,), generator=g)
    local = [torch.randn(N, 3, generator=g), torch.randn(N, 4, generator=g), torch.rand(N, 3, generator=g) - 1.5 * log_scales]
    exact = [t.double().requires_grad_() for t in (vertices, *local)]
    results = reference.bind(exact[0], faces, ids, *exact[1:], log_scales)
    v = [torch.randn(t.shape, generator=g) for t in results]
    sum((a * b).sum() for a, b in zip(results, v, strict=True)).backward()

    inputs, v = to(device, vertices, *local), to(device, *v)
    faces, ids = faces.to(device), ids.to(device)
    out = [torch.full((N, k), torch.nan, device=device) for k in (3, 4, 3)]
    call = abi.AvBind(launch_of(device), V, F, N, abi.LOG_SCALES * log_scales, 0, pointer(inputs[0]), pointer(faces), pointer(ids),
                      *(pointer(t) for t in inputs[1:]), *(pointer(t) for t in out))  # fmt: skip
    check(library, library.av_bind_forward(call))
    for actual, right in zip(out, results, strict=True):
        close(actual, right, 1e-5, "bind")
    grads = [torch.full_like(t, torch.nan) for t in inputs]
    scratch = Workspace(library.av_bind_scratch(V, F, N), device)
    args = abi.AvBindBackward(call, *(pointer(t) for t in v), *(pointer(t) for t in grads), scratch.bytes.data_ptr(), scratch.size)
    check(library, library.av_bind_backward(args))
    scratch.verify()
    for actual, leaf, what in zip(grads, exact, ("vertices", "means", "quats", "scales"), strict=True):
        close(actual, leaf.grad, 1e-4, what)


def test_indices_that_point_nowhere_touch_nothing(backend):
    """The host cannot look at device indices without waiting, so the kernels guard themselves."""
    library, device = backend
    vertices, faces = torch.rand(4, 3), torch.tensor([[0, 1, 2], [1, 2, 9]])
    ids = torch.tensor([0, 1, 7, -1])
    inputs = to(device, vertices, torch.rand(4, 3), torch.rand(4, 4), torch.rand(4, 3))
    faces, ids = faces.to(device), ids.to(device)
    out = [torch.zeros(4, k, device=device) for k in (3, 4, 3)]
    call = abi.AvBind(launch_of(device), 4, 2, 4, 0, 0, pointer(inputs[0]), pointer(faces), pointer(ids),
                      *(pointer(t) for t in inputs[1:]), *(pointer(t) for t in out))  # fmt: skip
    check(library, library.av_bind_forward(call))
    assert bool(out[0][0].isfinite().all()) and bool(out[0][1:].isnan().all())
    grads = [torch.full_like(t, torch.nan) for t in inputs]
    v = [torch.ones_like(t) for t in out]
    args = abi.AvBindBackward(call, *(pointer(t) for t in v), *(pointer(t) for t in grads), None, 0)
    check(library, library.av_bind_backward(args))
    assert all(bool(t.isfinite().all()) for t in grads) and float(grads[1][1:].abs().max()) == 0


@pytest.mark.parametrize("cull_back", [False, True])
def test_mesh_matches_the_reference(backend, cull_back):
    library, device = backend
    g = torch.Generator().manual_seed(0)
    C, V, F, W, H = 2, 30, 25, 40, 28
    vertices = torch.randn(C, V, 3, generator=g) * torch.tensor([0.3, 0.3, 0.4]) + torch.tensor([0.0, 0.0, 0.8])
    faces = torch.stack([torch.randperm(V, generator=g)[:3] for _ in range(F)])
    Ks = torch.tensor([[30.0, 0, 21], [0, 31, 13], [0, 0, 1]]).repeat(C, 1, 1)
    right = reference.rasterize_mesh(vertices.double(), faces, Ks.double(), W, H, 0.01, cull_back)
    vertices, Ks = to(device, vertices, Ks)
    faces = faces.to(device)
    ids = torch.full((C, H, W), -7, dtype=torch.int32, device=device)
    barycentrics = torch.full((C, H, W, 3), torch.nan, device=device)
    depth = torch.full((C, H, W), torch.nan, device=device)
    scratch = Workspace(library.av_mesh_scratch(C, V, F, W, H), device)
    args = abi.AvMesh(launch_of(device), C, V, F, W, H, 0.01, int(cull_back), pointer(vertices), pointer(faces), pointer(Ks),
                      pointer(ids), pointer(barycentrics), pointer(depth), scratch.bytes.data_ptr(), scratch.size)  # fmt: skip
    check(library, library.av_mesh_rasterize(args))
    scratch.verify()
    assert torch.equal(ids.cpu(), right[0])
    close(barycentrics, right[1], 1e-5, "barycentrics")
    close(depth, right[2], 1e-6, "depth")


def _along_rays(n: int, generator: torch.Generator) -> Tensor:
    """Positions [n, 3] of which neighbours often share a cell; the first ones on and beyond the cube's faces."""
    steps = 0.02 * torch.rand(n, 3, generator=generator)
    positions = (torch.rand(-(-n // 50), 1, 3, generator=generator) + steps.unflatten(0, (-1, 50)).cumsum(1)).flatten(0, 1)
    positions[0] = torch.tensor([-0.5, 2.0, 0.3])
    positions[1:3] = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    return positions


# positions along rays: at the coarse levels runs of lanes share a cell; at random: none do
@pytest.mark.parametrize(
    "features,heads,along",
    [(1, 0, True), (2, 0, True), (2, 0, False), (8, 0, True), (1, 3, True), (2, 8, True), (2, 20, False), (8, 5, True)],
)
def test_hash_grid_matches_the_reference(backend, features, heads, along, monkeypatch):
    library, device = backend
    monkeypatch.setattr(native, "pick", lambda *_: library)
    grid = hash_grid.HashGrid.build(levels=6, features=features, log2_size=9, base=4, growth=1.7)
    assert grid.resolutions[0] ** 3 < 512 < grid.resolutions[-1] ** 3  # dense and hashed levels
    g = torch.Generator().manual_seed(features)
    n = 300 if not heads else 100
    positions = _along_rays(n, g) if along else torch.rand(n, 3, generator=g)
    if heads:
        inputs = [positions, torch.randn(grid.rows, heads, features, generator=g), torch.randn(n, heads, generator=g)]
        encode, exactly = hash_grid.hash_encode_blended, hash_grid._reference_blended
    else:
        inputs = [positions, torch.randn(grid.rows, features, generator=g)]
        encode, exactly = hash_grid.hash_encode, hash_grid._reference
    v_out = torch.randn(n, grid.channels, generator=g)
    v_out[40:80] = 0  # a whole warp without anything to add
    exact = [t.double().requires_grad_() for t in inputs]
    expected = exactly(grid, *exact)
    expected.backward(v_out.double())
    leaves = [t.detach().requires_grad_() for t in to(device, *inputs)]
    out = encode(grid, *leaves)
    out.backward(v_out.to(device))
    close(out, expected, 1e-5, "features")
    for leaf, right, what in zip(leaves, exact, ("positions", "table", "weights"), strict=False):
        close(leaf.grad, right.grad, 1e-4, what)


@pytest.mark.parametrize("heads,features", [(1, 1), (5, 2), (40, 8)])
def test_blended_tables_match_the_reference(backend, heads, features, monkeypatch):
    library, device = backend
    monkeypatch.setattr(native, "pick", lambda *_: library)
    g = torch.Generator().manual_seed(heads)
    inputs = torch.randn(2100, heads, features, generator=g), torch.randn(heads, generator=g)
    v_out = torch.randn(2100, features, generator=g)
    exact = [t.double().requires_grad_() for t in inputs]
    expected = hash_grid._reference_tables(*exact)
    expected.backward(v_out.double())
    leaves = [t.detach().requires_grad_() for t in to(device, *inputs)]
    out = hash_grid.blend_tables(*leaves)
    out.backward(v_out.to(device))
    close(out, expected, 1e-6, "table")
    for leaf, right, what in zip(leaves, exact, ("tables", "weights"), strict=True):
        close(leaf.grad, right.grad, 1e-5, what)


@pytest.mark.parametrize("K,bases,with_size", [(5, 1, False), (64, 16, True)])
def test_blend_matches_the_reference(backend, K, bases, with_size, monkeypatch):
    library, device = backend
    monkeypatch.setattr(native, "pick", lambda *_: library)
    N = 1100  # two blocks of partial sums
    g = torch.Generator().manual_seed(K)
    shapes = ((N, 10, K), (K,), (N, 3), (N, 4), (N, bases, 3))
    inputs = [torch.randn(s, generator=g) for s in shapes]
    v = [torch.randn(s, generator=g) for s in (*shapes[2:], *([()] if with_size else []))]
    exact = [t.double().requires_grad_() for t in inputs]
    expected = reference.blend(*exact, with_size)
    sum((a * b).sum() for a, b in zip(expected, v, strict=True)).backward()
    leaves = [t.requires_grad_() for t in to(device, *inputs)]
    out = ops.blend(*leaves, with_size=with_size)
    sum((a * b.to(device)).sum() for a, b in zip(out, v, strict=True)).backward()
    for a, b in zip(out, expected, strict=True):
        close(a, b, 1e-6, "blend")
    for a, b, what in zip(leaves, exact, ("basis", "weights", "means", "quats", "sh"), strict=True):
        close(a.grad, b.grad, 1e-5, what)


def test_penalty_matches_the_reference(backend, monkeypatch):
    library, device = backend
    monkeypatch.setattr(native, "pick", lambda *_: library)
    g = torch.Generator().manual_seed(0)
    inputs = [torch.randn(1500, 3, generator=g), torch.randn(1500, 3, generator=g) - 0.5, torch.randn(1500, generator=g)]
    reach = 2 * torch.rand(1500, generator=g)
    weights, limit = (0.3, 0.7, 0.2), 0.6
    exact = [t.double().requires_grad_() for t in inputs]
    expected = reference.penalty(*exact, reach.double(), weights, limit)
    (2 * expected).backward()
    leaves = [t.requires_grad_() for t in to(device, *inputs)]
    names = ("position_weight", "scale_weight", "opacity_weight")
    loss = ops.penalty(*leaves, reach.to(device), **dict(zip(names, weights, strict=True)), max_scale=limit)
    (2 * loss).backward()
    close(loss, expected, 1e-6, "penalty")
    for a, b in zip(leaves, exact, strict=True):
        close(a.grad, b.grad, 1e-5, "gradient")


@pytest.mark.parametrize("posed", [False, True])
def test_skin_matches_the_reference(backend, posed, monkeypatch):
    library, device = backend
    monkeypatch.setattr(native, "pick", lambda *_: library)
    g = torch.Generator().manual_seed(4)
    B, V, E, J = 2, 150, 6, 4

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g)

    shapes = 0.1 * normal(E, V, 3) * (normal(E, V, 1) > 0.5)
    weights = torch.softmax(2 * normal(V, J + 1), 1)
    weights[::2] = torch.nn.functional.one_hot(torch.arange(V)[::2] % (J + 1), J + 1).float()
    tensors = [normal(V, 3), normal(J, 3), shapes, 0.3 * normal(E, J, 3), weights]
    pose_shapes = 0.1 * normal(9 * J, V, 3) if posed else None
    pose = [normal(B, E), normal(B, J, 3), normal(B, 3), normal(B, 3)]
    v = normal(B, V, 3)
    exact = [t.double().requires_grad_() for t in pose]
    expected = reference.skin(ops.Rig(*tensors, (-1, 0, 0, 2), 1.2, pose_shapes), *exact)
    (expected * v).sum().backward()
    rig = ops.Rig(*to(device, *tensors), (-1, 0, 0, 2), 1.2, to(device, pose_shapes)[0])
    leaves = [t.requires_grad_() for t in to(device, *pose)]
    vertices = ops.skin(rig, *leaves)
    (vertices * v.to(device)).sum().backward()
    close(vertices, expected, 1e-6, "vertices")
    for a, b, what in zip(leaves, exact, ("expression", "angles", "rotation", "translation"), strict=True):
        close(a.grad, b.grad, 1e-5, what)


def test_pictures_and_windows_match_the_reference(backend, monkeypatch):
    library, device = backend
    monkeypatch.setattr(native, "pick", lambda *_: library)
    g = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (2, 19, 23, 4), generator=g, dtype=torch.uint8)
    matrices, backgrounds = torch.randn(2, 3, 4, generator=g), torch.rand(2, 3, generator=g)
    windows = torch.tensor([[[0.3, 0.2, 0.4, 0.6, 2], [0.5, -0.3, 0.9, 0.8, 0.7]], [[50, 0.5, 0.3, 0.3, 1], [torch.nan, 2, 9, 0.4, 1.5]]])
    Ks = torch.tensor([[20.0, 1, 7], [0, 18, 8], [0, 0, 1]]).repeat(2, 1, 1)
    for halve in (False, True):
        made = ops.compose(images.to(device), *to(device, matrices, backgrounds), windows=windows.to(device), Ks=Ks.to(device), halve=halve)
        expected = reference.compose(images, matrices.double(), backgrounds.double(), windows.double(), Ks.double(), halve)
        for a, b, what in zip(made, expected, ("pictures", "mattes", "weights"), strict=True):
            close(a, b, 1e-6, what)
