"""The hash grid on the CPU against the float64 reference, and the laws of its layout."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cuda_ext import available, hash_grid
from cuda_ext.hash_grid import HashGrid, blend_tables, hash_encode, hash_encode_blended
from cuda_ext.library import open_library

pytestmark = pytest.mark.skipif(
    not hasattr(open_library("cpu")[0], "av_hash_encode"), reason="the CPU library has no hash grid: rebuild it"
)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.detach().double() - b.detach()).norm() / b.detach().norm())


def positions_of(n: int, seed: int = 0) -> torch.Tensor:
    """Inside, outside, and on the faces of the unit cube."""
    g = torch.Generator().manual_seed(seed)
    positions = 1.2 * torch.rand(n, 3, generator=g) - 0.1
    positions[: min(n, 2)] = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])[:n]
    return positions


def agrees(grid: HashGrid, n: int, heads: int | None = None, tolerance: float = 1e-5) -> None:
    """Features and all gradients are those of the reference in float64."""
    g = torch.Generator().manual_seed(grid.features)
    row = (grid.features,) if heads is None else (heads, grid.features)
    inputs = [positions_of(n), torch.randn(grid.rows, *row, generator=g)]
    functions = hash_encode, hash_grid._reference
    if heads is not None:
        inputs.append(torch.randn(n, heads, generator=g))
        functions = hash_encode_blended, hash_grid._reference_blended
    v_out = torch.randn(n, grid.channels, generator=g)
    exact = [t.double().requires_grad_() for t in inputs]
    expected = functions[1](grid, *exact)
    expected.backward(v_out.double())
    leaves = [t.clone().requires_grad_() for t in inputs]
    out = functions[0](grid, *leaves)
    out.backward(v_out)
    assert out.shape == (n, grid.channels)
    if n:
        assert relative(out, expected) <= tolerance
        for leaf, right, what in zip(leaves, exact, ("positions", "table", "weights"), strict=False):
            assert relative(leaf.grad, right.grad) <= tolerance, what
    else:
        assert all(float(leaf.grad.abs().sum()) == 0 for leaf in leaves)
    for i in range(len(inputs)):  # one gradient alone is the same as with the others
        alone = [t.clone().requires_grad_(i == k) for k, t in enumerate(inputs)]
        functions[0](grid, *alone).backward(v_out)
        assert torch.equal(alone[i].grad, leaves[i].grad)


@pytest.mark.parametrize("features", [1, 2, 4, 8])
@pytest.mark.parametrize("n", [0, 1, 333])
def test_matches_the_reference(features, n):
    agrees(HashGrid.build(levels=6, features=features, log2_size=9, base=4, growth=1.7), n)


# W = heads · features: below sixteen, sixteen, one and a half times, many; and one head, which is the plain grid times its weight
@pytest.mark.parametrize("features,heads", [(1, 5), (2, 8), (4, 6), (8, 2), (2, 1), (2, 33)])
@pytest.mark.parametrize("n", [0, 1, 333])
def test_an_ensemble_matches_the_reference(features, heads, n):
    agrees(HashGrid.build(levels=5, features=features, log2_size=9, base=4, growth=1.7), n, heads)


@pytest.mark.parametrize(
    "resolutions,rows",
    [((7, 9), (343, 300)), ((5, 40), (129, 1000)), ((3, 30), (1, 1000)), ((2, 2), (8, 9))],
    ids=["a dense level without a row to spare", "sizes that are no power of two", "a single row", "a single cell"],
)
def test_grids_that_are_not_built_by_the_rule(resolutions, rows):
    offsets = (0, rows[0], rows[0] + rows[1])
    grid = HashGrid(tuple(r - 1.4 for r in resolutions), resolutions, offsets, 2)
    agrees(grid, 200)
    agrees(grid, 200, heads=3)


def test_a_resolution_that_belies_the_scale_reads_nothing_outside():
    grid = HashGrid((200.0,), (4,), (0, 64), 2)  # said to have 4 points per side, used with 200
    agrees(grid, 100, tolerance=1e-4)


def test_a_large_level_is_read_ahead_with_the_same_result():
    """Many positions on a table that no core's own cache holds."""
    agrees(HashGrid.build(levels=2, log2_size=17, base=60, growth=8), 9000, tolerance=1e-4)


@pytest.mark.parametrize("isa", ["base", "avx2"])
def test_older_instruction_sets_agree(isa):
    if isa == "avx2" and available()["cpu"] not in ("native (avx2)", "native (avx512)"):
        pytest.skip("the machine has no AVX2")
    script = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
import cuda_ext
from test_hash_grid import HashGrid, agrees, tables_agree
print(cuda_ext.available()["cpu"])
for features in (1, 2, 4, 8):
    grid = HashGrid.build(levels=5, features=features, log2_size=9, base=4, growth=1.7)
    agrees(grid, 200)
    agrees(grid, 50, heads=3)
    tables_agree(100, 5, features)
"""
    done = subprocess.run([sys.executable, "-c", script], env={**os.environ, "AVATARS_ISA": isa}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"native ({isa})" in done.stdout


def test_gradients_of_the_reference_by_finite_differences():
    grid = HashGrid.build(levels=2, features=2, log2_size=6, base=3, growth=2.0)
    g = torch.Generator().manual_seed(0)
    positions = torch.rand(4, 3, generator=g, dtype=torch.float64).requires_grad_()
    table = torch.randn(grid.rows, 2, generator=g, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda p, t: hash_grid._reference(grid, p, t), (positions, table))


def test_the_number_of_threads_changes_no_bit():
    grid = HashGrid.build(levels=8, features=2, log2_size=12)
    inputs = [torch.rand(5000, 3), torch.randn(grid.rows, 2)], [torch.rand(5000, 3), torch.randn(grid.rows, 5, 2), torch.rand(5000, 5)]
    v_out = torch.randn(5000, grid.channels)
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            found = []
            for function, tensors in zip((hash_encode, hash_encode_blended), inputs, strict=True):
                leaves = [t.clone().requires_grad_() for t in tensors]
                out = function(grid, *leaves)
                out.backward(v_out)
                found += [out.detach(), *(leaf.grad for leaf in leaves)]
            tables, weights = torch.ones(9000, 3, 2).cumsum(0).log().requires_grad_(), torch.arange(3.0).requires_grad_()
            found += [one := blend_tables(tables, weights), *torch.autograd.grad(one.square().sum(), [tables, weights])]
            results.append(found)
    finally:
        torch.set_num_threads(before)
    for found in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found, results[0], strict=True))


def test_a_grid_point_returns_its_row():
    grid = HashGrid.build(levels=1, features=2, log2_size=15, base=16)  # 16³ points, dense; scale 15
    table = torch.randn(grid.rows, 2)
    cell = torch.tensor([[3, 7, 12]])
    positions = (cell - 0.5) / 15  # p = x·scale + ½ falls on the point
    expected = table[3 + 16 * (7 + 16 * 12)]
    torch.testing.assert_close(hash_encode(grid, positions, table)[0], expected, rtol=1e-4, atol=1e-4)


def test_an_ensemble_with_equal_weights_is_the_blended_table():
    grid = HashGrid.build(levels=3, log2_size=10)
    positions, tables = torch.rand(50, 3), torch.randn(grid.rows, 4, 2)
    weights = torch.rand(4)
    one = hash_encode(grid, positions, blend_tables(tables, weights))
    each = hash_encode_blended(grid, positions, tables, weights.expand(50, 4))
    torch.testing.assert_close(one, each, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"weights must be \[50, 4\], got \[4\]"):
        hash_encode_blended(grid, positions, tables, weights)
    with pytest.raises(ValueError, match="tables must be"):
        blend_tables(tables, weights[:3])
    with pytest.raises(ValueError, match="tables must be"):
        hash_encode_blended(grid, positions, tables.transpose(0, 1), weights.expand(50, 4))


def tables_agree(rows: int, heads: int, features: int) -> None:
    """The table and both gradients are those of the reference in float64."""
    g = torch.Generator().manual_seed(heads)
    inputs = torch.randn(rows, heads, features, generator=g), torch.randn(heads, generator=g)
    v_out = torch.randn(rows, features, generator=g)
    exact = [t.double().requires_grad_() for t in inputs]
    expected = hash_grid._reference_tables(*exact)
    expected.backward(v_out.double())
    leaves = [t.clone().requires_grad_() for t in inputs]
    out = blend_tables(*leaves)
    out.backward(v_out)
    assert relative(out, expected) <= 1e-5
    for i, (leaf, right) in enumerate(zip(leaves, exact, strict=True)):
        assert relative(leaf.grad, right.grad) <= 1e-5
        alone = [t.clone().requires_grad_(i == k) for k, t in enumerate(inputs)]
        blend_tables(*alone).backward(v_out)
        assert torch.equal(alone[i].grad, leaf.grad)


@pytest.mark.parametrize("heads,features", [(1, 1), (5, 1), (8, 2), (6, 4), (3, 8), (33, 2), (64, 8)])
@pytest.mark.parametrize("rows", [1, 16, 9001])
def test_blended_tables_match_the_reference(rows, heads, features):
    tables_agree(rows, heads, features)


def test_an_empty_ensemble_has_gradients():
    tables, weights = torch.zeros(0, 3, 2, requires_grad=True), torch.rand(3, requires_grad=True)
    blend_tables(tables, weights).sum().backward()
    assert tables.grad.shape == (0, 3, 2) and torch.equal(weights.grad, torch.zeros(3))
    with pytest.raises(ValueError, match="tables must be"):
        blend_tables(torch.zeros(4, 65, 2), torch.rand(65))
    with pytest.raises(ValueError, match="tables must be"):
        blend_tables(torch.zeros(4, 3, 5), torch.rand(3))


def test_a_table_of_large_pages_is_a_tensor_like_any_other(tmp_path):
    grid = HashGrid.build(levels=8, log2_size=19)
    table = grid.init()
    assert 0 < float(table.abs().max()) <= 1e-4
    torch.save(table, tmp_path / "table.pt")
    assert torch.equal(torch.load(tmp_path / "table.pt", weights_only=True), table)
    assert torch.equal(copy.deepcopy(table.requires_grad_()), table)


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
    ensemble = torch.randn(grid.rows, 3, 2).requires_grad_()
    out = hash_encode_blended(grid, positions.requires_grad_(), ensemble, torch.rand(20, 3))
    assert bool(out.isfinite().all())
    out.sum().backward()
    assert bool(positions.grad.isfinite().all()) and bool(ensemble.grad.isfinite().all())
    weights = torch.rand(20, 3)
    weights[5, 1] = torch.nan
    assert hash_encode_blended(grid, positions, ensemble, weights).isnan().any(1).nonzero().flatten().tolist() == [5]
