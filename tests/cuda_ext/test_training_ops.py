"""bind, ssim, l1_ssim, Adam and rasterize_mesh: native against the float64 reference, laws, edge cases."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cuda_ext import native, ops, reference


def relative(a: Tensor, b: Tensor) -> float:
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).norm() / (b.norm() + 1e-12))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def mesh(V: int = 40, F: int = 60) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    faces = torch.stack([torch.randperm(V, generator=generator)[:3] for _ in range(F)])
    return random(V, 3, seed=1), faces


@pytest.mark.parametrize("log_scales", [False, True])
@pytest.mark.parametrize("n", [0, 1, 37, 600])
def test_bind_matches_the_reference(n, log_scales):
    vertices, faces = mesh()
    face_ids = torch.randint(len(faces), (n,), generator=torch.Generator().manual_seed(2))
    results = []
    for dtype in (torch.float32, torch.float64):
        leaves = [t.to(dtype).requires_grad_() for t in (vertices.clone(), random(n, 3), random(n, 4), random(n, 3, seed=3))]
        out = ops.bind(leaves[0], faces, face_ids, *leaves[1:], log_scales=log_scales)
        sum((o * random(*o.shape, seed=4).to(dtype)).sum() for o in out).backward()
        results.append([*out, *(t.grad for t in leaves)])
    for a, b in zip(*results, strict=True):
        assert a.shape == b.shape and relative(a, b) < 1e-5


def test_bind_carries_gaussians_rigidly():
    """Turning the mesh turns the Gaussians with it; a neutral local Gaussian sits on the centroid."""
    vertices, faces = mesh()
    face_ids = torch.arange(len(faces))
    local = random(60, 3), random(60, 4), random(60, 3).exp()
    quat = torch.nn.functional.normalize(torch.tensor([0.3, -0.5, 0.2, 0.7]), dim=0)
    R = reference.quats_to_matrices(quat)
    means, quats, scales = ops.bind(vertices, faces, face_ids, *local)
    turned_means, turned_quats, turned_scales = ops.bind(vertices @ R.T + 1, faces, face_ids, *local)
    assert torch.allclose(turned_means, means @ R.T + 1, atol=1e-4)
    assert torch.allclose(turned_scales, scales, rtol=1e-4)
    matrices = reference.quats_to_matrices(turned_quats)
    assert torch.allclose(matrices, R @ reference.quats_to_matrices(quats), atol=1e-4)
    centre = ops.bind(vertices, faces, face_ids, torch.zeros(60, 3), *local[1:])[0]
    assert torch.allclose(centre, vertices[faces].mean(1), atol=1e-6)


def test_bind_survives_degenerate_triangles():
    vertices = torch.zeros(3, 3, requires_grad=True)
    local = [random(4, k).requires_grad_() for k in (3, 4, 3)]
    out = ops.bind(vertices, torch.tensor([[0, 1, 2]]), torch.zeros(4, dtype=torch.int64), *local)
    sum(o.sum() for o in out).backward()
    assert all(t.isfinite().all() for t in (*out, vertices.grad, *(t.grad for t in local)))


def test_bind_refuses_indices_out_of_range():
    vertices, faces = mesh()
    local = random(1, 3), random(1, 4), random(1, 3)
    with pytest.raises(RuntimeError, match="face_ids must index the faces"):
        ops.bind(vertices, faces, torch.tensor([60]), *local)
    with pytest.raises(RuntimeError, match="faces must index the vertices"):
        ops.bind(vertices[:5], faces, torch.tensor([0]), *local)


@pytest.mark.parametrize("shape", [(2, 47, 53), (1, 11, 11), (1, 1, 1), (1, 3, 200), (1, 140, 12)])
@pytest.mark.parametrize("weighted", [False, True])
def test_l1_ssim_matches_the_reference(shape, weighted):
    a = torch.rand(*shape, 3, generator=torch.Generator().manual_seed(0))
    b = (a + 0.2 * random(*shape, 3)).clamp(0, 1)
    weights = torch.rand(shape, generator=torch.Generator().manual_seed(1)) if weighted else None
    for valid in (False, True):
        if valid and min(shape[1:]) <= 10:
            with pytest.raises(ValueError, match="larger than 10"):
                ops.l1_ssim(a, b, valid=True)
            continue
        results = []
        for dtype in (torch.float32, torch.float64):
            x = a.detach().to(dtype).clone().requires_grad_()
            w = None if weights is None else weights.to(dtype)
            loss = ops.l1_ssim(x, b.to(dtype), ssim_weight=0.3, weights=w, valid=valid)
            (loss * torch.arange(1, shape[0] + 1)).sum().backward()
            results.append((loss, x.grad))
        assert relative(results[0][0], results[1][0]) < 1e-5
        assert relative(results[0][1], results[1][1]) < 1e-4


@pytest.mark.parametrize("with_size", [False, True])
@pytest.mark.parametrize("K,bases", [(1, 4), (12, 1), (16, 9), (20, 16), (40, 4), (64, 4)])
def test_blend_matches_the_reference(K, bases, with_size):
    results = []
    for dtype in (torch.float32, torch.float64):
        shapes = ((1100, 10, K), (K,), (1100, 3), (1100, 4), (1100, bases, 3))
        leaves = [random(*s, seed=i).to(dtype).requires_grad_() for i, s in enumerate(shapes)]
        out = ops.blend(*leaves, with_size=with_size)
        assert len(out) == 3 + with_size
        loss = sum((o * random(*o.shape, seed=9).to(dtype)).sum() for o in out[:3])
        (loss + 1000 * out[3] if with_size else loss).backward()
        results.append([*out, *(t.grad for t in leaves)])
    for a, b in zip(*results, strict=True):
        assert relative(a, b) < 1e-5


@pytest.mark.parametrize("K", [1, 3, 12, 20])
@pytest.mark.parametrize("calls", [1, 2])
def test_factored_gradients_move_the_basis_alike(K, calls):
    """The outer product that is never written out gives the same steps as the one that is."""
    ends = []
    for factored in ((), ("basis",)):
        basis = random(333, 10, K, seed=1).requires_grad_()
        weights = random(K, seed=2).requires_grad_()
        optimizer = ops.Adam({"basis": basis}, {"basis": 1e-2}, heads={"basis": 3 * K}, tails={"basis": 1e-3}, factored=factored)
        for step in range(3):
            for call in range(calls):
                out = ops.blend(basis, weights, random(333, 3), random(333, 4), random(333, 4, 3))
                sum((o * random(*o.shape, seed=step + 7 * call)).sum() for o in out).backward()
            if factored:
                assert basis.grad is None
            optimizer.step()
            optimizer.zero_grad()
        ends.append(basis.detach())
    assert relative(*ends) < 1e-6


def test_penalty_matches_the_reference():
    results = []
    for dtype in (torch.float32, torch.float64):
        leaves = [t.to(dtype).requires_grad_() for t in (random(1037, 3), random(1037, 3, seed=1) - 1, random(1037, seed=2))]
        loss = ops.penalty(
            *leaves, 1 + random(1037, seed=3).to(dtype).abs(), position_weight=0.3, scale_weight=2.0, opacity_weight=0.1, max_scale=0.4
        )
        (3 * loss).backward()
        results.append([loss, *(t.grad for t in leaves)])
    for a, b in zip(*results, strict=True):
        assert relative(a, b) < 1e-5


@pytest.mark.parametrize("shape", [(2, 47, 53), (1, 1, 1), (1, 3, 200), (1, 140, 12), (3, 66, 260)])
@pytest.mark.parametrize("weighted", [False, True])
def test_picture_loss_matches_the_reference(shape, weighted):
    color, alpha = torch.rand(*shape, 3, generator=torch.Generator().manual_seed(0)), random(*shape, 1).sigmoid()
    target, mattes = (color + 0.2 * random(*shape, 3)).clamp(0, 1), random(*shape, seed=2).sigmoid()
    mattes[:, ::3] = alpha[:, ::3, :, 0]
    weights = 1 + random(*shape, seed=1).abs() if weighted else None
    results = []
    for dtype in (torch.float32, torch.float64):
        x, y = (t.to(dtype).clone().requires_grad_() for t in (color, alpha))
        fixed = target.to(dtype), mattes.to(dtype)
        w = None if weights is None else weights.to(dtype)
        loss = ops.picture_loss(x, y, *fixed, ssim_weight=0.3, matte_weight=0.7, weights=w)
        (3 * loss).backward(retain_graph=True)
        once = x.grad.clone()
        loss.backward()  # scaled by one: handed on as it is, and still whole
        assert loss.shape == () and relative(3 * (x.grad - once), once) < 1e-5
        results.append([loss, x.grad, y.grad])
    for a, b in zip(*results, strict=True):
        assert relative(a, b) < 1e-5
    only = alpha.clone().requires_grad_()
    ops.picture_loss(color, only, target, mattes, ssim_weight=0.3, matte_weight=0.7, weights=weights).backward()
    assert relative(4 * only.grad, results[1][2]) < 1e-5
    with pytest.raises(ValueError, match=r"alpha must be"):
        ops.picture_loss(color, alpha[..., 0], target, mattes)


def test_ssim_of_equal_and_of_opposite_images():
    a = torch.rand(1, 30, 20, 3)
    assert ops.ssim(a, a).item() == pytest.approx(1, abs=1e-5)
    assert ops.ssim(a, 1 - a).item() < 0
    black = torch.zeros(1, 16, 16, 3, requires_grad=True)
    ops.ssim(black, torch.zeros(1, 16, 16, 3)).sum().backward()
    assert black.grad.isfinite().all()


@pytest.mark.parametrize("enabled", [True, False])
def test_gradients_of_pictures_are_made_only_where_they_can_be_asked_for(enabled, monkeypatch):
    """Without autograd neither the gradients nor the memory for them, whatever the tensors say; the values are the same bits."""
    asked = []

    class Watched:
        def __init__(self, library) -> None:
            self.library = library

        def av_ssim_scratch(self, *args) -> int:
            asked.append(bool(args[-1]))
            return self.library.av_ssim_scratch(*args)

        def av_ssim(self, args) -> int:
            asked.extend([args.v_a is not None, args.v_alpha is not None] if args.alpha else [args.v_a is not None])
            return self.library.av_ssim(args)

        def __getattr__(self, name):
            return getattr(self.library, name)

    pick = native.pick
    monkeypatch.setattr(native, "pick", lambda *args: Watched(pick(*args)))
    a, target = (random(2, 20, 17, 3, seed=seed).sigmoid() for seed in range(2))
    alpha, mattes = random(2, 20, 17, 1).sigmoid(), random(2, 20, 17).sigmoid()
    calls = [
        lambda x, y, t: ops.ssim(x, t),
        lambda x, y, t: ops.l1_ssim(x, t, weights=mattes),
        lambda x, y, t: ops.picture_loss(x, y, t, mattes, matte_weight=0.3),
    ]
    for call in calls:
        plain = call(a, alpha, target)
        assert asked and not any(asked)
        asked.clear()
        with torch.set_grad_enabled(enabled):
            # The target may only want gradients where none are made: elsewhere these come from the reference.
            out = call(a.clone().requires_grad_(), alpha.clone().requires_grad_(), target.clone().requires_grad_(not enabled))
        assert asked and all(wanted == enabled for wanted in asked)
        assert out.requires_grad == enabled and torch.equal(out.detach(), plain)
        asked.clear()


def test_the_loss_of_pictures_has_the_same_bits_on_any_number_of_threads():
    a, b, alpha, mattes = (torch.rand(3, 200, 100, *c) for c in ((3,), (3,), (1,), ()))
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            x, y = a.clone().requires_grad_(), alpha.clone().requires_grad_()
            loss = ops.picture_loss(x, y, b, mattes, matte_weight=0.2, weights=mattes)
            loss.backward()
            results.append((loss.detach(), x.grad, y.grad))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for r in results for a, b in zip(r, results[0], strict=True))


def test_adam_matches_torch():
    start = {"a": random(100, 3), "b": random(50, 16, 3), "c": random(77), "d": random(1)}
    mine = {k: t.clone().requires_grad_() for k, t in start.items()}
    theirs = {k: t.clone().requires_grad_() for k, t in start.items()}
    optimizer = ops.Adam(mine, {"a": 1e-2, "b": 3e-3, "c": 1e-1, "d": 1.0}, heads={"b": 3}, tails={"b": 3e-3}, eps=1e-8)
    groups = [{"params": [theirs[k]], "lr": lr} for k, lr in optimizer.lrs.items()]
    other = torch.optim.Adam(groups, eps=1e-8)
    for step in range(6):
        for k in start:
            mine[k].grad = random(*start[k].shape, seed=step)
            theirs[k].grad = mine[k].grad.clone()
        optimizer.step()
        other.step()
    for k in start:
        assert relative(mine[k], theirs[k]) < 1e-4, k


def test_adam_stays_finite_where_small_numbers_are_flushed_to_zero():
    """Libraries built with -ffast-math set this for the whole process; most gradients of a splat are zero."""
    param = torch.ones(1000, requires_grad=True)
    optimizer = ops.Adam({"a": param}, {"a": 0.1})
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormal numbers")
    try:
        for _ in range(2):
            param.grad = torch.zeros(1000)
            param.grad[::7] = 1e-21
            optimizer.step()
    finally:
        torch.set_flush_denormal(False)
    assert param.isfinite().all()


@pytest.mark.parametrize("policy", ["native", "reference"])
def test_adam_heads_rows_and_state(policy, monkeypatch):
    monkeypatch.setenv("AVATARS_KERNELS", policy)
    param = torch.zeros(10, 2, 3, requires_grad=True)
    optimizer = ops.Adam({"sh": param}, {"sh": 0.1}, heads={"sh": 3}, tails={"sh": 0.01})
    param.grad = torch.ones_like(param)
    optimizer.step(torch.tensor([2, 7]))
    moved = param.detach().clone()
    assert torch.allclose(moved[[2, 7], 0], torch.full((2, 3), -0.1)) and torch.allclose(moved[[2, 7], 1], torch.full((2, 3), -0.01))
    assert moved[[0, 1, 3, 4, 5, 6, 8, 9]].abs().max() == 0
    fresh = ops.Adam({"sh": param.detach().clone().requires_grad_()}, {"sh": 0.1}, heads={"sh": 3}, tails={"sh": 0.01})
    fresh.load_state_dict(optimizer.state_dict())
    fresh.params["sh"].grad = param.grad
    optimizer.step()
    fresh.step()
    assert torch.equal(fresh.params["sh"], param)
    rows = torch.tensor([9, 4])
    gradients = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(0))
    fresh.params["sh"].grad = torch.zeros_like(param).index_copy(0, rows, gradients)
    optimizer.step(rows, {"sh": gradients})  # gradients of the rows alone
    fresh.step(rows)
    assert torch.equal(fresh.params["sh"], param) and not torch.equal(param[rows], moved[rows])
    with pytest.raises(ValueError, match="need the rows"):
        optimizer.step(None, {"sh": gradients})
    with pytest.raises(ValueError, match="moments"):
        optimizer.replace("sh", param, torch.zeros(3), torch.zeros(3))


def quad(z: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """A square facing the camera, its cameras' K, counter-clockwise seen from the camera (y down)."""
    vertices = torch.tensor([[[-0.5, -0.5, z], [0.5, -0.5, z], [0.5, 0.5, z], [-0.5, 0.5, z]]])
    faces = torch.tensor([[0, 2, 1], [0, 3, 2]])
    return vertices, faces, torch.tensor([[[20.0, 0, 16], [0, 20.0, 12], [0, 0, 1]]])


def test_mesh_covers_what_it_should():
    vertices, faces, Ks = quad()
    ids, barycentrics, depth = ops.rasterize_mesh(vertices, faces, Ks, 32, 24, cull_back=True)
    inside = torch.zeros(24, 32, dtype=torch.bool)
    inside[2:22, 6:26] = True
    assert torch.equal(ids[0] >= 0, inside)
    assert torch.allclose(depth[0][inside], torch.ones(400))
    assert torch.allclose(barycentrics.sum(-1)[0][inside], torch.ones(400))
    assert (ops.rasterize_mesh(vertices, faces.flip(1), Ks, 32, 24, cull_back=True)[0] == -1).all()


def test_barycentrics_are_perspective_correct():
    vertices, faces, Ks = quad()
    vertices[0, 1:3, 2] = 3.0  # lean it back
    ids, barycentrics, depth = ops.rasterize_mesh(vertices, faces, Ks, 32, 24)
    seen = ids[0] >= 0
    corners = vertices[0][faces[ids[0][seen].long()]]
    points = (barycentrics[0][seen][..., None] * corners).sum(1)
    ys, xs = torch.nonzero(seen, as_tuple=True)
    assert torch.allclose(points[:, 0] / points[:, 2] * 20 + 16, xs + 0.5, atol=1e-3)
    assert torch.allclose(points[:, 1] / points[:, 2] * 20 + 12, ys + 0.5, atol=1e-3)
    assert torch.allclose(points[:, 2], depth[0][seen], atol=1e-4)


def test_mesh_matches_the_reference_across_the_camera_plane():
    vertices = 0.3 * random(2, 200, 3) + torch.tensor([0.0, 0.0, 0.8])
    vertices[:, ::7, 2] -= 1.0
    faces = torch.randint(200, (120, 3), generator=torch.Generator().manual_seed(3))
    Ks = torch.tensor([[[100.0, 5, 40], [0, 90, 30], [0, 0, 1]]]).repeat(2, 1, 1)
    ids, barycentrics, depth = ops.rasterize_mesh(vertices, faces, Ks, 83, 61)
    exact = reference.rasterize_mesh(vertices.double(), faces, Ks.double(), 83, 61)
    assert torch.equal(ids, exact[0])
    assert (barycentrics - exact[1]).abs().max() < 1e-4
    assert relative(depth, exact[2]) < 1e-5


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30, -1.0, 0.0])
def test_mesh_survives_poison(value):
    vertices, faces, Ks = quad()
    bad = vertices.clone()
    bad[0, 1] = value
    ids, barycentrics, depth = ops.rasterize_mesh(bad, faces, Ks, 32, 24)
    assert barycentrics.isfinite().all() and depth.isfinite().all()
    assert ids.max() < 2
    with pytest.raises(RuntimeError, match="faces must index"):
        ops.rasterize_mesh(vertices, faces + 3, Ks, 8, 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_penalty_of_nothing_is_nothing(dtype):
    empty = [torch.zeros(s, dtype=dtype).requires_grad_() for s in ((0, 3), (0, 3), (0,))]
    weights = {"position_weight": 1.0, "scale_weight": 1.0, "opacity_weight": 1.0, "max_scale": 0.5}
    loss = ops.penalty(*empty, torch.zeros(0, dtype=dtype), **weights)
    loss.backward()
    assert float(loss) == 0 and empty[0].grad.shape == (0, 3)


def test_gradients_that_no_kernel_has_go_through_the_reference():
    """The weights of SSIM and the reach of a penalty: never dropped in silence."""
    a, b = torch.rand(1, 12, 13, 3), torch.rand(1, 12, 13, 3)
    weights = torch.rand(1, 12, 13).requires_grad_()
    ops.l1_ssim(a, b, weights=weights).sum().backward()
    exact = weights.detach().double().requires_grad_()
    ops.l1_ssim(a.double(), b.double(), weights=exact).sum().backward()
    assert relative(weights.grad, exact.grad) < 1e-4
    reach = torch.full((5,), 0.1).requires_grad_()
    limits = {"position_weight": 1.0, "scale_weight": 1.0, "opacity_weight": 1.0, "max_scale": 0.5}
    ops.penalty(torch.ones(5, 3), torch.ones(5, 3), torch.ones(5), reach, **limits).backward()
    assert reach.grad is not None and bool((reach.grad < 0).all())
