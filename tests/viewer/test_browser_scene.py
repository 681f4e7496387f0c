"""Layers, the cameras of the capture and what else lies over the stage, in a real browser with a real (toy) avatar."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pages import newest, still, type_slider, until

from avatars.gaussians import with_colors
from viewer.app import Viewer
from viewer.avatar_stage import AvatarStage
from viewer.cameras import Rect


@pytest.fixture(scope="module")
def viewer(toy_stage):
    avatar = toy_stage.avatar
    dark = replace(avatar, gaussians=with_colors(avatar.gaussians, torch.full((len(avatar.gaussians), 3), 0.1)))
    with Viewer(AvatarStage(avatar, toy_stage.tracked, [dark], name="toy")) as running:
        yield running


@pytest.fixture
def scene(desktop):
    """The shared page with everything put back."""
    page, guest = desktop
    session = guest.session
    with session.lock:
        session.transport.pause()
        session.transport.seek(0)
        session.desk.release()
        session.frustums, session.layer, session.mode, session.subject, session.against = False, "Colour", "Render", "", "Truth"
        session.gaze.reset()
        session.keys.clear()
        session.look_from("Front")
    session.touch()
    page.keyboard.press("Escape")
    page.locator("#av-line").focus()
    yield page, guest
    assert page.problems == []


def choose(page, label: str, option: str) -> None:
    """Pick from a dropdown of the panel."""
    page.locator(".mantine-Flex-root:visible", has=page.get_by_text(label, exact=True)).last.get_by_role("combobox").click()
    page.locator(".mantine-Select-option:visible").get_by_text(option, exact=True).click()


def test_layers_are_chosen_and_explained(viewer, scene, keep) -> None:
    page, guest = scene
    plain = still(guest)
    page.get_by_role("tab", name="View").click()
    seen, legend = {}, page.locator("#av-legend")
    for layer in ("Depth", "Splats per triangle", "Ellipsoids", "Textured mesh", "Wireframe"):
        choose(page, "Show", layer)
        until(lambda layer=layer: guest.session.layer == layer, what=layer)
        seen[layer] = still(guest)
        keep(page, f"layer-{layer.lower().replace(' ', '-')}")
        assert np.abs(seen[layer].astype(int) - plain).max() > 60
        if layer == "Depth":
            assert "cm behind" in legend.inner_text()
        elif layer == "Splats per triangle":
            assert "Gaussians per triangle" in legend.inner_text()
        else:
            until(lambda: not legend.is_visible(), what="no legend")
    pictures = list(seen.values())
    assert all(np.abs(a.astype(int) - b).mean() > 1 for i, a in enumerate(pictures) for b in pictures[:i])


def test_the_list_of_cameras_leads_to_each(viewer, scene, keep) -> None:
    page, guest = scene
    still(guest)
    page.get_by_role("button", name="Cameras of the capture").click()
    tiles = page.locator("#av-cameras .tile")
    until(lambda: tiles.count() == 4, what="four cameras")
    until(
        lambda: (
            page.evaluate("[...document.querySelectorAll('#av-cameras img')].filter(i => i.complete && i.naturalHeight === 144).length")
            == 4
        ),
        what="pictures",
    )
    assert "held out" in tiles.nth(1).inner_text()  # b is
    keep(page, "cameras")
    tiles.nth(3).click()
    until(lambda: guest.session.camera == "d", what="camera d")
    assert not page.locator("#av-cameras").is_visible()
    page.keyboard.press("c")
    until(lambda: tiles.nth(3).get_attribute("aria-current") == "true", what="the mark of the camera")
    page.keyboard.press("Escape")
    until(lambda: not page.locator("#av-cameras").is_visible(), what="closing")


def test_cameras_stand_around_the_head_and_a_click_goes_there(viewer, scene, keep) -> None:
    page, guest = scene
    still(guest)
    page.keyboard.press("c")
    page.get_by_label("Show them around the head").check()
    until(lambda: guest.session.frustums, what="cameras in the scene")
    page.wait_for_timeout(2700)  # until the browser's own camera has arrived
    picture = still(guest)
    request = guest.session.full_request()
    box = page.locator("#root canvas").first.bounding_box()
    stage = viewer.stage
    eye = stage._cameras(request, Rect(0, 0, request.width, request.height))[0]
    wanted = stage._rig.seen_from(eye)[-1]
    x, y = wanted.corners.mean(0) / (request.width, request.height) * (box["width"], box["height"])
    page.mouse.move(box["x"] + x, box["y"] + y)
    until(lambda: guest.session.pointed == wanted.name, what="the camera under the pointer")
    assert np.abs(still(guest).astype(int) - picture).max() > 60  # it is brighter now, with its name
    until(lambda: page.evaluate("document.documentElement.classList.contains('av-pointing')"), what="the pointer's shape")
    keep(page, "frustums")
    page.mouse.down()
    page.mouse.up()
    until(lambda: guest.session.camera == wanted.name, what="the camera that was clicked")
    still(guest)
    page.keyboard.press("c")
    page.get_by_label("Show them around the head").uncheck()
    until(lambda: not guest.session.frustums and guest.session.camera is None, what="the front")


def test_any_two_avatars_are_set_side_by_side(viewer, scene, keep) -> None:
    page, guest = scene
    own = still(guest).astype(int)
    page.locator("#av-against").select_option("avatar")
    page.get_by_role("radio", name="Wipe").click()
    until(lambda: guest.session.mode == "Wipe" and guest.session.against == "avatar", what="the comparison")
    wiped = still(guest).astype(int)
    half = wiped.shape[1] // 2
    assert np.abs(wiped[:, half + 2 :] - own[:, half + 2 :]).max() <= 1 and np.abs(wiped[:, : half - 2] - own[:, : half - 2]).max() > 60
    keep(page, "a-b")
    page.locator("#av-subject").select_option("avatar")
    until(lambda: guest.session.subject == "avatar" and guest.session.against == "toy", what="the other one")
    page.keyboard.press("1")
    until(lambda: guest.session.mode == "Render", what="render")
    other = still(guest).astype(int)
    assert np.abs(other[:, : half - 2] - wiped[:, : half - 2]).max() <= 1  # the same pose through the same camera


def test_another_avatar_is_opened_and_lends_its_performance(viewer, scene, keep, stage_folder: Path, tmp_path: Path) -> None:
    page, guest = scene
    still(guest)
    page.get_by_role("tab", name="Avatars").click()
    folder = page.locator(".mantine-Flex-root", has=page.get_by_text("Folder", exact=True)).last.get_by_role("textbox")
    folder.fill(str(tmp_path))
    folder.press("Enter")
    page.get_by_role("button", name="Open", exact=True).click()
    page.get_by_text("is not an avatar").wait_for(timeout=10_000)
    folder.fill(str(stage_folder))
    folder.press("Enter")
    page.wait_for_timeout(300)
    page.get_by_role("button", name="Open", exact=True).click()
    until(lambda: "person" in viewer.stage.avatars, what="the avatar")
    until(lambda: guest.session.against == "person", what="the comparison with it")
    page.get_by_role("button", name="Perform it").wait_for(timeout=10_000)
    choose(page, "Recording", "TWO of person")
    keep(page, "avatars")
    page.get_by_role("button", name="Perform it").click()
    until(lambda: guest.session.transport.sequence == "TWO of person", what="the performance on the timeline")
    start = guest.session.transport.bounds[0]
    # The same head and the same recording: retargeted onto itself it is the same performance.
    assert np.allclose(viewer.stage.weights(start), viewer.stage.weights(4), atol=1e-4)
    choose(page, "Close", "person")
    until(lambda: "person" not in viewer.stage.avatars and guest.session.against != "person", what="closing it")
    still(guest)


def test_eyes_look_at_the_camera_or_a_point(viewer, scene, keep) -> None:
    page, guest = scene
    still(guest)
    page.get_by_role("tab", name="Head").click()
    choose(page, "Eyes look", "At the camera")
    until(lambda: guest.session.gaze.way == "At the camera", what="the gaze")
    request = guest.session.request_now()
    view = np.reshape(request.viewmat, (4, 4))
    assert np.allclose(request.controls.target, -view[:3, :3].T @ view[:3, 3], atol=1e-4)
    until(lambda: not page.get_by_text("Sideways °", exact=True).is_visible(), what="the sliders of the angles to go")
    still(guest)
    choose(page, "Eyes look", "At a point")
    page.get_by_text("In front cm", exact=True).wait_for()
    type_slider(page, "Left cm", 40)
    until(lambda: guest.session.gaze.point[0] == 40, what="the point")
    place = viewer.stage.place
    assert guest.session.request_now().controls.target[0] == pytest.approx(place.centre[0] + 0.4, abs=0.01)  # the toy looks along z
    keep(page, "gaze")
    page.get_by_role("button", name="Reset head and gaze").click()
    until(lambda: guest.session.request_now().controls.target is None, what="the reset")


def test_an_expression_goes_through_the_clipboard_and_files(viewer, scene, keep, tmp_path: Path) -> None:
    page, guest = scene
    still(guest)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    with guest.session.lock:
        guest.session.desk.set("jawOpen", 0.6)
        guest.session.head = (12.0, 0.0, 0.0)
    page.keyboard.press("Control+c")
    page.get_by_text("The expression was copied.").wait_for(timeout=10_000)
    text = page.evaluate("navigator.clipboard.readText()")
    assert json.loads(text)["expressions"]["jawOpen"] == 0.6 and json.loads(text)["head"]["turn"] == 12.0
    page.evaluate("text => navigator.clipboard.writeText(text)", text.replace("0.6", "0.35"))
    page.keyboard.press("Control+v")
    until(lambda: guest.session.desk.held.get("jawOpen") == 0.35, what="the pasted expression")
    page.get_by_role("tab", name="Face").click()
    page.get_by_text("Codes", exact=True).click()
    for label, suffix in (("Live Link Face CSV", ".csv"), ("npz", ".npz"), ("JSON", ".json")):
        choose(page, "Format", label)
        page.wait_for_timeout(200)
        with page.expect_download() as download:
            page.get_by_role("button", name="Save", exact=True).click()
        file = tmp_path / f"expression{suffix}"
        download.value.save_as(file)
        with guest.session.lock:
            guest.session.desk.release()
            guest.session.head = (0.0, 0.0, 0.0)
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="Load", exact=True).click()
        chooser.value.set_files(str(file))
        until(lambda: guest.session.desk.held.get("jawOpen") == pytest.approx(0.35, abs=1e-3), what=label)
        with guest.session.lock:  # who loads holds it until the head has turned too
            assert guest.session.head[0] == pytest.approx(12.0, abs=0.1)
    keep(page, "codes")
    guest.session.head = (0.0, 0.0, 0.0)
    page.get_by_text("Codes", exact=True).click()


def test_key_cameras_make_a_film_and_a_path(viewer, scene, keep, tmp_path: Path) -> None:
    page, guest = scene
    still(guest)
    page.get_by_role("tab", name="Clip").click()
    page.keyboard.press("k")
    until(lambda: len(guest.session.keys.keys) == 1, what="the first key")
    page.keyboard.press("k")
    page.get_by_text("stands here already").wait_for(timeout=10_000)
    guest.session.look_from("Left")
    still(guest)
    page.get_by_role("button", name="Set a key camera here").click()
    until(lambda: len(guest.session.keys.keys) == 2, what="the second key")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save path").click()
    download.value.save_as(tmp_path / "path.json")
    content = json.loads((tmp_path / "path.json").read_text())
    assert len(content["frames"]) == 4 and content["fps"] == 24.0
    first, last = guest.session.keys.keys
    type_slider(page, "Along the path %", 40)
    until(lambda: np.abs(guest.session.view_now().viewmat - last.viewmat).max() > 0.05, what="the middle of the path")
    type_slider(page, "Along the path %", 0)
    until(lambda: np.allclose(guest.session.view_now().viewmat, first.viewmat, atol=3e-3), what="the begin of the path")
    choose(page, "Camera", "Camera path")
    keep(page, "camera-path")
    with page.expect_download(timeout=60_000) as download:
        page.get_by_role("button", name="Film this range").click()
    download.value.save_as(tmp_path / "film.mp4")
    import av

    with av.open(str(tmp_path / "film.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]
    assert len(frames) == 4
    wish = replace(guest.session.full_request(), time=3.0, viewmat=tuple(last.viewmat.ravel()), fov=last.fov)
    wanted = viewer.stage.render(replace(wish, width=frames[0].shape[1], height=frames[0].shape[0])).astype(int)
    assert np.abs(frames[3] - wanted).mean() < 3 < np.abs(frames[0] - wanted).mean()


def test_exports_are_delivered(viewer, scene, keep) -> None:
    page, guest = scene
    still(guest)
    page.get_by_role("tab", name="Clip").click()
    for label, check in (
        ("Splats of this frame (PLY)", lambda content: content.startswith(b"ply")),
        ("Page that opens without a server (HTML)", lambda content: content.lstrip()[:15].lower() == b"<!doctype html>"),
        ("Avatar folder (zip)", lambda content: "toy/manifest.json" in zipfile.ZipFile(io.BytesIO(content)).namelist()),
    ):
        choose(page, "As", label)
        page.wait_for_timeout(200)
        with page.expect_download(timeout=60_000) as download:
            page.get_by_role("button", name="Export", exact=True).click()
        assert check(Path(download.value.path()).read_bytes()), label
        page.get_by_role("button", name="Export", exact=True).wait_for()
    keep(page, "export")


def test_a_phone_has_room_for_it_all(viewer, open_page, keep) -> None:
    page = open_page(viewer, 375, 720)
    guest = newest(viewer)
    guest.session.look_through("c")
    until(lambda: page.locator("#av-figures").is_visible(), what="the figures by region")
    still(guest)
    keep(page, "phone-figures")
    note = page.locator("#av-seen span").first.bounding_box()
    assert note["y"] >= max(page.locator(f"#av-{name}").bounding_box()["y"] + 20 for name in ("modes", "subject", "against"))
    top, figures = page.locator("#av-top").bounding_box(), page.locator("#av-figures").bounding_box()
    assert top["x"] >= 0 and top["x"] + top["width"] <= 375 and figures["x"] >= 0 and figures["x"] + figures["width"] <= 375
    for name in ("#av-against", "#av-subject"):
        box = page.locator(name).bounding_box()
        assert 0 <= box["x"] and box["x"] + box["width"] <= 375
    page.keyboard.press("c")
    page.locator("#av-cameras .tile").first.wait_for()
    page.wait_for_timeout(300)
    keep(page, "phone-cameras")
    for tile in page.locator("#av-cameras .tile").all():
        box = tile.bounding_box()
        assert 0 <= box["x"] and box["x"] + box["width"] <= 375
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
