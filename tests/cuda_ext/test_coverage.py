"""Which triangle a pixel shows when its centre lies on an edge or a corner: one, and the same one on every path (include/coverage.h)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cuda_ext import native, ops, reference

Mesh = tuple[Tensor, Tensor, Tensor]  # vertices [1, V, 3] in camera space, faces [F, 3], Ks [1, 3, 3]


def grid(columns: Tensor, rows: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Corners [rows, columns, 2] in pixels, two triangles between each four; their diagonals run either way."""
    corners = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)
    h, w = len(rows), len(columns)
    a = (torch.arange(h - 1)[:, None] * w + torch.arange(w - 1)).flatten()
    b, c, d = a + 1, a + w, a + w + 1
    one = torch.rand(len(a), generator=torch.Generator().manual_seed(seed)) < 0.5
    first = torch.where(one[:, None], torch.stack([a, c, b], 1), torch.stack([a, c, d], 1))
    second = torch.where(one[:, None], torch.stack([b, c, d], 1), torch.stack([a, d, b], 1))
    return corners, torch.stack([first, second], 1).flatten(0, 1)


def placed(pixels: Tensor, z: Tensor | float, focal: float = 1.0, centre: tuple[float, float] = (0.0, 0.0)) -> tuple[Tensor, Tensor]:
    """Camera-space vertices of corners in pixels at depths z, and the camera: exact for focal 1 and z a power of two, else rounded."""
    z = torch.as_tensor(z, dtype=torch.float64).expand(pixels.shape[:-1])
    xy = (pixels.double() - torch.tensor(centre, dtype=torch.float64)) / focal * z[..., None]
    vertices = torch.cat([xy, z[..., None]], -1).reshape(1, -1, 3).float()
    return vertices, torch.tensor([[[focal, 0, centre[0]], [0, focal, centre[1]], [0, 0, 1]]])


def closed_meshes() -> dict[str, tuple[Mesh, int, int]]:
    """Meshes that fill the picture, with the picture's size."""
    found: dict[str, tuple[Mesh, int, int]] = {}
    for spacing in (0.25, 0.5, 1.0, 1.5, 2.5, 7.0):  # centres are corners, lie on edges, or between
        for offset in (0.0, 0.25, 0.5):
            size = 3 if spacing < 1 else 9
            line = offset - 2 * spacing + spacing * torch.arange(math.ceil(size / spacing) + 4)
            for z in (1.0, 0.7):
                corners, faces = grid(line, line)
                vertices, K = placed(corners, z)
                found[f"grid of {spacing} from {offset} at {z}"] = (vertices, faces, K), size, size
    g = torch.Generator().manual_seed(1)
    line = -3.5 + 4 * torch.arange(9)
    for seed in range(4):  # corners snapped to half pixels, at any depth
        corners, faces = grid(line, line, seed)
        corners = corners + torch.randint(-2, 3, corners.shape, generator=g) / 2
        for name, z in (("flat", 2.0), ("bumpy", 0.5 + torch.rand(corners.shape[:2], generator=g))):
            vertices, K = placed(corners, z, 317.0, (14.5, 13.5))
            found[f"snapped {seed}, {name}"] = (vertices, faces, K), 24, 24
    for reach in (1e3, 1e5, 1e7):  # few triangles with corners far away, their edges through centres
        line = torch.tensor([-reach + 0.5, 0.5, 5.5, 6.0, reach + 2.5])
        corners, faces = grid(line, line, 5)
        found[f"corners {reach:.0e} pixels away"] = (placed(corners, 1.0)[0], faces, torch.eye(3)[None]), 12, 12
    corners, faces = grid(
        torch.cat([torch.tensor([-1.5, 9000.0]), torch.arange(32000.0, 32030.0, 2.5)]), torch.tensor([-2.5, 0.5, 1.5, 9.0])
    )
    found["far from the origin"] = (placed(corners, 1.0)[0], faces, torch.eye(3)[None]), 32025, 2
    turn = torch.arange(40) * (2 * math.pi / 40)
    ring = 400 * torch.stack([turn.cos(), turn.sin()], 1) + 8.5  # spokes that meet in a centre, some along rows and columns
    spokes = torch.stack([torch.zeros(40, dtype=torch.int64), 1 + torch.arange(40).roll(-1), 1 + torch.arange(40)], 1)
    vertices, K = placed(torch.cat([torch.tensor([[8.5, 8.5]]), ring.round()]), 1.0)
    found["fan"] = (vertices, spokes, K), 17, 17
    corners, faces = grid(torch.linspace(-1, 1, 5), torch.linspace(-1, 1, 5))
    flat = torch.cat([corners, torch.ones(5, 5, 1)], -1).reshape(-1, 3)
    sides = [
        sign * flat.roll(shift, 1) for shift in range(3) for sign in (1.0, -1.0)
    ]  # a box around the camera, corners doubled along its edges
    found["inside a box"] = (torch.cat(sides)[None], torch.cat([faces + 25 * i for i in range(6)]), torch.tensor([[[8.0, 0, 8.5], [0, 8, 8.5], [0, 0, 1]]])), 17, 17  # fmt: skip
    return found


CLOSED = closed_meshes()


def everywhere(mesh: Mesh, width: int, height: int, device: torch.device, cull_back: bool = False) -> list[Tensor]:
    """face_ids of the path that float32 takes on the device, and of the reference."""
    vertices, faces, Ks = mesh
    there = ops.rasterize_mesh(vertices.to(device), faces.to(device), Ks.to(device), width, height, cull_back=cull_back)[0]
    return [there.cpu(), reference.rasterize_mesh(vertices, faces, Ks, width, height, cull_back=cull_back)[0]]


def check_closed(mesh: Mesh, width: int, height: int, device: torch.device) -> None:
    vertices, faces, Ks = mesh
    ids, expected = everywhere(mesh, width, height, device)
    assert int((ids < 0).sum()) == 0, "holes"
    assert torch.equal(ids, expected)
    # No second one: the first of several would win, and it is another when the order is turned around.
    assert torch.equal(len(faces) - 1 - everywhere((vertices, faces.flip(0), Ks), width, height, device)[0], ids)
    # Nor does it matter at which corner a triangle begins, or which way it turns.
    assert torch.equal(everywhere((vertices, faces.roll(1, 1), Ks), width, height, device)[0], ids)
    assert torch.equal(everywhere((vertices, faces.flip(1), Ks), width, height, device)[0], ids)


CPU = torch.device("cpu")


@pytest.fixture
def cuda(backend, monkeypatch) -> torch.device:
    """The device of CUDA's kernels, emulated or real, when `ops` is told to take these."""
    library, device = backend
    monkeypatch.setattr(native, "pick", lambda *_: library)
    return device


@pytest.mark.parametrize("name", CLOSED)
def test_a_closed_mesh_shows_one_triangle_everywhere(name):
    check_closed(*CLOSED[name], CPU)


@pytest.mark.parametrize("name", CLOSED)
def test_cuda_shows_one_triangle_everywhere(name, cuda):
    check_closed(*CLOSED[name], cuda)


def soup(seed: int) -> Mesh:
    """Triangles that meet, cross, fold over and repeat, with corners on centres and edges of pixels, some behind the camera."""
    g = torch.Generator().manual_seed(seed)
    corners = torch.randint(-6, 46, (40, 2), generator=g) / 2.0
    z = torch.tensor([0.5, 0.7, 1.0, 1.0, 2.0, 3.3])[torch.randint(6, (40,), generator=g)]
    vertices, K = placed(corners, z, 1.0 if seed % 2 else 23.7, (0.0, 0.0) if seed % 2 else (10.5, 9.5))
    vertices[0, ::9, 2] *= -1
    faces = torch.randint(40, (70, 3), generator=g)
    return vertices, torch.cat([faces, faces[:20].roll(1, 1), faces[20:40].flip(1)]), K


def check_soup(seed: int, device: torch.device) -> None:
    mesh = soup(seed)
    for cull_back in (False, True):
        ids, expected = everywhere(mesh, 21, 19, device, cull_back)
        assert torch.equal(ids, expected)
        assert float((ids >= 0).float().mean()) > 0.5
        assert int(ids.max()) < 110  # of the same triangle twice the first one; those that are turned around are culled or the second


@pytest.mark.parametrize("seed", range(8))
def test_the_cpu_finds_the_triangles_of_the_reference(seed):
    check_soup(seed, CPU)


@pytest.mark.parametrize("seed", range(8))
def test_cuda_finds_the_triangles_of_the_reference(seed, cuda):
    check_soup(seed, cuda)


def check_outline(axis: int, device: torch.device) -> None:
    """Coverage by `antialias` agrees with who has the centre, on either side of a surface."""
    low, high = 4.5, 11.5
    corners, faces = grid(torch.tensor([-50.0, 90.0]), torch.tensor([low, high]))
    corners = corners if axis else corners.flip(-1)
    vertices, K = placed(corners, 1.0)
    vertices, faces, K = vertices.to(device), faces.to(device), K.to(device)
    ids, _, depth = ops.rasterize_mesh(vertices, faces, K, 16, 16)
    mask = (ids >= 0).float()[..., None]
    soft = ops.antialias(mask, depth, vertices, ops.mesh_edges(faces), K)[0, ..., 0].mean(axis)
    assert torch.allclose(soft.cpu(), torch.tensor([0.0] * 4 + [0.5] + [1.0] * 6 + [0.5] + [0.0] * 4))


@pytest.mark.parametrize("axis", [0, 1])
def test_an_outline_through_centres_is_half_there(axis):
    check_outline(axis, CPU)


@pytest.mark.parametrize("axis", [0, 1])
def test_cuda_outline_through_centres_is_half_there(axis, cuda):
    check_outline(axis, cuda)


def check_slivers(device: torch.device) -> None:
    """Where single precision knows nothing of a triangle that is seen edge-on, barycentrics and depth are still those of the reference."""
    g = torch.Generator().manual_seed(3)
    along = 60 * torch.rand(50, 3, 1, generator=g) - 20
    corners = along + torch.tensor([0.0, 1.0]) * 1e-3 * torch.randn(50, 3, 1, generator=g)
    vertices, K = placed(corners, 0.5 + torch.rand(50, 3, generator=g))
    faces = torch.arange(150).reshape(50, 3)
    right = reference.rasterize_mesh(vertices.double(), faces, K.double(), 20, 20)
    ids, barycentrics, depth = (t.cpu() for t in ops.rasterize_mesh(vertices.to(device), faces.to(device), K.to(device), 20, 20))
    assert torch.equal(ids, right[0]) and int((ids >= 0).sum()) > 10
    assert float((barycentrics - right[1]).abs().max()) < 1e-3 and float((depth - right[2]).abs().max()) < 1e-4


def test_slivers_keep_their_barycentrics():
    check_slivers(CPU)


def test_cuda_slivers_keep_their_barycentrics(cuda):
    check_slivers(cuda)
