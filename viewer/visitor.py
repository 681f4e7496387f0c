"""A browser without a screen: speaks both sockets of the viewer as the page does, for soaking and for tests.

`async with Visitor(url) as visitor:` has got past the gate, sent its camera, read the panels (`widgets`: label → name of the
first input with that label) and opened the bar; it acknowledges each picture.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import zstandard
from websockets.asyncio.client import ClientConnection, connect

CAMERA = {
    "type": "ViewerCameraMessage", "wxyz": [0.0, 1.0, 0.0, 0.0], "position": [0.0, 0.0, 1.0], "image_height": 300, "image_width": 400,
    "fov": 0.5, "near": 0.01, "far": 100.0, "look_at": [0.0, 0.0, 0.0], "up_direction": [0.0, 1.0, 0.0],
}  # fmt: skip
PATIENCE = 30.0  # seconds for anything to happen


class Visitor:
    """See the module. `url` is the complete link with the token."""

    def __init__(self, url: str, width: int = 400, height: int = 300) -> None:
        parts = urlsplit(url)
        self.address = parts.netloc
        self.headers = {"Cookie": f"avatars_{parts.port}={parse_qs(parts.query)['token'][0]}"}
        self.size = [width, height]
        self.widgets: dict[str, str] = {}
        self.kinds: dict[str, str] = {}  # name → kind of widget
        self.notes: list[str] = []  # notifications in the page
        self.refusals: list[str] = []  # answers of the bar to commands that it did not carry out
        self.files = 0  # downloads that began
        self.pictures = 0
        self.state: dict[str, Any] = {}  # what the bar shows
        self.key = ""
        self.page: ClientConnection
        self.bar: ClientConnection
        self._tasks: list[asyncio.Task] = []

    async def __aenter__(self) -> Visitor:
        import viser

        link = f"ws://{self.address}"
        self.page = await connect(link, additional_headers=self.headers, subprotocols=[f"viser-v{viser.__version__}"], max_size=None)  # type: ignore[list-item]
        self._tasks.append(asyncio.create_task(self._read()))
        await self.say(CAMERA)
        await self.until(lambda: self.key != "")
        self.bar = await connect(f"{link}/bar/{self.key}", additional_headers=self.headers, max_size=None)
        self._tasks.append(asyncio.create_task(self._look()))
        await self.command("canvas", self.size)
        await self.until(lambda: self.pictures > 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in (getattr(self, "bar", None), getattr(self, "page", None)):
            if connection is not None:  # still being read: a closing frame stands at the end of what has not been
                await connection.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def say(self, message: dict[str, Any]) -> None:
        """Send a message to viser."""
        await self.page.send(msgspec.msgpack.encode(message))

    async def set(self, label: str, value: Any) -> None:
        """Move a widget."""
        await self.say({"type": "GuiUpdateMessage", "uuid": self.widgets[label], "updates": {"value": value}})

    async def command(self, name: str, value: Any = None) -> None:
        """Use the bar."""
        await self.bar.send(json.dumps({"do": name, "value": value}))

    async def until(self, condition: Callable[[], bool], patience: float = PATIENCE) -> None:
        """Wait until it is true; TimeoutError otherwise, and what ended a connection when one has ended."""
        deadline = time.monotonic() + patience
        while not condition():
            for task in self._tasks:
                if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                    raise error
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"waited {patience:g} s in vain: {self.pictures} pictures, {len(self.widgets)} widgets, refused: {self.refusals[-3:]}"
                )
            await asyncio.sleep(0.005)

    async def _read(self) -> None:
        async for raw in self.page:
            assert isinstance(raw, bytes)
            size, packed = int.from_bytes(raw[:8], "little"), int.from_bytes(raw[8:16], "little")
            batch = msgspec.msgpack.decode(zstandard.ZstdDecompressor().decompress(raw[16 : 16 + packed], max_output_size=size))
            for message in batch["messages"]:
                self._hear(message)

    def _hear(self, message: dict[str, Any]) -> None:
        kind, properties = message.get("type", ""), message.get("props") or {}
        if kind == "NotificationShowMessage" or "Notification" in kind:
            self.notes.append(str(properties.get("body") or message.get("body") or ""))
        elif kind == "FileTransferStartDownload":
            self.files += 1
        elif kind.startswith("Gui") and isinstance(properties, dict):
            if properties.get("label") and "uuid" in message:
                self.widgets.setdefault(properties["label"], message["uuid"])
                self.kinds[message["uuid"]] = kind
            found = re.search(r'data-key="([^"]+)"', str(properties.get("content", "")))
            if found:
                self.key = found.group(1)

    async def _look(self) -> None:
        async for message in self.bar:
            if isinstance(message, bytes):
                self.pictures += 1
                await self.bar.send(json.dumps({"do": "shown", "value": int.from_bytes(message[:4], "little")}))
                continue
            news = json.loads(message)
            if "refused" in news:
                self.refusals.append(news["refused"])
            else:
                self.state |= news
