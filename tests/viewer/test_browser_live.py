"""What goes on while somebody watches, in a real browser: a training that is paused. Screenshots as in test_browser.py."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from pages import still, until
from synthetic import BallStage

from avatars.pause import is_paused
from viewer.app import Viewer
from viewer.watch import Watcher


@pytest.fixture(scope="module")
def viewer():
    with Viewer(BallStage()) as running:
        yield running


def test_a_training_is_paused_and_resumed_from_the_page(viewer, fresh, keep, tmp_path: Path) -> None:
    page, guest = fresh
    still(guest)
    event = {"kind": "step", "step": 700, "fraction": 0.4, "seconds": 100.0, "left": 150.0, "psnr": 27.12}
    (tmp_path / "events.jsonl").write_text(json.dumps(event) + "\n")
    watcher = Watcher(tmp_path, None, lambda _: None, lambda text: setattr(viewer.stage, "status", text))
    assert page.get_by_role("button", name="Pause training").count() == 0
    viewer.watcher = watcher
    try:
        watcher.look()
        page.get_by_text("Training: 40 %, 27.1 dB, 2:30 left").wait_for(timeout=10_000)
        until(lambda: viewer.loop.share < 0.5, what="the smaller share of the machine")
        page.get_by_role("button", name="Pause training").click()
        until(lambda: is_paused(tmp_path), what="the file")
        page.get_by_text("Training paused at 40 %").wait_for(timeout=10_000)
        until(lambda: viewer.loop.share == 1.0, what="the whole machine")
        keep(page, "training-paused")
        page.get_by_role("button", name="Resume training").click()
        until(lambda: not is_paused(tmp_path), what="the file to go")
        page.get_by_role("button", name="Pause training").wait_for(timeout=10_000)
        keep(page, "training")
        os.utime(tmp_path / "events.jsonl", (1, 1))  # it was killed
        watcher.look()
        page.get_by_role("button", name="Pause training").wait_for(state="detached", timeout=10_000)
    finally:
        viewer.watcher, viewer.stage.status = None, ""
