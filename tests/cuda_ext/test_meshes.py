"""Gradients of meshes: inside of triangles, through interpolation and through silhouettes, on the CPU and under the emulation."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from torch import Tensor

from cuda_ext import native, ops
from cuda_ext.bench_scenes import head_like_mesh

close = sys.modules["cuda_calls"].close
CPU = torch.device("cpu")


def ball(rows: int = 9, columns: int = 14, cameras: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """A bumpy closed surface with a patch in front of it, in camera space: vertices [C, V, 3], faces, Ks."""
    vertices, faces = head_like_mesh(rows, columns)
    patch = torch.tensor([[-0.06, -0.05, -0.2], [0.05, -0.04, -0.21], [0.0, 0.06, -0.19]])
    faces = torch.cat([faces, torch.tensor([[0, 1, 2]]) + len(vertices)])
    vertices = torch.cat([vertices, patch])
    placed = []
    for c in range(cameras):
        a = 0.4 * c + 0.1
        turn = torch.tensor([[math.cos(a), 0, math.sin(a)], [0, 1, 0], [-math.sin(a), 0, math.cos(a)]])
        placed.append(vertices @ turn.T + torch.tensor([0.01, -0.013, 0.7]))
    Ks = torch.tensor([[[120.0, 2.0, 31.3], [0, 118.0, 24.1], [0, 0, 1]]]).repeat(cameras, 1, 1)
    return torch.stack(placed), faces, Ks


def render(vertices: Tensor, faces: Tensor, Ks: Tensor, attributes: Tensor, width: int, height: int) -> list[Tensor]:
    """Colours and a mask, antialiased, and the raw depth and barycentrics."""
    ids, barycentrics, depth = ops.rasterize_mesh(vertices, faces, Ks, width, height)
    color = ops.interpolate(attributes, faces, ids, barycentrics)
    mask = (ids >= 0).to(color.dtype)[..., None]
    edges = ops.mesh_edges(faces)
    return [ops.antialias(torch.cat([color, mask], -1), depth.detach(), vertices, edges, Ks), depth, barycentrics]


def compare(device: torch.device, shared: bool, seed: int = 0) -> None:
    vertices, faces, Ks = ball()
    g = torch.Generator().manual_seed(seed)
    V = vertices.shape[1]
    attributes = torch.rand(V, 3, generator=g) if shared else torch.rand(2, V, 3, generator=g)
    upstream = [torch.randn(2, 47, 63, k, generator=g) for k in (4, 1, 3)]
    results = []
    for dtype, where in ((torch.float32, device), (torch.float64, CPU)):
        leaves = [t.to(where, dtype).clone().requires_grad_() for t in (vertices, Ks, attributes)]
        out = render(leaves[0], faces.to(where), leaves[1], leaves[2], 63, 47)
        (out[0] * upstream[0].to(where, dtype)).sum().backward(retain_graph=True)
        blended = [leaf.grad.clone() for leaf in leaves]
        ((out[1][..., None] * upstream[1].to(where, dtype)).sum() + (out[2] * upstream[2].to(where, dtype)).sum()).backward()
        results.append([*out, *blended, *(leaf.grad for leaf in leaves)])
    assert float((results[0][2].detach().cpu() - results[1][2].detach()).abs().max()) < 1e-4  # the same triangles everywhere
    assert float((results[0][0].detach().cpu() - results[1][0].detach()).abs().max()) < 1e-5
    names = ("image", "depth", "barycentrics", "silhouette vertices", "silhouette Ks", "attributes", "vertices", "Ks", "attributes again")
    for a, b, what in zip(*results, names, strict=True):
        assert float(b.detach().abs().max()) > 0, what
        close(a, b, 1e-5 if what in names[:3] else 1e-4, what)


@pytest.mark.parametrize("shared", [False, True])
def test_gradients_match_the_reference(shared):
    compare(CPU, shared)


def test_cuda_gradients_match_the_reference(backend, monkeypatch):
    library, device = backend
    monkeypatch.setattr(native, "pick", lambda _, *tensors: library if tensors[0].dtype == torch.float32 else None)
    compare(device, True)
    compare(device, False)


def test_reference_gradients_by_finite_differences():
    vertices, faces, Ks = (t[:1] if t.dim() == 3 else t for t in ball(4, 6))
    g = torch.Generator().manual_seed(1)
    attributes = torch.rand(vertices.shape[1], 2, generator=g, dtype=torch.float64)
    leaves = [vertices.double().requires_grad_(), (0.25 * Ks).double().requires_grad_(), attributes.requires_grad_()]
    assert torch.autograd.gradcheck(lambda v, k, a: render(v, faces, k, a, 16, 13), leaves, eps=1e-8, atol=1e-4, rtol=1e-3, fast_mode=True)


def polygon(corners: Tensor, z: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """A fan over corners [n, 2] in pixels at depth z, with a camera that maps x/z to pixels."""
    vertices = torch.cat([corners * z, torch.full((len(corners), 1), z, dtype=corners.dtype)], 1)[None]
    index = torch.arange(1, len(corners) - 1)
    return vertices, torch.stack([torch.zeros_like(index), index, index + 1], 1), torch.eye(3, dtype=corners.dtype)[None]


def soft_area(corners: Tensor, size: int = 40) -> Tensor:
    vertices, faces, Ks = polygon(corners)
    ids, _, depth = ops.rasterize_mesh(vertices, faces, Ks, size, size)
    mask = (ids >= 0).to(corners.dtype)[..., None]
    return ops.antialias(mask, depth.detach(), vertices, ops.mesh_edges(faces), Ks).sum()


def shoelace(corners: Tensor) -> Tensor:
    x, y = corners.unbind(1)
    return 0.5 * (x * y.roll(-1) - y * x.roll(-1)).sum().abs()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("turn", [0.0, 0.3, 0.7854, 1.2])
def test_the_mask_has_the_area_of_the_outline_and_its_gradient(dtype, turn):
    """Coverage is exact where an edge leaves a pixel's row or column through its sides: only corners are approximate."""
    angles = torch.arange(5, dtype=dtype) * (2 * math.pi / 5) + turn
    corners = (torch.stack([angles.cos(), angles.sin()], 1) * 14.3 + torch.tensor([19.6, 20.3], dtype=dtype)).requires_grad_()
    soft, exact = soft_area(corners), shoelace(corners)
    assert abs(float(soft - exact)) < 0.006 * float(exact)
    (gradient,) = torch.autograd.grad(soft, corners)
    (expected,) = torch.autograd.grad(exact, corners)
    assert float((gradient - expected).norm() / expected.norm()) < 0.08


def test_coverage_moves_continuously_and_hard_edges_do_not():
    """As an outline is pushed across pixels in small steps, the soft area grows in small steps."""
    base = torch.tensor([[8.0, 9.0], [27.0, 12.0], [22.0, 30.0]], dtype=torch.float64)
    areas = torch.stack([soft_area(base + torch.tensor([[0.0, 0.0], [t, 0.3 * t], [0.0, 0.0]])) for t in torch.linspace(0, 3, 61)])
    exact = torch.stack([shoelace(base + torch.tensor([[0.0, 0.0], [t, 0.3 * t], [0.0, 0.0]])) for t in torch.linspace(0, 3, 61)])
    steps = areas.diff()
    assert steps.max() < 2.5 * exact.diff().max() and steps.min() > -0.5 * exact.diff().max()


def test_descending_the_silhouette_finds_the_place():
    """A square slides over its target by nothing but the gradient of its antialiased mask."""
    square = torch.tensor([[10.2, 10.7], [24.1, 10.7], [24.1, 25.3], [10.2, 25.3]])
    target_v, faces, Ks = polygon(square + torch.tensor([2.2, -1.6]))
    edges = ops.mesh_edges(faces)

    def mask(vertices: Tensor) -> Tensor:
        ids, _, depth = ops.rasterize_mesh(vertices.detach(), faces, Ks, 40, 40)
        return ops.antialias((ids >= 0).float()[..., None], depth, vertices, edges, Ks)

    target = mask(target_v)
    shift = torch.zeros(3, requires_grad=True)
    still = polygon(square)[0]
    for _ in range(200):
        loss = (mask(still + shift * torch.tensor([1.0, 1.0, 0.0])) - target).square().sum()
        (gradient,) = torch.autograd.grad(loss, shift)
        shift = (shift - 0.01 * gradient).detach().requires_grad_()
    assert torch.allclose(shift[:2].detach(), torch.tensor([2.2, -1.6]), atol=0.05)


def test_inner_edges_and_hidden_outlines_blend_nothing():
    """Only silhouettes that one sees change the image: not the mesh's inner edges, not what lies behind a wall."""
    vertices, faces, Ks = polygon(torch.tensor([[4.3, 4.1], [30.2, 6.4], [33.7, 30.9], [7.1, 27.4]]))
    wall = torch.tensor([[[-99.0, -99, 0.5], [99, -99, 0.5], [99, 99, 0.5], [-99, 99, 0.5]]])
    both = torch.cat([vertices, wall], 1)
    all_faces = torch.cat([faces, torch.tensor([[4, 5, 6], [4, 6, 7]])])
    image = torch.rand(1, 40, 40, 3)
    for where, triangles, touched in ((vertices, faces, True), (both, all_faces, False)):
        _, _, depth = ops.rasterize_mesh(where, triangles, Ks, 40, 40)
        out = ops.antialias(image, depth, where, ops.mesh_edges(triangles), Ks)
        assert bool((out != image).any()) == touched
        if touched:
            inside = depth[0, 1:-1, 1:-1]
            deep = (
                (inside > 0) & (depth[0, :-2, 1:-1] > 0) & (depth[0, 2:, 1:-1] > 0) & (depth[0, 1:-1, :-2] > 0) & (depth[0, 1:-1, 2:] > 0)
            )
            assert torch.equal(out[0, 1:-1, 1:-1][deep], image[0, 1:-1, 1:-1][deep])


def test_colours_stay_between_those_of_the_neighbours():
    vertices, faces, Ks = ball(cameras=1)
    ids, barycentrics, depth = ops.rasterize_mesh(vertices, faces, Ks, 63, 47)
    image = torch.rand(1, 47, 63, 1)
    out = ops.antialias(image, depth, vertices, ops.mesh_edges(faces), Ks)
    around = torch.nn.functional.pad(image[..., 0], (1, 1, 1, 1), value=math.nan)
    near = torch.stack([around[:, 1:-1, :-2], around[:, 1:-1, 2:], around[:, :-2, 1:-1], around[:, 2:, 1:-1], around[:, 1:-1, 1:-1]])
    assert (out[..., 0] >= near.nan_to_num(1).amin(0) - 1e-6).float().mean() > 0.995  # four neighbours at once may overshoot
    assert (out[..., 0] <= near.nan_to_num(0).amax(0) + 1e-6).float().mean() > 0.995


def test_edges_of_a_topology():
    faces = torch.tensor([[0, 1, 2], [2, 1, 3], [4, 4, 5]])
    edges = ops.mesh_edges(faces)
    sides = {tuple(sorted(e[:2])): e[2:] for e in edges.tolist()}
    assert sorted(sides[1, 2]) == [0, 3] and sides[0, 1] == [2, -1] and (4, 4) not in sides
    assert len(sides) == len(edges) and ops.mesh_edges(faces[:0]).shape == (0, 4)
    with pytest.raises(ValueError, match=r"faces must be int64 \[F,3\]"):
        ops.mesh_edges(faces[:, :2])


def test_any_number_of_threads_gives_the_same_bits():
    vertices, faces, Ks = ball(20, 30)
    attributes = torch.rand(vertices.shape[1], 3)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            leaves = [t.clone().requires_grad_() for t in (vertices, attributes)]
            out = render(leaves[0], faces, Ks, leaves[1], 63, 47)
            sum((t * torch.linspace(-1, 1, t.numel()).reshape(t.shape)).sum() for t in out).backward()
            results.append([*(t.detach() for t in out), *(t.grad for t in leaves)])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def check_poison(device: torch.device) -> None:
    for value in (math.nan, math.inf, 1e30, -1.0, 0.0, 0.7):
        vertices, faces, Ks = ball(cameras=1)
        vertices[0, ::5] = value
        vertices[0, 1::5, 2] = -0.3  # straddling the camera plane
        for width, height in ((33, 21), (1, 1), (4095, 3)):
            leaves = [vertices.to(device).requires_grad_(), torch.rand(vertices.shape[1], 2).to(device).requires_grad_()]
            out = render(leaves[0], faces.to(device), Ks.to(device), leaves[1], width, height)
            assert all(t.isfinite().all() for t in out), value
            sum(t.sum() for t in out).backward()
            assert leaves[0].grad[0].isfinite().all() and leaves[1].grad.isfinite().all(), value


def test_poison_leaves_a_clean_image():
    check_poison(CPU)


def test_cuda_poison_leaves_a_clean_image(backend, monkeypatch):
    library, device = backend
    monkeypatch.setattr(native, "pick", lambda _, *tensors: library if tensors[0].dtype == torch.float32 else None)
    check_poison(device)


def test_nothing_to_draw():
    vertices, faces, Ks = ball(cameras=1)
    for v, f in ((vertices, faces[:0]), (vertices[:, :0], faces[:0]), (vertices[:0], faces)):
        leaf = v.clone().requires_grad_()
        out = render(leaf, f, Ks[: len(v)], torch.rand(v.shape[1], 3), 9, 7)
        assert not out[0].any() and out[0].shape == (len(v), 7, 9, 4)
        sum(t.sum() for t in out).backward()
        assert not leaf.grad.any()


def test_wrong_arguments_are_named():
    vertices, faces, Ks = ball(cameras=1)
    ids, barycentrics, depth = ops.rasterize_mesh(vertices, faces, Ks, 9, 7)
    image, edges = torch.zeros(1, 7, 9, 3), ops.mesh_edges(faces)
    with pytest.raises(ValueError, match="near"):
        ops.rasterize_mesh(vertices, faces, Ks, 9, 7, near=0.0)
    with pytest.raises(ValueError, match=r"depth must be \[1, 7, 9\], got \[1, 7, 8\]"):
        ops.antialias(image, depth[..., :8], vertices, edges, Ks)
    with pytest.raises(ValueError, match=r"edges must be \[\d+, 4\]"):
        ops.antialias(image, depth, vertices, faces, Ks)
    with pytest.raises(RuntimeError, match="edges must index"):
        ops.antialias(image, depth, vertices, edges + 10**6, Ks)
    with pytest.raises(ValueError, match=r"attributes must be \[V,D\] or \[1,V,D\]"):
        ops.interpolate(torch.rand(2, 5, 3), faces, ids, barycentrics)
    with pytest.raises(RuntimeError, match="faces must index"):
        ops.interpolate(torch.rand(5, 3), faces, ids, barycentrics)
