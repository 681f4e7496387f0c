"""The mesh preview, the sheet that is drawn with it, and the search for landmarks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from avatars.head import load_head
from avatars.head.landmarks import find_correspondences, subset, with_landmarks
from avatars.head.sheet import SHOTS, expression_sheet, main, portrait
from avatars.render.mesh import head_colors, render_mesh
from avatars.transforms import project_points
from avatars.types import Cameras, Mesh
from cuda_ext.ops import rasterize_mesh


def _square(depth: float) -> tuple[torch.Tensor, torch.Tensor]:
    vertices = torch.tensor([[-1.0, -1, depth], [1, -1, depth], [1, 1, depth], [-1, 1, depth]])
    return vertices, torch.tensor([[0, 2, 1], [0, 3, 2]])


def _camera(width: int = 40, height: int = 30, focal: float = 20.0) -> Cameras:
    K = torch.tensor([[[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]]])
    return Cameras(("c",), K, torch.eye(4)[None], width, height)


def test_a_square_covers_exactly_its_pixels() -> None:
    vertices, faces = _square(4.0)
    ids, bary, depth = rasterize_mesh(vertices[None], faces, _camera().Ks, 40, 30)
    hit = (ids[0] >= 0).numpy()
    assert hit.sum() == 100 and hit[10:20, 15:25].all()  # 20 · 2 / 4 = 10 pixels a side
    assert torch.allclose(depth[0][ids[0] >= 0], torch.tensor(4.0)) and (depth[0][ids[0] < 0] == 0).all()
    assert torch.allclose(bary[0][ids[0] >= 0].sum(-1), torch.ones(100))


def test_the_nearer_surface_hides_the_further() -> None:
    near, faces = _square(3.0)
    far, _ = _square(5.0)
    for first, second, expected in ((near, far, 0), (far, near, 2)):
        ids, _, _ = rasterize_mesh(torch.cat([first, second])[None], torch.cat([faces, faces + 4]), _camera().Ks, 40, 30)
        assert set(ids[0, 12:18, 17:23].unique().tolist()) <= {expected, expected + 1}


def test_barycentrics_are_perspective_correct() -> None:
    vertices = torch.tensor([[-1.0, -1, 2], [1, -1, 2], [0, 1.5, 8]])
    camera = _camera()
    ids, bary, depth = rasterize_mesh(vertices[None], torch.tensor([[0, 1, 2]]), camera.Ks, 40, 30)
    hit = ids[0] >= 0
    points = (vertices * bary[0][hit][..., None]).sum(1)
    pixels, z = project_points(points, camera.viewmats[0], camera.Ks[0])
    y, x = hit.nonzero(as_tuple=True)
    assert torch.allclose(pixels, torch.stack([x, y], 1) + 0.5, atol=1e-3)
    assert torch.allclose(z, depth[0][hit], atol=1e-4)


def test_behind_the_camera_and_nothing_at_all() -> None:
    vertices, faces = _square(-4.0)
    assert (rasterize_mesh(vertices[None], faces, _camera().Ks, 40, 30)[0] == -1).all()
    picture = render_mesh(Mesh(vertices[None], faces[:0]), _camera(), background=(0.2, 0.4, 0.6))
    assert torch.allclose(picture.color[0, 5, 5], torch.tensor([0.2, 0.4, 0.6])) and picture.alpha.sum() == 0


def test_flat_colors_by_triangle_and_by_vertex() -> None:
    vertices, faces = _square(4.0)
    triangles = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])
    picture = render_mesh(Mesh(vertices[None], faces), _camera(), triangles, shaded=False)
    assert {tuple(c) for c in picture.color[0, 11:19, 16:24].reshape(-1, 3).tolist()} == {(1, 0, 0), (0, 1, 0)}
    ramp = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0]])
    row = render_mesh(Mesh(vertices[None], faces), _camera(), ramp, shaded=False).color[0, 15, 15:25, 0]
    assert torch.allclose(row, torch.arange(10) / 10 + 0.05, atol=1e-4)
    with pytest.raises(ValueError, match="colors must be"):
        render_mesh(Mesh(vertices[None], faces), _camera(), torch.zeros(7, 3))
    with pytest.raises(ValueError, match="vertices must be"):
        render_mesh(Mesh(vertices, faces), _camera())


def test_supersampling_keeps_size_and_averages() -> None:
    vertices, faces = _square(4.2)
    picture = render_mesh(Mesh(vertices[None], faces), _camera(), supersample=3)
    assert picture.color.shape == (1, 30, 40, 3)
    assert 0 < ((picture.alpha > 0.01) & (picture.alpha < 0.99)).sum() < 60


def test_head_colors_follow_the_regions() -> None:
    head = load_head()
    colors = head_colors(head, {"lips": (1.0, 0.0, 0.5)})
    assert colors.shape == (head.F, 3)
    assert torch.allclose(colors[head.region_faces("lips")], torch.tensor([1.0, 0.0, 0.5]))


def test_sheet_shows_what_is_asked(tmp_path: Path) -> None:
    head = load_head()
    sheet = expression_sheet(head, head.mean_identity(), SHOTS["mouth"], 48, 2, ("jawOpen", "mouthClose"))
    assert sheet.shape == (96, 192, 3) and sheet.dtype == np.uint8
    assert np.abs(sheet[:48, :48].astype(int) - sheet[:48, 96:144]).mean() > 2  # jawOpen differs from rest
    assert main(["--out", str(tmp_path / "sheet.png"), "--size", "24"]) == 0 and (tmp_path / "sheet.png").stat().st_size > 10_000
    assert main(["--out", str(tmp_path / "sheet.png"), "--head", str(tmp_path / "none.npz")]) == 2


def test_correspondences_are_found_back() -> None:
    """A detector that knows the truth (it projects known points) is cast back onto the points themselves."""
    head = load_head()
    truth = subset(head.landmarks["ibug68"], tuple(range(27, 48)))
    shaped = head.shape(head.mean_identity())
    positions = head.landmark_positions(shaped.vertices[None], "ibug68")[0, 27:48]
    size = 160

    def detect(pictures):
        from avatars.head.landmarks import VIEWS, _camera

        found = []
        for n, picture in enumerate(pictures):
            assert picture.shape == (size, size, 3) and picture.dtype == np.uint8
            camera = _camera(head, *VIEWS[n], size)
            found.append(project_points(positions, camera.viewmats[0], camera.Ks[0])[0].numpy() if n != 3 else np.full((21, 2), np.nan))
        return np.stack(found)

    points = find_correspondences(head, detect, people=0, size=size)
    again = with_landmarks(head, found=points).landmark_positions(head.template[None], "found")[0]
    error = (again - positions).norm(dim=1)
    assert len(truth) == 21 and points.valid.sum() >= 19
    assert error[points.valid].median() < 0.002 and error[points.valid].max() < 0.005
    with pytest.raises(ValueError, match="saw no face"):
        find_correspondences(head, lambda pictures: np.full((len(list(pictures)), 21, 2), np.nan), people=0, size=32)


def test_portrait_looks_at_the_face() -> None:
    head = load_head()
    shaped = head.shape(head.mean_identity())
    camera = portrait(head, shaped, SHOTS["eyes"], 20, 5, 100)
    pixels, depth = project_points(shaped.joints[3:5].mean(0)[None], camera.viewmats[0], camera.Ks[0])
    assert torch.allclose(pixels, torch.full((1, 2), 50.0), atol=0.1) and torch.allclose(depth, torch.tensor(1.0), atol=1e-4)
