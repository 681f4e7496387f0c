"""The gate, alone and before a running server: tokens, hosts, origins, sockets, malformed requests."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import urllib.error
import urllib.request

import pytest
from synthetic import BallStage

from viewer.app import Viewer
from viewer.page import byte_range
from viewer.security import Gate

GATE = Gate(token="s3cret", hosts=("studio.example",))
COOKIE = {"Cookie": "avatars_80=s3cret"}


@pytest.mark.parametrize(("headers", "path", "status"), [
    ({"Host": "127.0.0.1", **COOKIE}, "/", None),
    ({"Host": "localhost:80", **COOKIE}, "/", None),
    ({"Host": "127.0.0.1"}, "/?token=s3cret", None),
    ({"Host": "studio.example", **COOKIE}, "/", None),
    ({"Host": "10.0.0.7", **COOKIE}, "/", None),
    ({"Host": "127.0.0.1"}, "/", 401),
    ({"Host": "127.0.0.1"}, "/?token=wrong", 401),
    ({"Host": "127.0.0.1"}, "/?token=", 401),
    ({"Host": "127.0.0.1", "Cookie": "avatars_81=s3cret"}, "/", 401),
    ({"Host": "127.0.0.1", "Cookie": "avatars_80=s3crets"}, "/", 401),
    ({"Host": "127.0.0.1", "Cookie": "=;;\x00[]"}, "/", 401),
    ({"Host": "rebound.example", **COOKIE}, "/", 403),
    ({"Host": "127.0.0.1:81", **COOKIE}, "/", 403),
    ({"Host": "10.0.0.8", **COOKIE}, "/", 403),
    ({"Host": "", **COOKIE}, "/", 403),
    ({"Host": "127.0.0.1:x", **COOKIE}, "/", 403),
    ({"Host": "[::1", **COOKIE}, "/", 403),
    ({"Host": "127.0.0.1", "Origin": "http://127.0.0.1", **COOKIE}, "/", None),
    ({"Host": "127.0.0.1", "Origin": "http://127.0.0.1:8081", **COOKIE}, "/", 403),
    ({"Host": "127.0.0.1", "Origin": "https://evil.example", **COOKIE}, "/", 403),
    ({"Host": "127.0.0.1", "Origin": "null", **COOKIE}, "/", 403),
    ({"Host": "127.0.0.1", "Origin": "http://[", **COOKIE}, "/", 403),
    ({"Host": "127.0.0.1", "Cookie": "avatars_80=\udce9"}, "/", 401),
])  # fmt: skip
def test_gate_judges(headers: dict, path: str, status: int | None) -> None:
    refusal = GATE.refuse(headers, path, 80, "10.0.0.7")
    assert (refusal.status if refusal else None) == status


def test_tokens_are_long_and_new_each_time() -> None:
    assert len(Gate().token) >= 32 and Gate().token != Gate().token


@pytest.fixture(scope="module")
def viewer():
    with Viewer(BallStage()) as running:
        yield running


def fetch(viewer: Viewer, path: str, headers: dict | None = None) -> tuple[int, dict, bytes]:
    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_):
            return None

    request = urllib.request.Request(f"http://127.0.0.1:{viewer.port}{path}", headers=headers or {})
    try:
        with urllib.request.build_opener(Stay).open(request, timeout=10) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


def cookie(viewer: Viewer) -> dict:
    return {"Cookie": viewer.gate.cookie(viewer.port).split(";")[0]}


def test_the_server_listens_on_loopback_only(viewer: Viewer) -> None:
    assert viewer.server.get_host() == "127.0.0.1" and viewer.url.startswith("http://127.0.0.1:")


def test_the_link_becomes_a_cookie_and_leaves_the_address_bar(viewer: Viewer) -> None:
    status, headers, _ = fetch(viewer, f"/?token={viewer.gate.token}")
    assert status == 303 and headers["Location"] == "/"
    assert "HttpOnly" in headers["Set-Cookie"] and "SameSite" in headers["Set-Cookie"]
    status, headers, body = fetch(viewer, "/", cookie(viewer))
    assert status == 200 and b"/stage.js" in body
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]


def test_names_are_escaped_in_the_page(viewer: Viewer) -> None:
    _, _, body = fetch(viewer, "/", cookie(viewer))
    assert b"<title>Test &lt;b&gt;head&lt;/b&gt;" in body and b"<title>Test <b>" not in body


@pytest.mark.parametrize(("path", "headers", "status"), [
    ("/", {}, 401),
    ("/stage.js", {}, 401),
    ("/?token=guess", {}, 401),
    ("/", {"Host": "evil.example"}, 403),
    ("/", {"Origin": "http://evil.example"}, 403),
])  # fmt: skip
def test_the_server_refuses(viewer: Viewer, path: str, headers: dict, status: int) -> None:
    allowed = cookie(viewer) if status == 403 else {}
    found, _, body = fetch(viewer, path, {**allowed, **headers})
    assert found == status and b"private" in body and viewer.gate.token.encode() not in body


@pytest.mark.parametrize(
    "path", ["/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/assets/x", "/sound/x/0", "/sound/x/-1", "/sound//", "/bar/x"]
)
def test_there_is_nothing_else_to_fetch(viewer: Viewer, path: str) -> None:
    assert fetch(viewer, path, cookie(viewer))[0] == 404


def handshake(viewer: Viewer, headers: dict, path: str = "/") -> int:
    """The status line of a WebSocket handshake."""
    lines = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{viewer.port}", "Upgrade: websocket", "Connection: Upgrade",
             "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"]  # fmt: skip
    lines = [line for line in lines if line.split(":")[0] not in headers] + [f"{k}: {v}" for k, v in headers.items()]
    with socket.create_connection(("127.0.0.1", viewer.port), timeout=10) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        return int(connection.recv(200).split()[1])


def test_sockets_need_the_token_and_our_own_page(viewer: Viewer) -> None:
    ours, allowed = {"Origin": f"http://127.0.0.1:{viewer.port}"}, cookie(viewer)
    assert handshake(viewer, {**ours, **allowed}) == 101
    assert handshake(viewer, ours) == 401
    assert handshake(viewer, {**allowed, "Origin": "http://evil.example"}) == 403
    assert handshake(viewer, {**allowed, "Host": f"evil.example:{viewer.port}"}) == 403


def test_sharing_is_off(viewer: Viewer) -> None:
    from viser import _messages

    handlers = viewer.server._websock_server._incoming_handlers
    assert _messages.ShareUrlRequest not in handlers and _messages.ShareUrlDisconnect not in handlers


def test_two_hundred_malformed_messages_leave_the_server_alive(viewer: Viewer) -> None:
    import random

    from websockets.asyncio.client import connect

    chance = random.Random(4)
    noise = [bytes(chance.randrange(256) for _ in range(chance.randrange(1, 300))) for _ in range(90)]
    shaped = [
        json.dumps(x)
        for x in ({}, [], None, 1, {"do": 3}, {"do": "seek", "value": "x"}, {"do": "speed", "value": 1e400}, {"do": "mode", "value": []})
    ]

    async def attack() -> None:
        headers = cookie(viewer)
        for message in [*noise, *shaped, "\x00", "[" * 5000, "A" * 70000] * 2:
            try:
                async with connect(
                    f"ws://127.0.0.1:{viewer.port}/",
                    additional_headers=headers,
                    subprotocols=["viser-v1.1.1"],
                    open_timeout=10,
                    close_timeout=0.01,
                ) as peer:
                    await peer.send(message)
            except Exception:  # refused by closing: that is what should happen
                pass

    attacker = threading.Thread(target=lambda: asyncio.run(attack()))  # the browser tests leave a loop in this thread
    attacker.start()
    attacker.join(60)
    assert fetch(viewer, "/", cookie(viewer))[0] == 200


@pytest.mark.parametrize(("header", "length", "span"), [
    ("bytes=0-", 10, (0, 9)), ("bytes=2-5", 10, (2, 5)), ("bytes=-3", 10, (7, 9)), ("bytes=5-99", 10, (5, 9)),
    (None, 10, None), ("bytes=10-", 10, None), ("bytes=a-b", 10, None), ("items=0-1", 10, None), ("bytes=-", 10, None), ("bytes=0-", 0, None),
])  # fmt: skip
def test_byte_ranges(header: str | None, length: int, span: tuple[int, int] | None) -> None:
    assert byte_range(header, length) == span
