"""The viewer in a real browser: what a person does, asserted on pixels. Screenshots are kept in test-artifacts/viewer."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from pages import count, newest, on_screen, still, tone, type_slider, until
from synthetic import RED, RIVAL_SKIN, SKIN, TRUTH_SKIN, BallStage

from avatars.drive import ARKIT_NAMES
from avatars.png import read_png_parameters
from viewer.app import Viewer
from viewer.bench_sound import sound_drift
from viewer.film import film
from viewer.live import encode


@pytest.fixture(scope="module")
def viewer(tmp_path_factory: pytest.TempPathFactory):
    stage = BallStage(sound=tone(tmp_path_factory.mktemp("sound") / "SEN-1.wav"))
    with Viewer(stage) as running:
        yield running


def test_a_slider_moves_what_it_names_and_nothing_else(viewer, fresh, keep) -> None:
    page, guest = fresh
    before = still(guest)
    canvas = page.locator("#root canvas").first.bounding_box()
    assert abs(before.shape[1] / before.shape[0] - canvas["width"] / canvas["height"]) < 0.02
    keep(page, "first-picture")
    # The browser shows what was drawn.
    assert count(on_screen(page), RED) == pytest.approx(
        count(before, RED) * canvas["width"] * canvas["height"] / before[..., 0].size, rel=0.1
    )

    started = time.monotonic()
    type_slider(page, "jawOpen", 0.9)
    until(lambda: guest.session.desk.held.get("jawOpen") == 0.9, what="the slider")
    after = still(guest)
    latency = time.monotonic() - started
    keep(page, "jaw-open")
    assert count(after, RED) > 3 * count(before, RED)
    top = slice(0, int(0.55 * len(before)))  # eyes and forehead
    assert np.array_equal(after[top], before[top])
    assert count(on_screen(page), RED) > 2.5 * count(before, RED)
    assert latency < 5

    page.keyboard.press("Escape")
    page.locator("#av-line").focus()
    page.keyboard.press("z")  # undo
    until(lambda: not guest.session.desk.held, what="undo")
    assert np.array_equal(still(guest), before)


def test_playing_and_pausing_with_sound_in_step(viewer, fresh, keep) -> None:
    page, guest = fresh
    still(guest)
    page.get_by_label("Sequence").select_option("SEN-1")
    until(lambda: guest.session.transport.sequence == "SEN-1", what="the sequence")
    sent = guest.display.sent
    page.get_by_label("Play or pause").click()
    until(lambda: guest.display.sent > sent + 8, what="moving pictures")
    page.wait_for_timeout(600)
    assert not guest.display.last_exact
    drifts = []
    for _ in range(12):
        page.wait_for_timeout(100)
        drift = page.evaluate(
            "(() => { const a = document.querySelector('#av audio'); return a.paused ? null : Number(a.dataset.drift); })()"
        )
        drifts += [drift] if drift is not None else []
    keep(page, "playing")
    assert drifts and abs(float(np.median(drifts))) < 0.08
    page.keyboard.press(" ")
    until(lambda: not guest.session.transport.playing, what="pause")
    frame = guest.session.transport.frame
    exact = still(guest)
    page.keyboard.press("ArrowRight")
    until(lambda: guest.session.transport.frame != frame, what="a step")
    assert guest.session.transport.frame in (frame + 1, 40)
    assert not np.array_equal(still(guest), exact)


def test_the_sound_does_not_drift_from_what_is_on_the_screen(browser, keep) -> None:
    """Nine seconds here; `python -m viewer.bench` listens for a minute."""
    measured = sound_drift(BallStage(), browser, 900, 560, 9.0, lambda page: keep(page, "sound"))
    assert measured["sound_seconds"] > 8 and measured["sound_drift_ms"] <= 40, measured


def test_two_browsers_have_their_own_time_mode_and_face(viewer, fresh, open_page) -> None:
    page, guest = fresh
    mine = still(guest)
    other_page = open_page(viewer, 640, 480)
    other = newest(viewer)
    assert other is not guest
    other_page.keyboard.press("End")
    other_page.keyboard.press("2")
    until(lambda: other.session.mode == "Reference" and other.session.transport.frame == 39, what="the other page")
    theirs = still(other)
    assert count(theirs, SKIN) == 0 and count(theirs, TRUTH_SKIN) > 1000
    assert np.array_equal(still(guest), mine) and guest.session.mode == "Render" and guest.session.transport.frame == 0
    other_page.context.close()
    until(lambda: other not in viewer.guests.values(), what="the departure")
    page.keyboard.press("ArrowRight")
    until(lambda: guest.session.transport.frame == 1, what="a step after the other left")


def test_comparing_with_the_truth(viewer, fresh, keep) -> None:
    page, guest = fresh
    page.get_by_role("radio", name="Wipe").click()
    until(lambda: guest.session.mode == "Wipe", what="wipe")
    picture = still(guest)
    half = picture.shape[1] // 2
    assert count(picture[:, : half - 20], SKIN) == 0 and count(picture[:, half + 20 :], SKIN) > 1000
    until(
        lambda: viewer.curve(guest.session) is not None and not np.isnan(viewer.curve(guest.session)[:, 0, 0]).any(), what="the PSNR curve"
    )
    keep(page, "wipe")
    handle = page.locator("#av-wipe").bounding_box()
    page.mouse.move(handle["x"] + 14, 300)
    page.mouse.down()
    page.mouse.move(120, 300, steps=3)
    page.mouse.up()
    until(lambda: guest.session.wipe < 0.2, what="the wipe")
    assert count(still(guest), SKIN) > count(picture, SKIN)
    page.get_by_text("Worst frame").click()
    until(lambda: guest.session.transport.frame == 55, what="the worst frame")
    figures = page.locator("#av-figures")
    until(lambda: "27.0" in figures.inner_text(), what="the figures of that frame")
    assert "0.900" in figures.inner_text() and "–" in figures.inner_text()  # eyes are not seen
    page.get_by_role("button", name="Mouth", exact=True).click()
    until(lambda: guest.session.region == "mouth", what="the mouth's curve")
    until(lambda: "PSNR of the mouth" in page.locator("#av .psnr").inner_text(), what="its figure")
    page.get_by_text("Worst frame").click()
    until(lambda: guest.session.transport.frame == 60, what="the mouth's worst frame")
    keep(page, "regions")
    page.get_by_role("button", name="Foreground", exact=True).click()
    page.get_by_role("radio", name="Side by side").click()
    until(lambda: guest.session.mode == "Side by side", what="side by side")
    picture = still(guest)
    assert count(picture[:, :half], SKIN) == 0 and count(picture[:, half:], SKIN) > 500
    page.wait_for_timeout(300)
    keep(page, "side-by-side")
    page.keyboard.press("6")
    until(lambda: guest.session.mode == "Error", what="error")
    assert count(still(guest), (0, 0, 0)) > 1000
    # Dragging the stage leaves the capture's camera.
    page.mouse.move(300, 500)
    page.mouse.down()
    page.mouse.move(380, 470, steps=4)
    page.mouse.up()
    until(lambda: guest.session.camera is None and guest.session.mode == "Render", what="a free view")
    turned = still(guest)
    page.keyboard.press("f")
    until(lambda: not np.array_equal(still(guest), turned), what="the front")


def test_comparing_with_another_avatar(viewer, fresh, keep) -> None:
    page, guest = fresh
    still(guest)
    page.get_by_label("Compare with").select_option("Rival")
    page.get_by_role("radio", name="Wipe").click()
    until(lambda: guest.session.mode == "Wipe" and guest.session.against == "Rival", what="the rival")
    picture = still(guest)
    assert count(picture, RIVAL_SKIN) > 1000 and count(picture, SKIN) > 1000 and guest.session.camera is None
    page.wait_for_timeout(200)
    keep(page, "two-avatars")


def test_searching_presets_and_saving(viewer, fresh, keep, tmp_path: Path) -> None:
    page, guest = fresh
    before = still(guest)
    search = page.locator(".mantine-Flex-root", has=page.get_by_text("Find", exact=True)).last.get_by_role("textbox")
    search.fill("jaw op")
    page.get_by_text("mouthClose", exact=True).wait_for(state="detached")
    assert page.get_by_text("jawOpen", exact=True).is_visible()
    keep(page, "search")
    search.fill("")
    page.locator(".mantine-Flex-root", has=page.get_by_text("Preset", exact=True)).last.get_by_role("combobox").click()
    page.get_by_role("option", name="Eyes closed").click()
    until(lambda: guest.session.desk.held.get("eyeBlinkLeft") == 1.0, what="the preset")
    closed = still(guest)
    assert count(closed, (245, 245, 245)) < 0.1 * count(before, (245, 245, 245))
    with page.expect_download() as download:
        page.get_by_label("Save picture").click()
    target = tmp_path / "saved.png"
    download.value.save_as(target)
    saved = cv2.cvtColor(cv2.imread(str(target)), cv2.COLOR_BGR2RGB)
    assert np.array_equal(saved, closed)
    parameters = read_png_parameters(target)
    assert parameters["avatar"] == viewer.stage.name
    assert dict(map(tuple, parameters["request"]["controls"]["held"]))["eyeBlinkLeft"] == 1.0
    json.dumps(parameters)


def test_loading_a_performance_and_filming_it(viewer, fresh, keep, tmp_path: Path) -> None:
    page, guest = fresh
    still(guest)
    page.get_by_role("tab", name="Clip").click()
    (tmp_path / "talk <b>.csv").write_bytes(b"take 4567890")
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Load a performance").click()
    chooser.value.set_files(str(tmp_path / "talk <b>.csv"))
    until(lambda: guest.session.transport.sequence == "talk <b>", what="the take on the timeline")
    assert guest.session.transport.bounds == (88, 100)
    keep(page, "clip")
    with page.expect_download(timeout=30_000) as download:
        page.get_by_role("button", name="Film this range").click()
    download.value.save_as(tmp_path / "film.mp4")
    import av

    with av.open(str(tmp_path / "film.mp4")) as container:
        assert len(list(container.decode(video=0))) == 12
    (tmp_path / "bad.csv").write_bytes(b"nothing")
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Load a performance").click()
    chooser.value.set_files(str(tmp_path / "bad.csv"))
    page.get_by_text("bad.csv is not a take.").wait_for(timeout=10_000)


def test_a_film_is_given_up(viewer, fresh, monkeypatch: pytest.MonkeyPatch) -> None:
    page, guest = fresh
    still(guest)

    def slowly(*arguments):
        for step in film(*arguments):
            time.sleep(0.05)
            yield step

    monkeypatch.setattr("viewer.clip_panel.film", slowly)
    downloads = []
    page.on("download", lambda found: downloads.append(found))
    page.get_by_role("tab", name="Clip").click()
    button = page.get_by_role("button", name="Film this range")
    button.click()
    page.get_by_role("button", name="Give up").click()
    page.get_by_role("button", name="Give up").wait_for(state="hidden", timeout=10_000)
    assert button.is_enabled() and downloads == []


def test_a_phone_drives_the_face_and_a_take_is_kept(viewer, fresh, keep) -> None:
    page, guest = fresh
    calm = still(guest)
    page.get_by_role("tab", name="Live").click()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    box = page.locator(".mantine-Flex-root", has=page.get_by_text("UDP port", exact=True)).last.get_by_role("textbox")
    box.fill(str(port))
    box.press("Enter")
    page.get_by_role("button", name="Listen").click()
    until(lambda: viewer.live.port == port, what="the open port")
    values = np.zeros(61)
    values[ARKIT_NAMES.index("jawOpen")] = 1.0
    phone = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    phone.sendto(b"rubbish", ("127.0.0.1", port))
    phone.sendto(encode("Jo <i>", values), ("127.0.0.1", port))
    until(lambda: guest.session.live is not None and viewer.live.values, what="the phone")
    assert count(still(guest), RED) > 3 * count(calm, RED)
    page.get_by_role("button", name="Record a take").click()
    until(lambda: viewer.live.recording, what="recording")
    for i in range(8):
        values[ARKIT_NAMES.index("jawOpen")] = i / 8
        phone.sendto(encode("Jo <i>", values), ("127.0.0.1", port))
        page.wait_for_timeout(20)
    page.get_by_role("button", name="Stop and keep the take").click()
    until(lambda: guest.session.transport.sequence == "Take", what="the take")
    page.wait_for_timeout(300)
    assert "Jo <i>" in viewer.live.status and "1 packet refused" in viewer.live.status
    keep(page, "live")
    page.get_by_role("button", name="Stop listening").click()
    until(lambda: not viewer.live.listening, what="the closed port")
    phone.close()


def test_errors_are_shown_and_survived(viewer, fresh, keep) -> None:
    page, guest = fresh
    still(guest)
    viewer.stage.fail = "the renderer <img src=x onerror=alert(1)> has no memory."
    try:
        page.keyboard.press("ArrowRight")
        alert = page.locator("#av-say [role=alert]")
        alert.wait_for(timeout=10_000)
        assert "<img src=x" in alert.inner_text() and page.locator("#av-say img").count() == 0
        keep(page, "error")
    finally:
        viewer.stage.fail = None
    page.keyboard.press("ArrowRight")
    alert.wait_for(state="detached", timeout=10_000)
    # A strange name is only text, too.
    assert page.locator("#av b:has-text('head'), #root b:has-text('head')").count() == 0 and page.title().startswith("Test <b>head</b>")
    assert guest.session.transport.frame == 2


def test_a_phone_sees_the_face_and_can_open_the_controls(viewer, open_page, keep) -> None:
    page = open_page(viewer, 390, 800)
    guest = newest(viewer)
    picture = still(guest)
    keep(page, "phone")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    shown = on_screen(page)
    assert count(shown, RED) == pytest.approx(count(picture, RED), rel=0.35)  # not hidden behind the sheet
    page.locator("#root").get_by_text(viewer.stage.name, exact=True).click()
    page.get_by_text("Preset", exact=True).wait_for(state="visible")
    page.wait_for_timeout(400)
    keep(page, "phone-controls")
    bar = page.locator("#av-bar").bounding_box()
    assert bar["x"] >= 0 and bar["x"] + bar["width"] <= 390 and bar["y"] + bar["height"] <= 800.5


def test_a_page_without_its_token_shows_why(viewer, browser, keep) -> None:
    context = browser.new_context()
    page = context.new_page()
    answer = page.goto(f"http://127.0.0.1:{viewer.port}/")
    assert answer.status == 401 and "private" in page.inner_text("body")
    keep(page, "refused")
    # And a foreign page cannot open its socket.
    page.goto("data:text/html,<p>elsewhere")
    outcome = page.evaluate(
        "port => new Promise(done => { const s = new WebSocket(`ws://127.0.0.1:${port}/`, ['viser-v1.1.1']);"
        "s.onopen = () => done('open'); s.onerror = () => done('refused'); })",
        viewer.port,
    )
    assert outcome == "refused"
    context.close()
