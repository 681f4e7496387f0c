"""torch.compile takes the operators into one graph and gives the eager results."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cuda_ext import ops
from cuda_ext.bench_scenes import head_like_mesh, head_scene
from cuda_ext.hash_grid import HashGrid, blend_tables, hash_encode, hash_encode_blended


def test_a_training_step_compiles_into_one_graph():
    scene = head_scene(200, 40, 32)
    vertices, faces = head_like_mesh(6, 8)
    face_ids = torch.arange(200) % len(faces)
    target, background = torch.rand(1, 32, 40, 3), torch.rand(1, 3)
    basis, weights = 0.01 * torch.randn(200, 10, 5), torch.randn(5)

    def step(means, quats, scales, opacities, sh, basis, weights):
        means, quats, sh = ops.blend(basis, weights, means, quats, sh)
        means, quats, scales = ops.bind(vertices, faces, face_ids, means, quats, scales)
        image = ops.splat(means, quats, scales, opacities, sh, scene.viewmats, scene.Ks, 40, 32, backgrounds=background)
        return ops.l1_ssim(image.color, target).sum() + image.depth.mean()

    results = []
    for function in (step, torch.compile(step, backend="aot_eager", fullgraph=True)):
        leaves = [t.clone().requires_grad_() for t in (*scene.tensors[:5], basis, weights)]
        loss = function(*leaves)
        loss.backward()
        results.append([loss.detach(), *(t.grad for t in leaves)])
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-8)


def _scene() -> list[Tensor]:
    return list(head_scene(60, 20, 16, cameras=2).tensors)


def _project(means, quats, scales, opacities, sh, viewmats, Ks) -> list[Tensor]:
    p = ops.project(means, quats, scales, opacities, sh, viewmats, Ks, 20, 16, antialiased=True, sh_degree=1)
    return [p.means2d, p.conics, p.depths, p.colors, p.opacities, p.radii]


def _rasterize(*projected) -> list[Tensor]:
    *projected, backgrounds = projected
    r = ops.rasterize(ops.Projected(*projected), 20, 16, backgrounds)
    return [r.color, r.alpha, r.depth, r.contributions]


def _projected() -> list[Tensor]:
    return [*_project(*_scene()), torch.rand(2, 3)]


def _images() -> list[Tensor]:
    return [torch.rand(2, 12, 13, 3), torch.rand(2, 12, 13, 3), torch.rand(2, 12, 13)]


def _mesh() -> list[Tensor]:
    vertices, faces = head_like_mesh(6, 8)
    Ks = torch.tensor([[[60.0, 0, 12], [0, 60.0, 10], [0, 0, 1]]])
    return [(vertices + torch.tensor([0.0, 0.0, 0.6]))[None], Ks, faces, ops.mesh_edges(faces)]


def _mesh_image(vertices, Ks, faces, edges) -> list[Tensor]:
    ids, barycentrics, depth = ops.rasterize_mesh(vertices, faces, Ks, 24, 20)
    color = ops.interpolate(vertices, faces, ids, barycentrics)
    return [ids, barycentrics, depth, ops.antialias(color, depth.detach(), vertices, edges, Ks)]


def _march(origins, directions, occupancy) -> list[Tensor]:
    s = ops.march(origins, directions, occupancy, (-1, -1, -1, 1, 1, 1), step=0.05, far=4.0, capacity=100)
    return [s.offsets, s.ray_ids, s.starts, s.ends, s.needed]


def _composite(densities, colors, starts, backgrounds, offsets) -> list[Tensor]:
    out = ops.composite(ops.Samples(offsets, offsets, starts, starts + 0.1), densities, colors, backgrounds=backgrounds, stop=1e-4)
    return [out.color, out.alpha, out.depth, out.weights]


def _carry_scene() -> list[Tensor]:
    vertices, faces = head_like_mesh(6, 8)
    shapes = ((30, 10, 5), (5,), (30, 3), (30, 4), (30, 3), (30, 4, 3), (30,))
    return [vertices, *(torch.randn(s) for s in shapes), faces, torch.arange(30) % len(faces), torch.ones(30)]


def _carry(*t) -> list[Tensor]:
    floats, logits, (faces, face_ids, reach) = t[:7], t[7], t[8:]
    plain = ops.carry(floats[0], faces, face_ids, *floats[1:])
    costly = ops.carry(
        floats[0], faces, face_ids, *floats[1:], penalties=ops.Penalties(0.3, 0.2, 0.1, 0.5, 1.0), logit_opacities=logits, reach=reach
    )
    return [*plain, *costly]


@pytest.mark.parametrize("cameras_move", [False, True])
def test_statistics_are_counted_once_by_compiled_steps(cameras_move):
    """Two steps, also through the operator's plain-torch projection, and then statistics of another scene by the same code."""
    torch.manual_seed(0)
    scene = head_scene(60, 24, 20, cameras=2)

    def loss(means, scales, viewmats, statistics):
        s = scene
        out = ops.splat(means, s.quats, scales, s.opacities, s.sh, viewmats, s.Ks, 24, 20, statistics=statistics)
        return (out.color * torch.linspace(0, 1, 3)).sum() + out.alpha.sum()

    torch._dynamo.reset()
    found = []
    for function in (loss, torch.compile(loss, backend="aot_eager", fullgraph=True)):
        for scale in (1.0, 1.3):
            statistics = ops.SplatStatistics.zeros(60)
            for _ in range(2):
                leaves = [scene.means.clone().requires_grad_(), scale * scene.scales, scene.viewmats.clone().requires_grad_(cameras_move)]
                function(*leaves, statistics).backward()
            found.append(statistics)
    for eager, compiled in zip(found[:2], found[2:], strict=True):
        assert float(eager.count.max()) == 4 and float(eager.contributions.sum()) > 0
        for name in ("grad_norm", "count", "max_radius", "contributions"):
            torch.testing.assert_close(getattr(compiled, name), getattr(eager, name), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        statistics = ops.SplatStatistics.zeros(60)
        torch.compile(loss, backend="aot_eager", fullgraph=True)(scene.means, scene.scales, scene.viewmats, statistics)
    assert not statistics.count.any() and float(statistics.contributions.sum()) > 0


_WEIGHTS = {"position_weight": 0.3, "scale_weight": 0.2, "opacity_weight": 0.1, "max_scale": 0.5}
_GRID = HashGrid.build(levels=3, log2_size=8, base=4)

# name → (the operator on tensors alone, its tensors, how many of them have gradients)
OPERATORS: dict[str, tuple[Callable, Callable[[], list[Tensor]], int]] = {
    "project": (_project, _scene, 7),
    "rasterize": (_rasterize, _projected, 5),
    "penalty": (lambda *t: [ops.penalty(*t, **_WEIGHTS)], lambda: [torch.randn(9, 3), torch.randn(9, 3), torch.randn(9), torch.ones(9)], 3),
    "carry": (_carry, _carry_scene, 8),
    "ssim": (lambda a, b, w: [ops.ssim(a, b, weights=w)], _images, 1),
    "l1_ssim": (lambda a, b, w: [ops.l1_ssim(a, b, valid=True)], _images, 1),
    "picture_loss": (
        lambda a, alpha, b, mattes, w: [ops.picture_loss(a, alpha, b, mattes, weights=w, matte_weight=0.3)],
        lambda: [torch.rand(2, 12, 13, *c) for c in ((3,), (1,), (3,), (), ())],
        2,
    ),
    "compose": (
        lambda images, matrices, behind, windows, Ks: list(ops.compose(images, matrices, behind, windows=windows, Ks=Ks, halve=True)),
        lambda: [
            torch.zeros(2, 12, 13, 4, dtype=torch.uint8),
            torch.rand(2, 3, 4),
            torch.rand(2, 3),
            torch.rand(2, 3, 5),
            torch.rand(2, 3, 3),
        ],
        0,
    ),
    "rasterize_mesh": (_mesh_image, _mesh, 2),
    "march": (_march, lambda: [-torch.ones(6, 3), 1 + 0.3 * torch.randn(6, 3), torch.rand(4, 4, 4) < 0.5], 0),
    "composite": (
        _composite,
        lambda: [torch.rand(9), torch.rand(9, 3), torch.rand(9), torch.rand(3, 3), torch.tensor([0, 4, 4, 8])],
        4,
    ),
    "hash_encode": (lambda x, t: [hash_encode(_GRID, x, t)], lambda: [torch.rand(30, 3), torch.randn(_GRID.rows, 2)], 2),
    "blend_tables": (lambda t, w: [blend_tables(t, w)], lambda: [torch.randn(50, 3, 2), torch.rand(3)], 2),
    "hash_encode_blended": (
        lambda x, t, w: [hash_encode_blended(_GRID, x, t, w)],
        lambda: [torch.rand(30, 3), torch.randn(_GRID.rows, 2, 2), torch.rand(30, 2)],
        3,
    ),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_each_operator_compiles(name):
    """One graph, the eager results, and the eager gradients; the fakes tell the compiler the true shapes and types."""
    operator, make, differentiable = OPERATORS[name]
    torch.manual_seed(0)
    tensors = make()
    results = []
    torch._dynamo.reset()
    for function in (operator, torch.compile(operator, backend="aot_eager", fullgraph=True)):
        leaves = [t.detach().clone().requires_grad_(i < differentiable) for i, t in enumerate(tensors)]
        out = function(*leaves)
        if differentiable:
            sum((t * torch.linspace(0.5, 1.5, t.numel()).reshape(t.shape)).sum() for t in out if t.requires_grad).backward()
        results.append([t.detach() for t in out] + [leaf.grad for leaf in leaves[:differentiable]])
    for eager, compiled in zip(*results, strict=True):
        assert eager.dtype == compiled.dtype and eager.shape == compiled.shape
        # not the same bits: with gradients to cameras, the eager forward pass projects in torch and the compiled one natively
        assert torch.allclose(eager, compiled, rtol=1e-4, atol=1e-5 * float(eager.double().abs().max()) if eager.numel() else 0)


def _optimizers(factored: tuple[str, ...] = ()) -> ops.Adam:
    g = torch.Generator().manual_seed(0)
    params = {"a": torch.randn(7, 3, generator=g), "b": torch.randn(5, 4, 3, generator=g), "idle": torch.zeros(2)}
    params["b"].requires_grad_()
    return ops.Adam(params, {"a": 1e-2, "b": 2e-2, "idle": 1.0}, heads={"b": 3}, tails={"b": 1e-3}, factored=factored)


@pytest.mark.parametrize("rows", [None, torch.tensor([0, 3])])
def test_adam_compiles_once_for_all_steps_and_rates(rows):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    optimizers = [_optimizers() for _ in range(2)]
    torch._dynamo.reset()
    steps = (optimizers[0].step, torch.compile(optimizers[1].step, backend=backend, fullgraph=True))
    for i in range(4):
        for optimizer, step in zip(optimizers, steps, strict=True):
            g = torch.Generator().manual_seed(i)
            optimizer.lrs["a"] *= 0.9
            for name in ("a", "b"):
                optimizer.params[name].grad = torch.randn(optimizer.params[name].shape, generator=g)
            step(rows)
    assert len(graphs) == 1
    assert optimizers[1].step_count == 4
    for key, value in optimizers[0].state_dict().items():
        assert torch.equal(value, optimizers[1].state_dict()[key]), key
    assert all(torch.equal(p, optimizers[1].params[k]) for k, p in optimizers[0].params.items())


def test_adam_compiles_with_what_follows():
    """Through functionalization the operator gets copies; the parameters still move."""
    optimizers = [_optimizers() for _ in range(2)]
    totals = []
    torch._dynamo.reset()
    for optimizer, compiled in zip(optimizers, (False, True), strict=True):

        def step(optimizer=optimizer):
            optimizer.step()
            return sum(p.detach().sum() for p in optimizer.params.values())

        for name in ("a", "b"):
            optimizer.params[name].grad = torch.ones_like(optimizer.params[name])
        totals.append((torch.compile(step, backend="aot_eager", fullgraph=True) if compiled else step)())
    assert torch.equal(*totals)
    assert all(torch.equal(p, optimizers[1].params[k]) for k, p in optimizers[0].params.items())


def test_a_compiled_step_refuses_factors_that_it_cannot_see():
    optimizer = ops.Adam(
        {"basis": torch.randn(4, 10, 3).requires_grad_(), "a": torch.ones(2)}, {"basis": 1e-2, "a": 1e-2}, factored=("basis",)
    )
    blended = ops.blend(optimizer.params["basis"], torch.rand(3), torch.rand(4, 3), torch.rand(4, 4), torch.rand(4, 1, 3))
    sum(t.sum() for t in blended).backward()
    optimizer.params["a"].grad = torch.ones(2)
    torch._dynamo.reset()
    with pytest.raises(RuntimeError, match="factored gradient of 'basis'"):
        torch.compile(optimizer.step, backend="eager", fullgraph=True)()
    assert torch.is_grad_enabled()


def test_errors_of_shape_are_raised_while_compiling():
    torch._dynamo.reset()
    with pytest.raises(Exception, match=r"images must be two non-empty"):
        torch.compile(ops.ssim, backend="eager", fullgraph=True)(torch.rand(1, 4, 4, 3), torch.rand(1, 4, 5, 3))

    def unbounded(origins, directions):
        return ops.march(origins, directions, torch.ones(4, 4, 4, dtype=torch.bool), (0, 0, 0, 1, 1, 1), step=0.1, far=1.0).starts

    with pytest.raises(Exception, match="give a capacity"):
        torch.compile(unbounded, backend="eager", fullgraph=True)(torch.rand(2, 3), torch.rand(2, 3))


def test_fakes_agree_with_the_operators():
    scene = head_scene(50, 20, 16, cameras=2)
    options = (None, 20, 16, 0.01, 0.3, False, None, False, False, -1)
    torch.library.opcheck(
        torch.ops.avatars.splat.default,
        (*scene.tensors, *options),
        test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
    )
    a, b = torch.rand(2, 12, 13, 3), torch.rand(2, 12, 13, 3)
    torch.library.opcheck(torch.ops.avatars.l1_ssim.default, (a, b, None, 0.2, False), test_utils=("test_schema", "test_faketensor"))
