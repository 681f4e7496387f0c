"""What `python -m cuda_ext.bench` compares with is right, and its files are whole."""

from __future__ import annotations

import json

import pytest
import torch

from cuda_ext import bench, bench_machine, bench_rows_meshes, bench_rows_volumes, hash_grid
from cuda_ext.bench_scenes import ray_positions


def test_both_plain_hash_grids_agree():
    grid = hash_grid.HashGrid.build(levels=6, log2_size=9)
    positions, table = ray_positions(5, 8), torch.randn(grid.rows, grid.features)
    torch.testing.assert_close(bench_rows_volumes._one_gather(grid, positions, table), hash_grid._reference(grid, positions, table))


def test_rays_stay_in_the_cube_and_go_through_it():
    positions = ray_positions(50, 16)
    assert positions.shape == (800, 3) and positions.min() >= 0 and positions.max() <= 1
    assert (positions.view(50, 16, 3)[:, 1:, 2] > positions.view(50, 16, 3)[:, :-1, 2]).all()


def test_a_report_is_whole_or_not_there(tmp_path):
    file = tmp_path / "report.json"
    bench._write(file, json.dumps({"rows": []}))
    with pytest.raises(UnicodeEncodeError):
        bench._write(file, "\ud800")
    assert json.loads(file.read_text()) == {"rows": []}
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_kernels_that_are_wrong_or_not_finite_get_no_times(monkeypatch):
    figures = bench_rows_meshes.gate() | bench_rows_volumes.gate()
    assert all(v <= bench.LIMITS.get(k, 1e-4) for k, v in figures.items()) and bench.LIMITS.keys() & figures.keys()
    for family in (bench.splat, bench.training, bench.head):
        monkeypatch.setattr(family, "gate", lambda: {})
    assert bench.gate() == figures
    for wrong in (1.1e-5, float("nan")):
        monkeypatch.setattr(bench.meshes, "gate", lambda wrong=wrong: {"mesh_max": wrong})
        with pytest.raises(SystemExit, match="the kernels are wrong here, no times: mesh_max"):
            bench.gate()


def test_a_child_measures_the_instruction_set_that_it_was_asked_for():
    child = bench_machine._Child("base")
    try:
        assert 0 < child.measure(200, 32, 0.0) < float("inf")
    finally:
        child.close()
    assert child.process.returncode == 0
