"""The bar in the page: transport, modes and messages, over a socket of its own beside viser's.

The server sends pictures (see `viewer.display`) and one JSON object whenever what the bar shows has changed, at most 20
times a second; the page sends commands `{"do": name, "value": …}`, and, when asked, its microphone (see
`viewer.hearing`). `perform` is the whole vocabulary; what it does not know, or has the wrong type, it
refuses with a sentence that the page shows. A session is found by the key in the socket's path, which the page reads
from a hidden element that viser delivered to it alone.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from websockets.exceptions import ConnectionClosed

from avatars.errors import UserError
from viewer.codes_file import read_codes, write_codes
from viewer.display import ImageDisplay
from viewer.session import Session
from viewer.splats import NOTE
from viewer.stage import MODES, REGIONS
from viewer.transport import SPEEDS

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection

log = logging.getLogger(__name__)

PATH = "/bar/"
INTERVAL = 1 / 20
CURVE_ROUNDS = 10  # intervals between two states of a curve that is being measured
_LONGEST_COMMAND = 16_384


def describe(session: Session, curve: np.ndarray | None, training: str = "") -> dict[str, Any]:
    """What the bar shows, as JSON values. `training`: `running` or `paused` while one is watched."""
    stage, transport = session.stage, session.transport
    timeline = transport.timeline
    with session.lock:
        state: dict[str, Any] = {
            "name": stage.name,
            "status": stage.status,
            "training": training,
            "drawn": session.drawn_by,
            "browser": session.in_browser,
            "note": NOTE,
            "microphone": session.microphone.wanted,
            "sequences": [
                {"name": s.name, "start": s.start, "stop": s.stop, "sound": stage.sound(s.name) is not None}
                for s in (timeline.segments if timeline else ())
            ],
            "unseen": sorted(stage.held_out),
            "fps": timeline.fps if timeline else 0.0,
            "speeds": list(SPEEDS),
            "modes": list(MODES) if stage.references else [],
            "references": list(stage.references),
            "against": session.against,
            "mode": session.mode,
            "camera": session.camera,
            "wipe": session.wipe,
            "playing": transport.playing,
            "time": round(transport.time, 3),
            "speed": transport.speed,
            "loop": transport.loop,
            "bounds": list(transport.bounds),
            "held": len(session.desk.held),
            "beyond": session.beyond(),
            "error": session.error,
            "pictures": round(session.fps, 1) if transport.playing else 0,
            "scale": session.governor.scale if transport.playing else 1,
            "cameras": list(stage.camera_names),
            "frustums": session.frustums,
            "pointed": session.pointed,
            "legend": None if (legend := stage.legend(session.request_now())) is None else asdict(legend),
            "avatars": list(stage.avatars),
            "subject": session.subject or stage.name,
            "copied": list(session.copied),
            "region": session.region,
            "regions": list(REGIONS),
            "curve": None,
            "psnr": None,
            "ssim": None,
            "mean": None,
        }
    if curve is not None:
        frame, (start, stop) = int(state["time"]), state["bounds"]
        state["curve"] = _finite(curve[:, 0, REGIONS.index(state["region"])])
        if frame < len(curve):
            state |= {name: dict(zip(REGIONS, _finite(curve[frame, i]), strict=True)) for i, name in enumerate(("psnr", "ssim"))}
        state["mean"] = dict(zip(REGIONS, _finite(_means(curve[start:stop, 0])), strict=True))
    return state


def perform(session: Session, command: Any, actions: dict[str, Callable[[], None]], curve: np.ndarray | None) -> None:
    """Carry out one command; ValueError says what is wrong with it."""
    if not isinstance(command, dict) or not isinstance(command.get("do"), str):
        raise ValueError("not a command")
    name, value = command["do"], command.get("value")
    transport = session.transport
    with session.lock:
        match name:
            case "toggle":
                transport.toggle()
            case "play":
                transport.play()
            case "pause":
                transport.pause()
            case "seek":
                transport.seek(math.floor(_number(value)))
            case "step":
                transport.step(int(max(-1000, min(1000, _number(value)))))
            case "home":
                transport.seek(transport.bounds[0])
            case "end":
                transport.seek(transport.bounds[1] - 1)
            case "speed":
                transport.set_speed(_number(value))
            case "loop":
                transport.loop = bool(value) if value is not None else not transport.loop
            case "sequence":
                transport.select(_text(value))
            case "in":
                transport.set_bounds(transport.frame, transport.bounds[1])
            case "out":
                transport.set_bounds(transport.bounds[0], transport.frame + 1)
            case "bounds":
                transport.set_bounds(*(int(n) for n in _pair(value)))
            case "mode":
                session.set_mode(_text(value))
            case "against":
                session.set_against(_text(value))
            case "wipe":
                session.wipe = min(max(_number(value), 0.0), 1.0)
            case "look":
                session.look_from(_text(value))
            case "camera":
                session.step_camera(1 if _number(value) > 0 else -1)
            case "through":
                session.look_through(_text(value))
            case "cameras":
                session.show_cameras(bool(value))
            case "point" | "pick":
                session.point_at(*_pair(value), go=name == "pick")
            case "undo":
                session.desk.undo()
            case "redo":
                session.desk.redo()
            case "release":
                session.desk.release()
            case "canvas":
                session.resized(*(int(n) for n in _pair(value)))
            case "microphone":  # the browser gave none, or took it away
                session.microphone.stop(_text(value) or "no reason was given")
            case "drawn":
                session.set_drawn_by(_text(value))
            case "visible":
                session.visible = bool(value)
            case "subject":
                session.set_subject(_text(value))
            case "region":
                session.region = _text(value) if value in REGIONS else REGIONS[0]
            case "key":
                session.keys.add(session.view_now())
            case "copy":
                session.copied = (session.copied[0] + 1, write_codes(session, ".json").decode())
            case "paste":
                read_codes(session, "clipboard.json", _text(value, _LONGEST_COMMAND).encode())
            case "worst":
                column = None if curve is None else curve[:, 0, REGIONS.index(session.region)]
                if column is None or np.isnan(column).all():
                    raise ValueError("The comparison has not been measured yet.")
                transport.pause()
                transport.seek(int(np.nanargmin(column)))
            case _ if name in actions:
                actions[name]()
            case _:
                raise ValueError(f"unknown command {name[:40]!r}")
    session.touch()


@dataclass(frozen=True)
class Guest:
    """What the bar needs of one connected browser."""

    key: str
    session: Session
    display: ImageDisplay
    actions: dict[str, Callable[[], None]]  # further commands, by name
    inherit: Callable[[str], None] = lambda key: None  # go on where the session of that key was: the page was loaded again


class Bar:
    """Serves the sockets of all pages. `find(key)` gives the guest or None; `curve(session)` its PSNR curve; `training()` see `describe`."""

    def __init__(
        self, find: Callable[[str], Guest | None], curve: Callable[[Session], np.ndarray | None], training: Callable[[], str] = lambda: ""
    ) -> None:
        self.find, self.curve, self.training = find, curve, training

    async def socket(self, connection: ServerConnection) -> bool:
        """Take a connection over when it is the bar's; see `viewer.security.guarded`."""
        path = connection.request.path if connection.request is not None else ""
        if not path.startswith(PATH):
            return False
        guest = self.find(path[len(PATH) :])
        if guest is None:
            await connection.close(1008, "unknown session")
            return True
        senders = [asyncio.create_task(self._send(connection, guest.session)), asyncio.create_task(_show(connection, guest.display))]
        try:
            async for text in connection:
                refused = self._receive(guest, text)
                if refused is not None:
                    await connection.send(json.dumps({"refused": refused}))
        except ConnectionClosed:  # it left while it was being answered
            pass
        finally:
            for sender in senders:
                sender.cancel()
        return True

    def _receive(self, guest: Guest, text: str | bytes) -> str | None:
        try:
            if isinstance(text, bytes):
                guest.session.microphone.hear(text)
                return None
            if len(text) > _LONGEST_COMMAND:
                raise ValueError("the command is too long")
            command = json.loads(text)
            if isinstance(command, dict) and command.get("do") == "inherit":
                guest.inherit(_text(command.get("value")))
                return None
            if isinstance(command, dict) and command.get("do") == "shown":
                guest.display.confirm(int(_number(command.get("value"))))
            else:
                perform(guest.session, command, guest.actions, self.curve(guest.session))
        except (ValueError, UserError) as error:  # JSON errors too
            return str(error)
        except (RecursionError, OverflowError):
            return "not a command"
        except Exception as error:  # a fault of ours must not end this page's connection
            log.exception("a command failed")
            return f"That failed: {error or type(error).__name__}"
        return None

    async def _send(self, connection: ServerConnection, session: Session) -> None:
        previous: dict[str, Any] = {}
        shown: np.ndarray | None = None
        rounds = 0
        while True:
            curve = self.curve(session)
            if shown is None or curve is None or len(shown) != len(curve) or rounds % CURVE_ROUNDS == 0:
                shown = None if curve is None else curve.copy()  # it grows while it is measured; it may be long
            rounds += 1
            state = describe(session, shown, self.training())
            changes = {k: v for k, v in state.items() if k not in previous or previous[k] != v}
            if changes:
                await connection.send(json.dumps(changes, allow_nan=False))
                previous = state
            await asyncio.sleep(INTERVAL)


async def _show(connection: ServerConnection, display: ImageDisplay) -> None:
    async for picture in display.pictures():
        await connection.send(picture)


def _means(values: np.ndarray) -> np.ndarray:
    """[R] means of [T, R] over the frames that have a value."""
    seen = ~np.isnan(values)
    return np.where(seen.any(0), np.where(seen, values, 0).sum(0) / np.maximum(seen.sum(0), 1), np.nan)


def _finite(values: np.ndarray) -> list[float | None]:
    return [None if math.isnan(v) else round(v, 3) for v in values.tolist()]


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError("a number is needed")
    return float(value)


def _pair(value: Any) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError("two numbers are needed")
    return _number(value[0]), _number(value[1])


def _text(value: Any, longest: int = 200) -> str:
    if not isinstance(value, str) or len(value) > longest:
        raise ValueError("a name is needed")
    return value
