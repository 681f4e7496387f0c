"""What `python -m cuda_ext.bench` compares with is right, and its files are whole."""

from __future__ import annotations

import json

import pytest
import torch

from cuda_ext import (
    bench,
    bench_cuda,
    bench_cuda_page,
    bench_cuda_times,
    bench_machine,
    bench_rows_hash,
    bench_rows_meshes,
    bench_rows_volumes,
    hash_grid,
)
from cuda_ext.bench_scenes import head_positions


def test_both_plain_hash_grids_agree():
    grid = hash_grid.HashGrid.build(levels=6, log2_size=9)
    positions, table = head_positions(40), torch.randn(grid.rows, grid.features)
    torch.testing.assert_close(bench_rows_hash._one_gather(grid, positions, table), hash_grid._reference(grid, positions, table))


def test_positions_go_through_the_cube_ray_by_ray():
    positions = head_positions(2000)
    assert positions.shape == (2000, 3) and positions.min() >= 0 and positions.max() <= 1
    step = positions.diff(dim=0)
    assert (step[:, 2] > 0).float().mean() > 0.95  # away from the camera; back for the next ray
    assert (step.norm(dim=1) < 0.003).float().mean() > 0.9  # by one step; the inside of the head is empty
    assert 5 < (step[:, 2] < 0).sum() < 100


def test_a_report_is_whole_or_not_there(tmp_path):
    file = tmp_path / "report.json"
    bench._write(file, json.dumps({"rows": []}))
    with pytest.raises(UnicodeEncodeError):
        bench._write(file, "\ud800")
    assert json.loads(file.read_text()) == {"rows": []}
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_kernels_that_are_wrong_or_not_finite_get_no_times(monkeypatch):
    figures = bench_rows_meshes.gate() | bench_rows_volumes.gate() | bench_rows_hash.gate()
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


def test_handing_over_is_measured_on_one_and_on_two_threads():
    before = torch.get_num_threads()
    (found,) = bench_machine.handing_over(0.0)
    torch.set_num_threads(before)
    assert 0.5 < found.figure < 20 and "on two threads" in bench_machine.table([found])


def test_every_row_of_the_cuda_bench_runs():
    report = bench_cuda.rehearse().figures
    assert len(report["rows"]) > 25 and all(row["latency"] > 0 for row in report["rows"])
    page = bench_cuda_page.markdown(report)
    assert "Failed" not in page and all(f"| {row['what']} | {row['who']} |" in page for row in report["rows"])


def test_a_row_that_fails_on_a_gpu_stops_no_other(tmp_path, monkeypatch, capsys):
    times = {"stream": 1.0, "latency": 3.0, "kernels": None, "by_kernel": {}, "graph": None}
    monkeypatch.setattr(bench_cuda_times, "measure", lambda call, graph: times | {"stream": call()})
    report = bench_cuda_times.Report({"card": "X", "torch": "2", "cuda": "13"}, tmp_path / "bench.json")
    report.note("gate", {"color": 1e-6})
    report.add("a", "ours", lambda: lambda: 2.0)
    report.add("a", "torch", lambda: lambda: 5.0)
    report.add("b", "ours", lambda: lambda: 1 / 0)
    kept = json.loads((tmp_path / "bench.json").read_text())
    assert [row.get("error", "") for row in kept["rows"]] == ["", "", "ZeroDivisionError: division by zero"]
    page = bench_cuda_page.markdown(kept)
    assert "| a |  | 2.5× |  | 1.0× |" in page and "- b, ours: ZeroDivisionError" in page
    assert "failed" in capsys.readouterr().out
