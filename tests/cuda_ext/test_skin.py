"""skin: native against the float64 reference, finite differences on the reference, laws, edge cases."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cuda_ext import abi, native, ops, reference


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_rig(V: int = 77, E: int = 7, J: int = 5, posed: bool = False, scale: float = 1.1) -> ops.Rig:
    """A random head: shapes that move only some of the vertices, as a face's do."""
    shapes = 0.1 * random(E, V, 3, seed=1) * (random(E, V, 1, seed=2) > 0.8)
    weights = torch.softmax(3 * random(V, J + 1, seed=3), 1)
    weights[::3] = torch.nn.functional.one_hot(torch.arange(V)[::3] % (J + 1), J + 1).float()
    pose_shapes = 0.05 * random(9 * J, V, 3, seed=5) if posed else None
    parents = (-1, 0, 1, 1, 0)[:J]
    return ops.Rig(
        random(V, 3),
        0.5 * random(J, 3, seed=6),
        shapes,
        0.3 * random(E, J, 3, seed=7),
        weights,
        parents,
        scale,
        pose_shapes,
    )


def make_pose(rig: ops.Rig, B: int = 2, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    E, J = len(rig.shapes), len(rig.joints)
    pose = [random(B, E, seed=8), 0.7 * random(B, J, 3, seed=9), random(B, 3, seed=10), random(B, 3, seed=11)]
    return [t.to(dtype).requires_grad_() for t in pose]


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.detach().double() - b.detach().double()).norm() / (b.detach().double().norm() + 1e-12))


@pytest.mark.parametrize("posed", [False, True])
@pytest.mark.parametrize("V,E,J,B", [(77, 7, 5, 2), (1, 1, 1, 1), (32, 0, 2, 3), (1500, 52, 5, 1)])
def test_skin_matches_the_reference(V, E, J, B, posed):
    rig = make_rig(V, E, J, posed)
    results = []
    for dtype in (torch.float32, torch.float64):
        pose = make_pose(rig, B, dtype)
        vertices = ops.skin(rig, *pose)
        (vertices * random(B, V, 3, seed=12).to(dtype)).sum().backward()
        results.append([vertices, *(t.grad for t in pose)])
    assert native.pick("av_skin_forward", rig.rest) is not None
    for a, b, what in zip(*results, ("vertices", "expression", "angles", "rotation", "translation"), strict=True):
        assert a.shape == b.shape and relative(a, b) < 1e-5, what


def test_reference_has_the_right_derivatives():
    rig = make_rig(9, 3, 4, posed=True)
    assert torch.autograd.gradcheck(lambda *pose: reference.skin(rig, *pose), make_pose(rig, 2, torch.float64))


@pytest.mark.parametrize("size", [0.0, 1e-9, 1e-5, 9e-4, 1.1e-3, 1e-2])
def test_gradients_hold_at_small_angles(size):
    """Where the closed forms lose their digits a series takes over."""
    rig = make_rig()
    exact, pose = make_pose(rig, 1, torch.float64), make_pose(rig, 1)
    for leaves in (exact, pose):
        with torch.no_grad():
            leaves[0].zero_()
            leaves[1].copy_(size * random(1, 5, 3))
            leaves[2].copy_(size * random(1, 3, seed=3))
        (ops.skin(rig, *leaves) * random(1, 77, 3, seed=12).to(leaves[0].dtype)).sum().backward()
    for a, b in zip(pose, exact, strict=True):
        assert relative(a.grad, b.grad) < 1e-5


def test_neutral_is_rest_and_the_root_moves_everything():
    rig = make_rig(scale=1.0)
    neutral = [torch.zeros_like(t) for t in make_pose(rig, 1)]
    assert torch.allclose(ops.skin(rig, *neutral)[0], rig.rest, atol=1e-6)
    pose = [t.detach() for t in make_pose(rig, 1)]
    still = ops.skin(rig, pose[0], pose[1], torch.zeros(1, 3), torch.zeros(1, 3))[0]
    moved = ops.skin(rig, *pose)[0]
    assert torch.allclose(moved, still @ reference.axis_angle_matrices(pose[2])[0].T + pose[3], atol=1e-5)
    assert torch.allclose(
        ops.skin(replace(rig, scale=2.0), pose[0], pose[1], pose[2], torch.zeros(1, 3))[0],
        2 * (moved - pose[3]),
        atol=1e-5,
    )


def test_skin_gives_the_same_bits_on_any_number_of_threads():
    rig, before, results = make_rig(3000, 20), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            pose = make_pose(rig, 2)
            vertices = ops.skin(rig, *pose)
            (vertices * random(2, 3000, 3, seed=12)).sum().backward()
            results.append([vertices.detach(), *(t.grad for t in pose)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(other, results[0], strict=True))


def test_packing_keeps_only_what_moves():
    rig = make_rig(640, 7)
    with torch.no_grad():
        rig.shapes[:, 64:] = 0
        rig.shapes[3] = 0
    starts, indices, offsets = rig.packed.tensors[5:]
    assert starts[2] == len(indices) == len(offsets) and 3 not in indices.tolist()
    dense = torch.zeros(7, 20, 3, 32)
    groups = torch.repeat_interleave(torch.arange(20), starts.diff())
    dense[indices.long(), groups] = offsets
    assert torch.equal(dense.transpose(2, 3).reshape(7, 640, 3), rig.shapes)


def test_wrong_shapes_and_parents_are_refused():
    rig = make_rig()
    pose = make_pose(rig, 2)
    with pytest.raises(ValueError, match=r"angles must be \[2, 5, 3\], got \[2, 4, 3\]"):
        ops.skin(rig, pose[0], pose[1][:, :4], pose[2], pose[3])
    with pytest.raises(ValueError, match="parents must be 5 numbers"):
        replace(rig, parents=(-1, 2, 1, 1, 0))
    with pytest.raises(ValueError, match=r"skin_weights must be \[77, 6\]"):
        replace(rig, skin_weights=rig.skin_weights[:, 1:])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_poison_stays_in_its_pose(value):
    rig = make_rig()
    pose = [t.detach().clone() for t in make_pose(rig, 3)]
    clean = ops.skin(rig, *pose)
    for i in range(4):
        bad = [t.clone() for t in pose]
        bad[i][1].flatten()[0] = value
        leaves = [t.requires_grad_() for t in bad]
        vertices = ops.skin(rig, *leaves)
        vertices.nan_to_num(0, 0, 0).sum().backward()
        assert torch.equal(vertices[[0, 2]], clean[[0, 2]])


def test_the_library_refuses_a_damaged_rig():
    rig = make_rig()
    rig.packed.tensors[6][0] = 99  # an index of a shape that does not exist
    with pytest.raises(RuntimeError, match="indices must name shapes"):
        ops.skin(rig, *make_pose(rig))
    assert "av_skin_forward" in abi.FUNCTIONS


def test_skin_compiles_into_one_graph():
    rig = make_rig()
    rig.packed  # noqa: B018 - made before tracing

    def positions(*pose: Tensor) -> Tensor:
        return ops.skin(rig, *pose) * 2

    pose = make_pose(rig)
    compiled = torch.compile(positions, backend="aot_eager", fullgraph=True)(*pose)
    assert torch.equal(compiled, positions(*pose))
    (expected,) = torch.autograd.grad(positions(*pose).square().sum(), pose[:1])
    (found,) = torch.autograd.grad(compiled.square().sum(), pose[:1])
    assert torch.equal(expected, found)
