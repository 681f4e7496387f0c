"""The exported page in a real browser, opened from disk: the native renderer's picture, and what a person does. Screenshots are kept."""

from __future__ import annotations

import base64
import re
import time
import wave
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from avatars import deform
from avatars.avatar import Avatar, Timeline, load_avatar
from avatars.export import export
from avatars.gaussians import sample_surface, with_colors
from avatars.head import load_head
from avatars.playback import rest_pose
from avatars.render import render
from avatars.sequence import Segment
from avatars.transforms import look_at
from avatars.types import Cameras, HeadPose, Identity
from viewer.bench_page import FRAMES_A_SECOND, measure, with_count

ARTIFACTS = Path(__file__).resolve().parents[2] / "test-artifacts" / "viewer"
MEAN_ERROR = 2.0  # of 255, over the foreground: the bar
FPS = 24.0


def person(count: int, degree: int, bases: int = 6, hidden: int = 8, pose_basis: bool = False) -> Avatar:
    """The built-in head as someone, with Gaussians of all kinds on it and corrections that move them."""
    generator = torch.Generator().manual_seed(3)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    head = load_head()
    if pose_basis:
        head = replace(head, pose_basis=0.003 * random(9 * head.J, 1, 3).expand(-1, head.V, -1) * (head.template[:, 1:2] > 0))
    identity = Identity(0.7 * random(head.I), None, 1.04)
    shaped = head.shape(identity)
    g = sample_surface(head, shaped.vertices, count, generator, {}, degree)
    where = shaped.vertices[head.faces[g.face_ids]].mean(1)
    g = with_colors(g, 0.5 + 0.45 * torch.sin(where * torch.tensor([60.0, 45.0, 80.0])))
    N = len(g)
    sh = g.sh.clone()
    sh[:, 1:] += 0.12 * random(N, sh.shape[1] - 1, 3)
    sh[:50, 0] += 3  # brighter than white
    g = replace(
        g, sh=sh, means=g.means + 0.05 * random(N, 3), quats=2 * g.quats + 0.4 * random(N, 4), log_scales=g.log_scales + 0.3 * random(N, 3),
        logit_opacities=1.5 + 1.5 * random(N),
    )  # fmt: skip
    settings = deform.DeformSettings(bases=max(bases, 1), hidden=hidden)
    parameters: dict[str, torch.Tensor] = {}
    name = "blendshapes" if bases else "binding"
    poses = HeadPose(
        *(torch.zeros(24, *x.shape[1:]) for x in (head.neutral().expression, head.neutral().joints, *2 * [head.neutral().rotation]))
    )
    phase = torch.linspace(0, 3, 24)
    poses.expression[:, head.expression_index("jawOpen")] = 0.5 + 0.5 * phase.sin()
    poses.expression[:, head.expression_index("mouthSmileLeft")] = 0.3
    poses.joints[:, 1, 1] = 0.3 * phase.sin()
    poses.rotation[:, 1], poses.translation[:] = 0.2, torch.tensor([0.1, 1.2, -0.3])
    if bases:
        parameters = deform.find(name).create(settings, g, deform.code_size(head.E, head.J), generator)
        parameters["each_basis"] = torch.cat([0.15 * random(N, 3, bases), 0.2 * random(N, 4, bases), 0.4 * random(N, 3, bases)], 1)
        parameters = deform.find(name).settle(parameters, torch.stack([deform.frame_code(poses[t]) for t in range(24)]))
    K = torch.tensor([[700.0, 0, 131], [0, 690, 170], [0, 0, 1]])
    target = poses.translation[0]
    views = [
        look_at(target + torch.tensor(eye), target, torch.tensor([0.0, 1, 0]))
        for eye in ([0.1, 0.05, 0.75], [0.6, 0.1, 0.45], [0.0, 0.0, 0.3])
    ]
    cameras = Cameras(("front", "side", "close"), K.repeat(3, 1, 1), torch.stack(views), 256, 352)
    line = Timeline(poses, (Segment("ONE", 0, 14), Segment("TWO", 14, 24)), FPS, cameras)
    return Avatar(head, identity, g, name, settings, parameters, {}, line)


def native(avatar: Avatar, pose: HeadPose, camera: Cameras, background: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The renderer's picture in 0–255, and its coverage."""
    with torch.no_grad():
        image = render(avatar.at(pose), camera, torch.tensor(background))
    return (255 * image.color[0].clamp(0, 1)).numpy(), image.alpha[0, ..., 0].numpy()


def of_page(page: Any, camera: Cameras, background: tuple[float, ...], **wanted: Any) -> np.ndarray:
    """The page's picture through the same camera."""
    request = {
        "width": camera.width,
        "height": camera.height,
        "K": camera.Ks[0].tolist(),
        "viewmat": camera.viewmats[0].tolist(),
        "background": list(background),
        **wanted,
    }
    content = base64.b64decode(page.evaluate("request => avatar.picture(request)", request))
    return np.frombuffer(content, np.uint8).reshape(camera.height, camera.width, 4)[..., :3].astype(np.float32)


POSES: tuple[dict[str, Any], ...] = (  # camera, and what the page is asked for
    {"camera": 0},
    {"camera": 0, "frame": 17},
    {"camera": 0, "expression": {"jawOpen": 1.0}},
    {"camera": 2, "expression": {"eyeBlinkLeft": 1.0, "eyeBlinkRight": 0.6, "mouthPucker": 0.8}},
    {
        "camera": 0,
        "expression": {"jawOpen": 0.4, "browInnerUp": 1},
        "joints": {"neck": [0.05, 0.3, 0.0], "head": [0.1, 0.5, -0.1], "eye_left": [-0.2, 0.3, 0]},
    },
    {"camera": 1, "rotation": [0.1, -0.6, 0.2], "translation": [0.08, 1.18, -0.28]},
)


def posed(avatar: Avatar, wanted: dict[str, Any]) -> HeadPose:
    """The same pose for `Avatar.at`."""
    pose = avatar.frame(wanted["frame"]) if "frame" in wanted else rest_pose(avatar)
    expression, joints = pose.expression.clone(), pose.joints.clone()
    for name, weight in wanted.get("expression", {}).items():
        expression[0, avatar.head.expression_index(name)] = weight
    for name, angles in wanted.get("joints", {}).items():
        joints[0, avatar.head.joint_names.index(name)] = torch.tensor(angles)
    rotation = torch.tensor([wanted["rotation"]]) if "rotation" in wanted else pose.rotation
    translation = torch.tensor([wanted["translation"]]) if "translation" in wanted else pose.translation
    return HeadPose(expression, joints, rotation, translation)


@pytest.fixture
def open_file(browser) -> Iterator[Callable]:
    """open_file(path, script=…, **context) → a page of that file, offline, which must not report a problem."""
    contexts = []

    def opened(path: Path, script: str = "", fine: bool = True, **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 860, "height": 540}, "offline": True, **options})
        contexts.append(context)
        if script:
            context.add_init_script(script)
        page = context.new_page()
        page.problems, page.requests = [], []
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on("console", lambda message: page.problems.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: page.requests.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("#state.ready, #state.error", state="attached", timeout=30_000)
        if fine:
            assert page.problems == [] and page.locator("#state.error").count() == 0, page.locator("#state").inner_text()
        return page

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def actor(tmp_path_factory: pytest.TempPathFactory) -> tuple[Avatar, Path]:
    """Someone with two recordings, the first with a second of sound; and the exported page."""
    folder = tmp_path_factory.mktemp("actor") / "Anna <1>"
    avatar = replace(person(1500, 1), folder=folder)
    (folder / "audio").mkdir(parents=True)
    with wave.open(str(folder / "audio" / "ONE.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes((5000 * np.sin(np.arange(16000) / 8)).astype("<i2").tobytes())
    path = folder.parent / "page.html"
    export(avatar, avatar.head.neutral(), path, "html")
    return avatar, path


def until(page: Any, condition: str, what: str) -> None:
    """Wait for a condition in the page; from outside, since its policy refuses evaluation inside."""
    deadline = time.monotonic() + 30
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, f"{what} did not come true"
        page.wait_for_timeout(30)


def settled(page: Any) -> np.ndarray:
    """The stage once nothing moves any more and all pixels are drawn."""
    until(page, "!avatar.running && !avatar.waiting && !document.getAnimations().some((a) => a.playState === 'running')", "a still picture")
    box = page.locator("#stage").bounding_box()
    return decoded(page.screenshot(clip=box))


def decoded(content: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR).astype(int)


@pytest.mark.parametrize(("degree", "bases", "hidden", "pose_basis"), [(1, 6, 8, False), (3, 5, 0, True), (0, 0, 0, False)])
def test_the_same_picture_as_the_native_renderer(
    open_file, keep, tmp_path: Path, degree: int, bases: int, hidden: int, pose_basis: bool
) -> None:
    avatar = person(1500, degree, bases, hidden, pose_basis)
    export(avatar, avatar.head.neutral(), tmp_path / "page.html", "html")
    page = open_file(tmp_path / "page.html")
    assert page.evaluate("avatar.splats.exact"), "this browser has half floats; without them the comparison says less"
    rows, background = [], (1.0, 0.6, 0.2)
    for wanted in POSES:
        camera = avatar.timeline.cameras[wanted["camera"]]
        expected, alpha = native(avatar, posed(avatar, wanted), camera, background)
        found = of_page(page, camera, background, **{k: v for k, v in wanted.items() if k != "camera"})
        difference = np.abs(found - expected)
        rows.append(np.concatenate([expected, found, np.clip(32 * difference, 0, 255)], 1))
        assert (alpha > 0.5).mean() > 0.1, "the person is in the picture"
        assert difference[alpha > 0.5].mean() < MEAN_ERROR, wanted
        # Far tighter in fact: this is what rounding to 8 bits and to the file's steps costs.
        assert difference[alpha > 0.5].mean() < 0.9 and difference.mean() < 0.7, wanted
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(ARTIFACTS / f"page-and-native-degree-{degree}.png"), np.concatenate(rows, 0)[..., ::-1].astype(np.uint8))
    different = native(avatar, posed(avatar, POSES[2]), avatar.timeline.cameras[0], background)[0]
    assert np.abs(different - native(avatar, rest_pose(avatar), avatar.timeline.cameras[0], background)[0]).mean() > MEAN_ERROR, (
        "poses differ by more than the bar"
    )


def test_nothing_is_fetched_and_names_are_text(open_file, actor) -> None:
    page = open_file(actor[1])
    assert (
        all(url.startswith(("file://", "blob:", "data:")) for url in page.requests)
        and sum(u.startswith("file://") for u in page.requests) == 1
    )
    assert page.get_by_role("heading", name="Anna <1>").is_visible() and page.title() == "Anna <1>"
    refused = page.evaluate("fetch('https://example.org').then(() => '', error => String(error))")
    assert "TypeError" in refused
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.intruder = 1'}))")
    assert page.evaluate("window.intruder") is None, "the policy refuses other scripts"


def test_sliders_presets_search_and_reset(open_file, actor, keep) -> None:
    page = open_file(actor[1], viewport={"width": 1280, "height": 720})
    page.locator("#clip").select_option("")  # at rest
    before = settled(page)
    page.get_by_label("jawOpen", exact=True).focus()
    page.keyboard.press("End")
    opened = settled(page)
    keep(page, "page-jaw-open")
    assert page.evaluate("avatar.last.expression[avatar.facts.expressions.indexOf('jawOpen')]") == 1
    half = len(before) // 2
    assert np.abs(opened - before)[half:].mean() > 1.5 and np.abs(opened - before)[: half // 2].mean() < 1
    page.get_by_label("mouthSmileLeft", exact=True).fill("0.5")
    assert page.evaluate("[...avatar.desk.held.keys()].sort()") == ["jawOpen", "mouthSmileLeft", "mouthSmileRight"]
    page.locator("#mirror").click()
    page.get_by_label("mouthSmileLeft", exact=True).fill("0.7")
    assert page.evaluate("[avatar.desk.held.get('mouthSmileLeft'), avatar.desk.held.get('mouthSmileRight')]") == [0.7, 0.5]
    assert "extrapolated" in page.locator("[data-name=mouthSmileLeft] output").get_attribute("title"), "beyond the recording"
    page.get_by_label("Release mouthSmileLeft").click()
    assert page.evaluate("avatar.desk.held.has('mouthSmileLeft')") is False
    page.get_by_role("button", name="Reset").click()
    assert np.abs(settled(page) - before).max() <= 1
    page.get_by_role("button", name="Surprise").click()
    settled(page)
    held = dict(page.evaluate("[...avatar.desk.held]"))
    assert held["browInnerUp"] == 0.9 and held["eyeWideRight"] == 0.8 and held["mouthPucker"] == 0 and len(held) == 52
    keep(page, "page-surprise")
    page.keyboard.press("/")
    page.keyboard.type("brow up")
    assert page.locator(".row[data-name]:visible").evaluate_all("rows => rows.map(r => r.dataset.name)") == [
        "browInnerUp",
        "browOuterUpLeft",
        "browOuterUpRight",
    ]
    page.locator("#search").fill("nobody")
    assert page.locator(".row[data-name]:visible").count() == 0 and page.locator("#faces.empty").count() == 1
    assert page.problems == []


def test_head_gaze_and_camera(open_file, actor, keep) -> None:
    page = open_file(actor[1])
    before = settled(page)
    page.get_by_role("tab", name="Head").click()
    page.get_by_label("Turn right–left").fill("40")
    page.get_by_label("Gaze down–up").fill("20")
    turned = settled(page)
    keep(page, "page-turned")
    assert np.abs(turned - before).mean() > 2
    joints = np.reshape(page.evaluate("avatar.last.joints.map(v => v - 0)"), (5, 3)) - np.reshape(
        page.evaluate("avatar.recording.at(0, 0, 14).joints"), (5, 3)
    )
    assert joints[0, 1] == pytest.approx(0.4 * np.radians(40), abs=1e-3) and joints[3, 0] == pytest.approx(-np.radians(20), abs=1e-3)
    box = page.locator("#view").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 120, y, steps=3)
    page.mouse.up()
    assert page.evaluate("avatar.orbit.around") == pytest.approx(-0.96, abs=0.01)
    page.mouse.wheel(0, -400)
    until(page, "avatar.orbit.nearness > 1.5", "zoom")
    assert np.abs(settled(page) - turned).mean() > 2
    page.get_by_role("button", name="white").click()
    assert settled(page)[3, 3].tolist() == [255, 255, 255]
    page.get_by_role("button", name="Front").click()
    page.get_by_role("button", name="Reset").click()
    page.get_by_role("button", name="dark").click()
    assert np.abs(settled(page) - before).max() <= 1
    with page.expect_download() as download:
        page.get_by_label("Save picture").click()
    saved = decoded(Path(download.value.path()).read_bytes())
    assert saved.shape == before.shape and np.abs(saved - before)[60:].max() <= 1  # above, buttons lie over the screenshot
    assert page.problems == []


def test_the_recording_plays_with_its_sound_in_step(open_file, actor, keep) -> None:
    avatar, path = actor
    page = open_file(path)
    assert page.locator("#clip").input_value() == "ONE", "the one with sound is offered first"
    settled(page)
    page.locator("#scrub").fill("7")
    settled(page)
    jaw = "avatar.last.expression[avatar.facts.expressions.indexOf('jawOpen')]"
    want = float(avatar.frame(7).expression[0, avatar.head.expression_index("jawOpen")])
    assert page.evaluate(jaw) == pytest.approx(want, abs=2e-4)
    assert page.evaluate("avatar.transport.clip.sound.currentTime") == pytest.approx(7 / FPS, abs=0.002)
    page.evaluate(
        """() => { window.drift = []; const tick = avatar.transport.tick.bind(avatar.transport); avatar.transport.tick = () => { tick();
        const t = avatar.transport, s = t.clip.sound; if (s && t.playing && !s.paused && !s.ended) drift.push(Math.abs(t.frame / t.fps - s.currentTime)); }; }"""
    )
    page.locator("#view").focus()
    page.keyboard.press(" ")
    until(page, "drift.length > 12", "playing")
    assert page.locator("#play").get_attribute("aria-label") == "Pause"
    keep(page, "page-playing")
    assert page.evaluate("Math.max(...drift)") < 0.04, "seconds between what is heard and what is posed"
    page.locator("#speed").select_option("2")
    assert page.evaluate("avatar.transport.clip.sound.playbackRate") == 2
    page.locator("#sound").click()
    assert page.evaluate("avatar.transport.clip.sound.muted") is True
    page.locator("#loop").click()
    until(page, "!avatar.transport.playing", "the end")
    assert page.evaluate("avatar.transport.frame") == 13
    page.keyboard.press("Escape")
    page.locator("#clip").select_option("TWO")  # no sound: the page's own clock
    settled(page)
    assert page.locator("#sound").is_disabled()
    page.locator("#speed").select_option("1")
    page.evaluate("() => { window.began = performance.now(); avatar.transport.play(); }")
    until(page, "!avatar.transport.playing", "the end of the silent one")
    assert page.evaluate("performance.now() - began") >= 10 / FPS * 1000 - 1
    assert page.problems == []


def test_poses_between_frames_are_those_of_the_viewer(open_file, actor) -> None:
    from viewer.posing import Track

    avatar, path = actor
    page = open_file(path)
    for time_, start, stop in ((3.25, 0, 14), (13.7, 0, 14), (20.5, 14, 24)):
        found = page.evaluate(
            "([t, a, b]) => { const p = avatar.recording.at(t, a, b); return Object.fromEntries(Object.entries(p).map(([k, v]) => [k, [...v]])); }",
            [time_, start, stop],
        )
        want = Track(avatar.timeline.codes).at(time_, stop)
        for name in ("expression", "joints", "rotation", "translation"):
            np.testing.assert_allclose(found[name], getattr(want, name).numpy().ravel(), atol=3e-4)


def test_on_a_phone(open_file, actor, keep) -> None:
    page = open_file(actor[1], viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    assert page.evaluate("[document.documentElement.scrollWidth, innerWidth, document.documentElement.scrollHeight]") == [390, 390, 844], (
        "nothing sticks out"
    )
    settled(page)
    keep(page, "page-phone")
    stage = page.locator("#stage").bounding_box()
    assert stage["width"] == 390 and stage["height"] > 300
    for name in ("#play", "#clip", "#speed", "#loop", "#sound", "#picture", "#fold"):
        box = page.locator(name).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390 and box["height"] >= 30, name
    page.locator("#fold").tap()
    assert page.locator("#stage").bounding_box()["height"] > 600 and not page.locator("#tabs").is_visible()
    settled(page)
    keep(page, "page-phone-folded")


def test_what_is_missing_is_said(open_file, actor, tmp_path: Path, keep) -> None:
    page = open_file(actor[1], "HTMLCanvasElement.prototype.getContext = () => null", fine=False)
    assert "offers no WebGL2" in page.locator("#state").inner_text()
    keep(page, "page-no-webgl")
    page = open_file(actor[1], "delete window.DecompressionStream", fine=False)
    assert "too old" in page.locator("#state").inner_text()
    text = actor[1].read_text()
    at = text.index('id="payload">') + 4000
    (tmp_path / "damaged.html").write_text(text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :])
    page = open_file(tmp_path / "damaged.html", fine=False)
    assert "This file is damaged" in page.locator("#state").inner_text() and "export it again" in page.locator("#state").inner_text()
    (tmp_path / "cut.html").write_text(re.sub(r'(id="payload">.{2000})[^<]*', r"\1", text))
    page = open_file(tmp_path / "cut.html", fine=False)
    assert "This file is damaged" in page.locator("#state").inner_text()


def test_without_half_floats_it_still_draws(open_file, actor) -> None:
    avatar, path = actor
    page = open_file(
        path,
        "const get = WebGL2RenderingContext.prototype.getExtension; WebGL2RenderingContext.prototype.getExtension = function (name) { return name.startsWith('EXT_color') ? null : get.call(this, name); }",
    )
    assert page.evaluate("avatar.splats.exact") is False
    page.get_by_role("tab", name="About").click()
    assert "lacks half floats" in page.locator("#facts").inner_text()
    camera = avatar.timeline.cameras[0]
    expected, alpha = native(avatar, rest_pose(avatar), camera, (0.0, 0.0, 0.0))
    assert np.abs(of_page(page, camera, (0.0, 0.0, 0.0)) - expected)[alpha > 0.5].mean() < 12, "brighter than white is cut"


def test_a_lost_graphics_card_comes_back(open_file, actor) -> None:
    page = open_file(actor[1])
    before = settled(page)
    page.evaluate("window.card = avatar.splats.gl.getExtension('WEBGL_lose_context'), card.loseContext()")
    until(page, "document.querySelector('#state.error')", "the message")
    page.evaluate("card.restoreContext()")
    until(page, "document.querySelector('#state.ready')", "the picture")
    page.wait_for_timeout(500)
    assert np.abs(settled(page) - before).max() <= 1 and page.problems == []


def test_a_still_avatar_has_no_transport(open_file, stage_folder, tmp_path: Path, keep) -> None:
    avatar = load_avatar(stage_folder)
    none = avatar.timeline.codes[torch.zeros(0, dtype=torch.int64)]
    avatar = replace(avatar, timeline=replace(avatar.timeline, codes=none, segments=()))
    export(avatar, avatar.head.neutral(), tmp_path / "still.html", "html")
    page = open_file(tmp_path / "still.html")
    assert not page.locator("#play").is_visible() and page.locator("#picture").is_visible()
    page.get_by_label("jawOpen", exact=True).fill("1")
    settled(page)
    keep(page, "page-still")
    assert page.locator(".row[data-name]").count() == 3, "the expressions that this head has"


def test_fifty_thousand_gaussians_cost_little_javascript(open_file, tmp_path: Path) -> None:
    avatar = with_count(person(10_000, 1, bases=20, hidden=48), 50_000)
    export(avatar, avatar.head.neutral(), tmp_path / "many.html", "html")
    page = open_file(tmp_path / "many.html", viewport={"width": 320, "height": 240})
    figures = measure(page, 15)
    assert figures["gaussians"] == 50_000 and figures["bases"] == 20 and figures["vertices"] > 4000
    # The least of the frames, since other programs may share the machine; a quiet one takes a third of what is allowed.
    assert figures["least_total_ms"] < 1000 / FRAMES_A_SECOND, figures
