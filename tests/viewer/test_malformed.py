"""Two hundred malformed inputs of each kind that a page or a phone can send: each refused with a reason, none fatal.

Deterministic: the same noise each time. The packets of phones are in test_live.py.
"""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import math
import random
import threading
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from synthetic import BallStage
from viser import _messages as messages
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from avatars.errors import UserError
from avatars.head import load_head
from viewer.app import Viewer
from viewer.incoming import MOST_REFUSALS, MOST_UPLOAD, MOST_UPLOADS, Foreign, Judge
from viewer.takes import read_take
from viewer.visitor import Visitor

WEIRD: tuple[Any, ...] = (
    None,
    True,
    -1,
    1e308,
    -(10**30),
    math.nan,
    math.inf,
    "",
    "x",
    "\x00",
    "é" * 300,
    [],
    {},
    [1],
    [[[[]]]],
    {"a": 1},
    "1",
    b"x",
)


def noise(chance: random.Random, most: int) -> bytes:
    return bytes(chance.randrange(256) for _ in range(chance.randrange(1, most)))


@pytest.fixture(scope="module")
def viewer():
    with Viewer(BallStage()) as running:
        yield running


def in_thread(work: Callable[[], Any]) -> Any:
    """Run a coroutine where no other loop runs (the browser tests leave one in this thread)."""
    result: list[Any] = []

    def run() -> None:
        try:
            result.append(asyncio.run(work()))
        except BaseException as error:
            result.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(90)
    assert result, "it did not end"
    if isinstance(result[0], BaseException):
        raise result[0]
    return result[0]


def alive(viewer: Viewer) -> None:
    request = urllib.request.Request(
        f"http://127.0.0.1:{viewer.port}/stage.css", headers={"Cookie": viewer.gate.cookie(viewer.port).split(";")[0]}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200


def bad_commands() -> list[str | bytes]:
    chance = random.Random(7)
    names = ("seek", "step", "speed", "sequence", "bounds", "mode", "against", "wipe", "look", "camera", "canvas", "shown")
    fitting = {"camera": (1e308,), "step": (1e308,), "wipe": (1e308,), "seek": (1e308,), "speed": (1e308,), "shown": (1e308,)}
    shaped: list[Any] = [
        {"do": name, "value": value} for name in names for value in WEIRD
        if not isinstance(value, bytes) and not (_finite(value) and name in ("step", "camera", "wipe", "seek", "speed", "shown")) and value not in fitting.get(name, ())
    ]  # fmt: skip
    shaped += [{"do": w} for w in WEIRD if not isinstance(w, bytes)] + [w for w in WEIRD if not isinstance(w, (bytes, float))]
    texts: list[str | bytes] = [json.dumps(s) for s in shaped]
    texts += [noise(chance, 200) for _ in range(60)] + ["[" * 4000, "{" * 3000, "A" * 5000, '{"do": "seek", "value": 1', '{"do": "worst"}']
    return texts


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def test_the_bar_answers_every_malformed_command_with_a_reason(viewer: Viewer) -> None:
    commands = bad_commands()
    assert len(commands) >= 200

    async def attack() -> tuple[list[str], int]:
        async with Visitor(viewer.url) as visitor:
            for command in commands:
                await visitor.bar.send(command)
            await visitor.until(lambda: len(visitor.refusals) >= len(commands))
            pictures = visitor.pictures
            await visitor.command("seek", 11)
            await visitor.until(lambda: visitor.pictures > pictures)
            return visitor.refusals, visitor.state["time"]

    refusals, _ = in_thread(attack)
    assert len(refusals) == len(commands) and all(refusals)
    alive(viewer)


def upload(name: Any = "t", size: Any = 3, parts: Any = 1, file: Any = "take.csv", button: Any = "b") -> dict:
    return {
        "type": "FileTransferStartUpload", "source_component_uuid": button, "transfer_uuid": name, "filename": file, "mime_type": "",
        "part_count": parts, "size_bytes": size,
    }  # fmt: skip


def part(name: Any = "t", content: Any = b"abc", index: Any = 0) -> dict:
    return {"type": "FileTransferPart", "source_component_uuid": "b", "transfer_uuid": name, "part_index": index, "content": content}


def bad_messages() -> Iterator[dict]:
    camera = {
        "type": "ViewerCameraMessage", "wxyz": [1.0, 0.0, 0.0, 0.0], "position": [0.0, 0.0, 1.0], "image_height": 300, "image_width": 400,
        "fov": 0.5, "near": 0.01, "far": 100.0, "look_at": [0.0, 0.0, 0.0], "up_direction": [0.0, 1.0, 0.0],
    }  # fmt: skip
    sane = [w for w in WEIRD if w != -(10**30)]  # which msgpack cannot say
    for field in ("wxyz", "position", "look_at", "up_direction", "fov", "image_width", "image_height"):
        yield from ({**camera, field: w} for w in sane if w is not True and w != "1")  # which viser takes for 1.0
    yield {**camera, "wxyz": [0.0] * 4}
    for updates in ({"update_cb": []}, {"value": 1, "removed": True}, {"_impl": 1}, {}):
        yield {"type": "GuiUpdateMessage", "uuid": "slider", "updates": updates}
    for uuid in ("slider", "checkbox", "dropdown", "text", "rgb", "button"):
        fits = {"slider": (True,), "checkbox": (True,), "text": ("", "x", "\x00", "é" * 300, "1"), "button": (True,)}
        for value in sane:
            if not any(type(value) is type(f) and value == f for f in fits.get(uuid, ())) or (uuid == "slider" and value is True):
                yield {"type": "GuiUpdateMessage", "uuid": uuid, "updates": {"value": value}}
    yield {"type": "GuiUpdateMessage", "uuid": "slider", "updates": {"value": 7.0}}
    yield {"type": "GuiUpdateMessage", "uuid": "text", "updates": {"value": "x" * 300_000}}
    yield from ({"type": "GuiUpdateMessage", "uuid": w, "updates": {"value": 0.5}} for w in sane if not isinstance(w, str))
    yield from ({"type": "CommandTriggerMessage", "uuid": w} for w in sane if not isinstance(w, str))
    for kind in ("ShareUrlRequest", "ShareUrlDisconnect", "RunJavascriptMessage", "NotificationMessage"):
        if kind in messages.Message._subclass_from_type_string():
            cls = messages.Message._subclass_from_type_string()[kind]
            yield {"type": kind, **{f: "x" for f in cls.__dataclass_fields__}}
    for size, parts in ((MOST_UPLOAD + 1, 1), (-1, 1), (10, 10**9), (None, 1), (0, 1), (1, 0)):
        yield upload("big", size, parts)
    yield from (upload(name=w) for w in sane if not isinstance(w, str))
    yield from (part(name=w) for w in sane if not isinstance(w, str))
    yield from (part("unknown", content=w) for w in sane)


class Widgets:
    """Handles of viser that need no server, by name."""

    def __init__(self, viewer: Viewer) -> None:
        self.found = {}
        gui = viewer.server.gui
        self.made = [
            gui.add_slider("slider", 0.0, 1.0, 0.1, 0.5), gui.add_checkbox("checkbox", False), gui.add_dropdown("dropdown", ("a", "b")),
            gui.add_text("text", ""), gui.add_rgb("rgb", (1, 2, 3)), gui.add_button("button"), gui.add_upload_button("upload"),
        ]  # fmt: skip
        self.found = dict(zip(("slider", "checkbox", "dropdown", "text", "rgb", "button", "upload"), self.made, strict=True))

    def remove(self) -> None:
        for widget in self.made:
            widget.remove()


def test_the_judge_refuses_every_malformed_message_of_viser(viewer: Viewer) -> None:
    widgets = Widgets(viewer)
    judge = Judge(messages, widgets.found.get)
    chance = random.Random(5)
    count = 0
    try:
        for bad in bad_messages():
            try:
                raw = msgspec.msgpack.encode(bad)
            except (OverflowError, ValueError):
                continue
            with pytest.raises(ValueError) as refused:
                judge.check(raw)
                pytest.fail(f"passed: {bad}")
            assert str(refused.value), bad
            count += 1
        for bad in [noise(chance, 300) for _ in range(150)] + [
            "text",
            b"",
            msgspec.msgpack.encode({"type": "Nothing"}),
            msgspec.msgpack.encode([1]),
        ]:
            with pytest.raises(Foreign):
                judge.check(bad)
        good = {"slider": 1, "checkbox": True, "dropdown": "b", "text": "x" * 1000, "rgb": [0, 255, 7], "button": True}
        for uuid, value in good.items():
            judge.check(msgspec.msgpack.encode({"type": "GuiUpdateMessage", "uuid": uuid, "updates": {"value": value}}))
    finally:
        widgets.remove()
    assert count >= 200


def test_uploads_are_bounded(viewer: Viewer) -> None:
    judge = Judge(messages, lambda _: None)

    def passes(message: dict) -> bool:
        try:
            judge.check(msgspec.msgpack.encode(message))
            return True
        except ValueError:
            return False

    assert passes(upload("good")) and passes(part("good")) and not judge.announced
    assert passes(upload("liar")) and not passes(part("liar", b"abcd")) and not passes(part("liar", b"a"))
    assert passes(upload("half", MOST_UPLOAD // 2)) and not passes(upload("more", MOST_UPLOAD)) and not passes(upload("half", 1))
    assert all(passes(upload(str(i))) for i in range(MOST_UPLOADS - 1)) and not passes(upload("too many"))


def test_refusals_are_told_in_the_page_and_foreign_talk_ends_the_connection(viewer: Viewer) -> None:
    async def attack() -> tuple[list[str], int, str, int]:
        async with Visitor(viewer.url) as visitor:
            uuid = visitor.widgets["jawOpen"]
            await visitor.say({"type": "GuiUpdateMessage", "uuid": uuid, "updates": {"value": 9.0}})
            await visitor.say(upload("big", MOST_UPLOAD + 1, file="huge <b>.csv"))
            await visitor.until(lambda: len(visitor.notes) >= 2)
            await visitor.page.send("text")
            await asyncio.wait_for(visitor.page.wait_closed(), 10)
            first = visitor.page.close_code, visitor.page.close_reason
            notes = visitor.notes
        async with Visitor(viewer.url) as visitor:
            try:
                for _ in range(MOST_REFUSALS):
                    await visitor.say({"type": "GuiUpdateMessage", "uuid": "x", "updates": {}})
                await asyncio.wait_for(visitor.page.wait_closed(), 10)
            except ConnectionClosed:
                pass
            return notes, *first, visitor.page.close_code

    notes, code, reason, second = in_thread(attack)
    assert "jawOpen cannot be set to '9.0'" in notes[0] and "huge <b>.csv is too large" in notes[1]
    assert code == 1003 and "packed" in reason and second == 1008
    alive(viewer)


def test_two_hundred_damaged_takes_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("viewer.takes.MOST_UNPACKED", 1_000_000)
    chance, head = random.Random(3), load_head()
    rest = head.neutral()
    npz = io.BytesIO()
    np.savez(npz, names=np.array(["jawOpen"]), weights=np.zeros((3, 1), np.float32), times=np.arange(3) / 30.0)
    csv = b"Timecode,BlendshapeCount,EyeBlinkLeft,JawOpen\n00:00:00:01.0,61,0.1,0.2\n00:00:00:02.0,61,0.1,0.2\n"
    text = json.dumps({"names": ["jawOpen"], "frames": [{"weights": [0.5], "time": 0.0, "rotation": []}]}).encode()
    inputs = [(f"n{i}{suffix}", noise(chance, 400)) for i in range(20) for suffix in (".csv", ".json", ".npz", ".wav")]
    inputs += [(f"cut{i}.npz", npz.getvalue()[: chance.randrange(4, len(npz.getvalue()) - 30)]) for i in range(30)]
    inputs += [(f"cut{i}.json", text[: chance.randrange(len(text) - 1)]) for i in range(30)]
    inputs += [
        (f"flip{i}.json", text.replace(b"0.5", v)) for i, v in enumerate((b"NaN", b"Infinity", b"1e999", b'"x"', b"null", b"[]", b"{}"))
    ]
    inputs += [(f"cell{i}.csv", csv.replace(b"0.2", v, 1)) for i, v in enumerate((b"nan", b"inf", b"x", b"1e999", b"0.2,0.3"))]
    inputs += [("take" + suffix, text) for suffix in ("", ".exe", ".pkl", ".../../x", ".TXT", ".\x00", ".py", ".toml")]
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weights.npy", b"\0" * 2_000_000)
    inputs += [("bomb.npz", bomb.getvalue()), ("empty.csv", b""), ("empty.json", b""), ("empty.npz", b""), ("pickle.npz", b"\x80\x04N.")]
    inputs += [(f"head{i}.csv", csv[: chance.randrange(30)]) for i in range(30)]
    inputs += [(f"json{i}.json", json.dumps(w).encode()) for i, w in enumerate(v for v in WEIRD if not isinstance(v, bytes))]
    assert len(inputs) >= 200
    for name, content in inputs:
        with pytest.raises(UserError) as refused:
            read_take(name, content, head, rest, 24.0)
        assert str(refused.value) and "/tmp" not in str(refused.value), name


def test_malformed_requests_get_an_answer_or_a_closed_door(viewer: Viewer) -> None:
    chance = random.Random(2)
    cookie = viewer.gate.cookie(viewer.port).split(";")[0]
    host = f"127.0.0.1:{viewer.port}"
    paths = ["/" + "".join(chance.choice("abc/.%2e\\?#&=~:;,'\"<>") for _ in range(chance.randrange(1, 60))) for _ in range(120)]
    paths += ["/sound/" + "".join(chance.choice("0123456789abc/-") for _ in range(12)) for _ in range(40)] + [
        "/" + "a" * n for n in (2000, 7000)
    ]
    ranges = ["bytes=" + "".join(chance.choice("0123456789-,") for _ in range(8)) for _ in range(40)]
    for path, extra in [(p, {}) for p in paths] + [("/stage.css", {"Range": r}) for r in ranges]:
        for header in ({"Cookie": cookie}, {}):
            link = http.client.HTTPConnection("127.0.0.1", viewer.port, timeout=10)
            try:
                link.request("GET", path.replace(" ", ""), headers={"Host": host, **header, **extra})
                status = link.getresponse().status
                assert status in (200, 206, 303, 400, 404, 414) if header else status in (401, 400, 414, 404), (path, status)
            except (http.client.HTTPException, ConnectionError, ValueError):
                pass  # the door was closed, or it could not even be sent
            finally:
                link.close()
    alive(viewer)


def test_a_socket_without_the_key_is_told_so(viewer: Viewer) -> None:
    async def knock() -> tuple[int | None, str | None]:
        async with connect(
            f"ws://127.0.0.1:{viewer.port}/bar/guess", additional_headers={"Cookie": viewer.gate.cookie(viewer.port).split(";")[0]}
        ) as bar:
            await asyncio.wait_for(bar.wait_closed(), 10)
            return bar.close_code, bar.close_reason

    assert in_thread(knock) == (1008, "unknown session")
