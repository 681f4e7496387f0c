"""Watching a training that is under way, on the toy person."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from synthetic import BallStage

from avatars import deform
from avatars.errors import AvatarError, UserError
from avatars.train import PAUSE_SECONDS, TrainConfig, train
from viewer.app import Viewer
from viewer.avatar_stage import AvatarStage, open_stage
from viewer.loop import RenderLoop
from viewer.stage import Request
from viewer.watch import FRESH, Watcher, avatar_in_training, in_training, progress

CONFIG = TrainConfig(
    minutes=0.0, steps=40, gaussians=300, views=2, refine_every=100, held_out_cameras=("b",), held_out_sequences=("TWO",),
    deform=deform.DeformSettings(bases=3, hidden=8), cache_megabytes=10, checkpoint_seconds=0.0,
)  # fmt: skip


@pytest.fixture
def training(tiny_tracked, tmp_path: Path):
    """(folder, events) of a training that has written its first checkpoint and goes on when `events` is advanced."""
    events = train(tiny_tracked, CONFIG, tmp_path / "run")
    while (event := next(events)).kind != "checkpoint" or event.step < 11:
        pass
    yield tmp_path / "run", events
    events.close()


def test_a_training_is_shown_while_it_runs_and_when_it_ends(training, tiny_tracked) -> None:
    folder, events = training
    assert in_training(folder)
    stage = open_stage(folder, tiny_tracked.folder)
    assert stage.references == ("Truth",) and stage.held_out == {"b", "TWO"} and stage.name == "run"
    adopted, said = [], []
    watcher = Watcher(folder, tiny_tracked, adopted.append, said.append)
    assert not watcher.look() and adopted == []
    for event in events:
        if event.kind == "checkpoint" and event.step >= 30:
            break
    assert watcher.look() and len(adopted) == 1 and "Training:" in said[-1] and "dB" in said[-1]
    before = stage.measure(1, "a", "")
    stage.adopt(adopted[0])
    assert not np.array_equal(stage.measure(1, "a", ""), before)
    list(events)
    assert watcher.look() and not in_training(folder) and len(adopted) == 2
    assert len(adopted[1].timeline.codes) == len(tiny_tracked.codes)
    assert not watcher.look()
    shutil.rmtree(folder)
    assert not watcher.look() and said[-1] == ""


def test_what_cannot_be_watched_is_said(training, tiny_tracked, tmp_path: Path) -> None:
    folder, _ = training
    with pytest.raises(AvatarError, match="still being trained"):
        open_stage(folder)
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    text = (other / "train.toml").read_text()
    (other / "train.toml").write_text("steps = 41\n" + "\n".join(line for line in text.splitlines() if not line.startswith("steps")))
    with pytest.raises(AvatarError, match="no checkpoint"):
        avatar_in_training(other, tiny_tracked)
    (folder / "checkpoint.safetensors").write_bytes(b"half")
    adopted = []
    watcher = Watcher(folder, tiny_tracked, adopted.append, lambda _: None)
    os.utime(folder / "checkpoint.safetensors", (1, 1))
    assert not watcher.look() and adopted == []


def test_progress_is_silent_about_trainings_that_do_not_run(training, tmp_path: Path) -> None:
    folder, _ = training
    assert progress(folder).startswith("Training: ")
    assert progress(folder, time.time() + 2 * FRESH) == "" and progress(tmp_path) == ""
    (folder / "events.jsonl").write_text('{"step": 1}\nrubbish\n{"half')
    assert progress(folder) == ""


def test_another_head_is_not_adopted(toy_stage) -> None:
    alone = AvatarStage(toy_stage.avatar, None)
    with pytest.raises(ValueError):
        alone.expression_names = ("other",)
        alone.adopt(toy_stage.avatar)


def test_a_changed_stage_is_drawn_again_and_measured_anew() -> None:
    with Viewer(BallStage()) as viewer:
        viewer._curves["front <1>"] = np.zeros(88)
        changed = []
        viewer.change_stage(lambda: changed.append(1))
        deadline = time.monotonic() + 5
        while (not changed or viewer._curves) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert changed == [1] and viewer._curves == {}


def test_a_training_waits_while_it_is_paused_and_ends_with_the_same_bits(tiny_tracked, tmp_path: Path) -> None:
    whole = list(train(tiny_tracked, CONFIG, tmp_path / "whole"))
    folder = tmp_path / "run"
    events = train(tiny_tracked, CONFIG, folder)
    while (event := next(events)).step < 11:
        pass
    watcher = Watcher(folder, tiny_tracked, lambda _: None, lambda _: None)
    watcher.look()
    assert watcher.state == "running"
    watcher.pause()
    assert watcher.state == "paused" and progress(folder).startswith("Training paused at ")
    step, seconds = event.step, event.seconds
    os.utime(folder / "events.jsonl", (1, 1))
    waiting = [e for e in (next(events) for _ in range(4)) if e.kind == "paused"]
    assert len(waiting) >= 2 and all(e.step == waiting[0].step >= step for e in waiting)
    assert progress(folder), "a training that waits is alive"
    events.close()  # killed while it waits: neither the work nor the pause is lost
    events = train(tiny_tracked, CONFIG, folder)
    again = [next(events) for _ in range(3)]
    assert [e.kind for e in again] == ["start", "paused", "paused"] and again[0].step == waiting[0].step
    watcher.resume()
    last = list(events)[-1]
    assert last.kind == "done" and last.step == whole[-1].step and last.seconds - seconds < whole[-1].seconds + 2 * PAUSE_SECONDS
    assert not (folder / "paused").exists()
    for name in ("avatar.safetensors", "sequences.npz"):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_folder_that_is_gone_is_an_error_with_its_name(tmp_path: Path) -> None:
    watcher = Watcher(tmp_path / "gone", None, lambda _: None, lambda _: None)
    with pytest.raises(UserError, match="gone"):
        watcher.pause()


def test_the_viewer_keeps_to_its_share_while_a_training_runs() -> None:
    class Greedy:
        """Always wants a picture."""

        def wants(self, now: float) -> float:
            return 0.0

        def take(self, now: float) -> Request:
            return Request(16, 16, (0.0,) * 16, 0.4)

        def show(self, request: Request, picture: np.ndarray, seconds: float) -> None: ...

        fail = show  # type: ignore[assignment]

    def share() -> float:
        stage = BallStage(seconds=0.01)
        with RenderLoop(stage) as loop:
            loop.share = wanted
            drawing = 0.0
            render = stage.render

            def timed(request: Request) -> np.ndarray:
                nonlocal drawing
                started = time.monotonic()
                picture = render(request)
                drawing += time.monotonic() - started
                return picture

            stage.render = timed  # type: ignore[method-assign]
            started = time.monotonic()
            loop.add(Greedy())
            time.sleep(0.7)
            return drawing / (time.monotonic() - started)

    wanted = 1.0
    assert share() > 0.6
    wanted = 0.25
    assert share() < 0.3
