"""The hash grid on the CPU against the float64 reference, and the laws of its layout."""

from __future__ import annotations

import pytest
import torch

from cuda_ext import hash_grid
from cuda_ext.hash_grid import HashGrid, hash_encode
from cuda_ext.library import open_library

pytestmark = pytest.mark.skipif(
    not hasattr(open_library("cpu")[0], "av_hash_forward"), reason="the CPU library has no hash grid: rebuild it"
)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.detach().double() - b.detach()).norm() / b.detach().norm())


@pytest.mark.parametrize("features", [1, 2, 4, 8])
@pytest.mark.parametrize("n", [0, 1, 333])
def test_matches_the_reference(features, n):
    grid = HashGrid.build(levels=6, features=features, log2_size=9, base=4, growth=1.7)
    g = torch.Generator().manual_seed(features)
    positions, table = 1.2 * torch.rand(n, 3, generator=g) - 0.1, torch.randn(grid.rows, features, generator=g)
    v_out = torch.randn(n, grid.channels, generator=g)
    exact = [t.double().requires_grad_() for t in (positions, table)]
    expected = hash_grid._reference(grid, *exact)
    expected.backward(v_out.double())
    leaves = [t.requires_grad_() for t in (positions, table)]
    out = hash_encode(grid, *leaves)
    out.backward(v_out)
    assert out.shape == (n, grid.channels)
    if n:
        assert relative(out, expected) <= 1e-5
        assert all(relative(a.grad, b.grad) <= 1e-5 for a, b in zip(leaves, exact, strict=True))
    else:
        assert float(leaves[1].grad.abs().max()) == 0


def test_gradients_of_the_reference_by_finite_differences():
    grid = HashGrid.build(levels=2, features=2, log2_size=6, base=3, growth=2.0)
    g = torch.Generator().manual_seed(0)
    positions = torch.rand(4, 3, generator=g, dtype=torch.float64).requires_grad_()
    table = torch.randn(grid.rows, 2, generator=g, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda p, t: hash_grid._reference(grid, p, t), (positions, table))


def test_the_number_of_threads_changes_no_bit():
    grid = HashGrid.build(levels=8, features=2, log2_size=12)
    positions, table = torch.rand(5000, 3), torch.randn(grid.rows, 2)
    v_out = torch.randn(5000, grid.channels)
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            leaf = table.clone().requires_grad_()
            out = hash_encode(grid, positions, leaf)
            out.backward(v_out)
            results.append((out.detach(), leaf.grad))
    finally:
        torch.set_num_threads(before)
    for out, gradient in results[1:]:
        assert torch.equal(out, results[0][0]) and torch.equal(gradient, results[0][1])


def test_a_grid_point_returns_its_row():
    grid = HashGrid.build(levels=1, features=2, log2_size=15, base=16)  # 16³ points, dense; scale 15
    table = torch.randn(grid.rows, 2)
    cell = torch.tensor([[3, 7, 12]])
    positions = (cell - 0.5) / 15  # p = x·scale + ½ falls on the point
    expected = table[3 + 16 * (7 + 16 * 12)]
    torch.testing.assert_close(hash_encode(grid, positions, table)[0], expected, rtol=1e-4, atol=1e-4)


def test_an_ensemble_with_equal_weights_is_the_blended_table():
    grid = HashGrid.build(levels=3, log2_size=10)
    positions, tables = torch.rand(50, 3), torch.randn(4, grid.rows, 2).requires_grad_()
    weights = torch.rand(4)
    one = hash_encode(grid, positions, hash_grid.blend_tables(tables, weights))
    each = hash_grid.hash_encode_blended(grid, positions, tables, weights.expand(50, 4))
    torch.testing.assert_close(one, each, rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad(each.sum(), tables)
    assert bool(gradient.isfinite().all()) and float(gradient.abs().max()) > 0
    with pytest.raises(ValueError, match="weights must be"):
        hash_grid.hash_encode_blended(grid, positions, tables, weights)
    with pytest.raises(ValueError, match="tables must be"):
        hash_grid.blend_tables(tables, weights[:3])


def test_bad_input_is_named():
    grid = HashGrid.build(levels=2)
    with pytest.raises(ValueError, match=r"positions must be \[N,3\], got \[4, 2\]"):
        hash_encode(grid, torch.rand(4, 2), grid.init())
    with pytest.raises(ValueError, match="table must be"):
        hash_encode(grid, torch.rand(4, 3), torch.rand(3, 2))
    with pytest.raises(ValueError, match="1, 2, 4 or 8 features"):
        HashGrid.build(features=3)


def test_poison_stays_where_it_is():
    grid = HashGrid.build(levels=3, log2_size=10)
    positions = torch.rand(20, 3)
    positions[3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    assert bool(hash_encode(grid, positions, grid.init()).isfinite().all())
