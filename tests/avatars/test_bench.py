"""The benchmark of a training step: its gate opens and closes, and its times are of real steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from avatars import bench
from avatars.__main__ import main
from avatars.errors import AvatarError
from cuda_ext import ops


def test_the_kernels_and_the_reference_agree_about_a_step() -> None:
    figures = bench.gate(32)
    assert {
        "loss",
        "means",
        "sh",
        "deform.each_basis",
        "deform.output",
        "codes.expression",
        "codes.joints",
        "codes.translation",
    } <= figures.keys()
    assert max(figures.values()) < bench.GRADIENT_LIMIT


def test_a_wrong_gradient_closes_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ops.carry

    def wrong(*tensors, **options):
        *out, cost = right(*tensors, **options)
        means = tensors[5]
        return (*out, cost + 1e-3 * means.mean() if ops.available()["policy"] == "native" else cost)

    monkeypatch.setattr(ops, "carry", wrong)
    with pytest.raises(AvatarError, match="disagree about a training step: .*means by"):
        bench.gate(32)


def test_steps_are_measured_part_by_part() -> None:
    tracked, cache, head = bench.synthetic(40, 2)
    assert tracked.frame_count == 2 and cache.get(1, 3).shape == (40, 40, 4) and 0.15 < (cache.get(0, 1)[..., 3] > 127).mean() < 0.9
    trainer = bench.trainer_for(tracked, cache, head, bench.config_for(400, 2, 1000))
    times = bench.measure(trainer, 1, 65, warm=5)
    assert trainer.step == 135 and times.views == 2 and times.gaussians == len(trainer.face_ids) and torch.get_num_threads() >= 1
    assert 0 < times.cpu_min <= times.cpu_median and 0 < times.wall_min <= times.wall_median
    parts = {p.name: p for p in times.parts}
    assert parts["splat backward"].per_step == parts["Adam"].per_step == parts["skin"].per_step == 1
    assert parts["running figures"].per_step == pytest.approx(0.1, abs=0.02) and 0 < parts["densification"].per_step < 0.1
    assert "splat" in bench.table(times) and f"{len(trainer.face_ids)} Gaussians" in bench.table(times)


def test_the_command_prints_and_writes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked = []
    monkeypatch.setattr(bench, "gate", lambda: {"loss": 1e-7})
    times = bench.StepTimes(2, 500, 3, 300.0, 1.0, 2.0, 3.0, 4.0, [bench.Part("splat", 0.5, 0.6, 1.0)])
    monkeypatch.setattr(bench, "step_times", lambda *arguments: asked.append(arguments) or times)
    assert main(["bench", "--training", "--quick", "--views", "3", "--gaussians", "500", "--json", str(tmp_path / "b.json")]) == 0
    assert asked == [(None, 500, 3, 2, 60)]
    assert "250 steps a second at the median, 333 at best" in capsys.readouterr().out
    assert json.loads((tmp_path / "b.json").read_text())["step"]["parts"][0]["name"] == "splat"
    assert main(["bench", "--training", "--tracked", str(tmp_path / "none")]) != 0
