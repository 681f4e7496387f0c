"""The whole server without a browser: many comings and goings, and the command that serves until interrupted."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from synthetic import BallStage

from avatars.errors import UserError
from viewer.app import Viewer, serve
from viewer.soak import MOST_GROWTH, VISITORS, soak, verdict

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("host", ["203.0.113.1", "127.0.0.1", "no.such.name.invalid"])
def test_a_place_where_nothing_can_listen_is_said_at_once(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("viewer.avatar_stage.open_stage", lambda *_: BallStage())
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError, match=f"cannot listen on {host}:.*--port 0"):
        serve("avatar", host=host, port=taken.getsockname()[1], open_browser=False)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory from /proc")
def test_guests_come_and_go_without_a_trace() -> None:
    """Six rounds here; `python -m viewer.soak` does an hour."""
    with Viewer(BallStage()) as viewer:
        report = soak(viewer, 6 * VISITORS * 60, 6)
    assert report["errors"] == [] and report["visits"] == 18 and report["events"] == 6 * VISITORS * 60, report
    assert (
        report["pictures"] > 40 and report["refusals"] > 20 and report["saved"] > 0 and report["packets"] > 0 < report["packets_refused"]
    ), report
    assert (
        report["growth_percent"] <= MOST_GROWTH
        and report["threads"][-1] <= report["threads"][1] + 1
        and report["open_files"][-1] <= report["open_files"][1] + 2
    ), report


def test_the_soak_sees_a_leak() -> None:
    assert verdict([100.0, 120.0, *(130.0 + i for i in range(30))])["growth_percent"] > MOST_GROWTH
    assert verdict([100.0, 120.0, *(130.0 + 0.1 * i for i in range(30))])["growth_percent"] < MOST_GROWTH


def test_serving_until_interrupted(stage_folder: Path) -> None:
    code = f"from viewer.app import serve; serve({str(stage_folder)!r}, port=0, open_browser=False)"
    process = subprocess.Popen([sys.executable, "-X", "faulthandler", "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True)
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
        try:
            rest = process.communicate(timeout=20)[1]
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)
            pytest.fail("it went on after Ctrl-C; its threads were at\n" + process.communicate()[1])
        assert process.returncode == 0 and rest.endswith("Stopped.\n"), rest
    finally:
        process.kill()
