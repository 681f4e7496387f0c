"""What goes on while somebody watches, in a real browser: a training that is paused, a microphone that is followed. Screenshots as in test_browser.py."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from pages import count, newest, on_screen, still, type_slider, until
from synthetic import RED, BallStage

from avatars.drive import ARKIT_NAMES
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


def test_a_voice_opens_the_mouth_and_a_take_is_kept(viewer, fresh, keep) -> None:
    """Chromium's false microphone beeps once a second."""
    page, guest = fresh
    microphone = guest.session.microphone
    still(guest)
    page.get_by_role("tab", name="Live").click()
    page.locator(".mantine-Flex-root", has=page.get_by_text("From", exact=True)).last.get_by_role("combobox").click()
    page.get_by_role("option", name="Microphone").click()
    page.get_by_text("It recognises no sounds").wait_for(timeout=10_000)
    page.get_by_role("button", name="Listen").click()
    until(lambda: microphone.frames > 20, what="sound from the browser")
    assert guest.session.live is microphone
    page.get_by_role("button", name="Record a take").click()
    until(lambda: microphone.recording, what="recording")
    jaw, seen = ARKIT_NAMES.index("jawOpen"), []
    until(lambda: seen.append(microphone.values[jaw]) or max(seen) > 0.2, what="a beep that opens the mouth")
    page.wait_for_timeout(400)
    keep(page, "microphone")
    page.get_by_role("button", name="Stop and keep the take").click()
    until(lambda: guest.session.transport.sequence == "Take", what="the take")
    page.get_by_role("button", name="Stop listening").click()
    until(lambda: not microphone.wanted and guest.session.live is None, what="the closed microphone")
    frames = microphone.frames
    page.wait_for_timeout(500)
    assert microphone.frames <= frames + 10  # the page has let it go


def test_a_browser_without_a_microphone_says_why(viewer, fresh) -> None:
    page, guest = fresh
    page.evaluate("() => { navigator.mediaDevices.getUserMedia = () => Promise.reject(new Error('Permission denied <b>')); }")
    guest.session.microphone.listen()
    until(lambda: guest.session.microphone.trouble == "Permission denied <b>", what="the reason")
    assert not guest.session.microphone.wanted and "Permission denied" in guest.session.microphone.status


def draw_by(page, who: str) -> None:
    page.get_by_role("tab", name="View").click()
    page.locator(".mantine-Flex-root", has=page.get_by_text("Drawn by", exact=True)).last.get_by_role("combobox").click()
    page.get_by_role("option", name=who).click()


def test_the_browser_draws_the_avatar_itself_and_goes_on_where_it_was(viewer, open_page, keep) -> None:
    page = open_page(viewer, 900, 560)
    first = newest(viewer)
    page.keyboard.press("End")
    type_slider(page, "jawOpen", 0.1)
    until(lambda: first.session.desk.held.get("jawOpen") == 0.1 and first.session.transport.frame == 39, what="a time and a face")
    still(first)
    draw_by(page, "browser")
    until(lambda: newest(viewer) is not first and newest(viewer).session.in_browser, 30, what="the page that draws")
    guest = newest(viewer)
    until(lambda: guest.session.splats.shown > 0 and guest.session.transport.frame == 39, what="the Gaussians")
    assert guest.session.desk.held == {"jawOpen": 0.1}
    page.get_by_text("Drawn by this browser").wait_for(timeout=15_000)
    reds = until(lambda: (n := count(on_screen(page), RED, 60)) > 100 and n, 30, what="a red mouth on the screen")
    page.wait_for_timeout(600)
    keep(page, "drawn-by-browser")
    sent, shown = guest.display.sent, guest.session.splats.shown
    type_slider(page, "jawOpen", 1.0)
    until(lambda: guest.session.splats.shown > shown, what="one more message")
    until(lambda: count(on_screen(page), RED, 60) > 1.5 * reds, 30, what="a larger mouth")
    assert guest.display.sent == sent  # no picture was sent meanwhile
    page.get_by_role("radio", name="Truth").click()  # what only the server can draw, the server draws
    until(lambda: guest.session.mode == "Reference" and guest.display.sent > sent, what="the truth")
    page.get_by_role("radio", name="Render").click()
    until(lambda: guest.session.in_browser, what="the browser again")
    draw_by(page, "server")
    until(lambda: newest(viewer) is not guest and newest(viewer).display.sent > 0, 30, what="the server's pictures")
    assert newest(viewer).session.drawn_by == "server" and page.problems == []
