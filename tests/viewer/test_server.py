"""The whole server without a browser: many comings and goings, and the command that serves until interrupted."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import msgspec
import pytest
from synthetic import BallStage

from avatars.errors import UserError
from viewer.app import Viewer, serve

ROOT = Path(__file__).resolve().parents[2]
CAMERA = {
    "type": "ViewerCameraMessage", "wxyz": [1.0, 0.0, 0.0, 0.0], "position": [0.0, 0.0, 1.0], "image_height": 300, "image_width": 400,
    "fov": 0.5, "near": 0.01, "far": 100.0, "look_at": [0.0, 0.0, 0.0], "up_direction": [0.0, 1.0, 0.0],
}  # fmt: skip


def memory() -> float:
    """Resident MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.parametrize("host", ["203.0.113.1", "127.0.0.1", "no.such.name.invalid"])
def test_a_place_where_nothing_can_listen_is_said_at_once(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("viewer.avatar_stage.open_stage", lambda *_: BallStage())
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError, match=f"cannot listen on {host}:.*--port 0"):
        serve("avatar", host=host, port=taken.getsockname()[1], open_browser=False)


async def visit(viewer: Viewer, commands: int) -> int:
    """Come as a browser does, play and scrub, acknowledge pictures, leave; the number of pictures."""
    from websockets.asyncio.client import connect

    headers = {"Cookie": viewer.gate.cookie(viewer.port).split(";")[0]}
    url, pictures = f"ws://127.0.0.1:{viewer.port}", 0
    async with connect(url, additional_headers=headers, subprotocols=["viser-v1.1.1"], max_size=None) as page:  # type: ignore[list-item]
        await page.send(msgspec.msgpack.encode(CAMERA))
        key = None
        while key is None:
            message = await asyncio.wait_for(page.recv(), 20)
            size, packed = int.from_bytes(message[:8], "little"), int.from_bytes(message[8:16], "little")
            import zstandard

            text = zstandard.ZstdDecompressor().decompress(message[16 : 16 + packed], max_output_size=size)
            found = re.search(rb'data-key="([^"]+)"', text)
            key = found.group(1).decode() if found else None

        async def drain() -> None:
            async for _ in page:
                pass

        other = asyncio.create_task(drain())
        async with connect(f"{url}/bar/{key}", additional_headers=headers, max_size=None) as bar:

            async def look() -> None:
                nonlocal pictures
                async for message in bar:
                    if isinstance(message, bytes):
                        pictures += 1
                        await bar.send(json.dumps({"do": "shown", "value": int.from_bytes(message[:4], "little")}))

            eyes = asyncio.create_task(look())
            await bar.send(json.dumps({"do": "canvas", "value": [400, 300]}))
            await bar.send(json.dumps({"do": "play"}))
            for i in range(commands):
                await bar.send(json.dumps({"do": "seek", "value": i % 80}) if i % 7 else "nonsense")
                await asyncio.sleep(0.01)
            eyes.cancel()
        other.cancel()
    return pictures


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory from /proc")
def test_guests_come_and_go_without_a_trace() -> None:
    counts: list[int] = []
    failed: list[BaseException] = []

    async def rounds(viewer: Viewer, number: int) -> None:
        for _ in range(number):
            counts.extend(await asyncio.gather(*(visit(viewer, 40) for _ in range(3))))
            await asyncio.sleep(0.1)

    def run(viewer: Viewer, number: int) -> None:
        try:
            asyncio.run(rounds(viewer, number))
        except BaseException as error:
            failed.append(error)

    with Viewer(BallStage()) as viewer:
        levels, threads = [], []
        for number in (2, 3, 3):
            runner = threading.Thread(target=run, args=(viewer, number))
            runner.start()
            runner.join(90)
            gc.collect()
            levels.append(memory())
            threads.append(threading.active_count())
        assert not failed and min(counts) >= 2
        assert not viewer.guests and not viewer.loop._clients
    assert levels[2] < 1.05 * levels[0] and threads[2] <= threads[0] + 1


def test_serving_until_interrupted(stage_folder: Path) -> None:
    code = f"from viewer.app import serve; serve({str(stage_folder)!r}, port=0, open_browser=False)"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        link, said = None, []
        while link is None and (line := process.stderr.readline()):
            said.append(line)
            link = re.search(r"http://127\.0\.0\.1:\d+/\?token=\S+", line)
        assert link, "".join(said)
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with opener.open(link.group(0), timeout=20) as page:
            assert b"/stage.js" in page.read()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        process.kill()
