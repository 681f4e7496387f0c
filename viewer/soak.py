"""python -m viewer.soak AVATAR: an hour of three people, compressed; the memory must stay flat and nothing may fail.

Three visitors (`viewer.visitor`, in a process of their own, so that only the server's memory is measured) come, play, scrub,
move sliders and cameras, compare, resize, save pictures, send nonsense over every channel and leave again, round after round;
telephones send packets meanwhile, good and bad. After each round the server's memory, threads and open files are noted. An hour
is taken for `EVENTS_AN_HOUR` events, which follow one another as fast as the server takes them.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import math
import multiprocessing
import os
import random
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from avatars.errors import UserError
from avatars.files import write_json
from viewer.app import Viewer
from viewer.follow import VALUES
from viewer.live import encode
from viewer.stage import LAYERS, MODES
from viewer.visitor import CAMERA, Visitor

VISITORS = 3
EVENTS_AN_HOUR = VISITORS * 3600 * 4  # four a second each: somebody who never rests
WARM_UP = 0.25  # of the rounds: caches fill, the allocator settles
MOST_GROWTH = 5.0  # percent of the memory after warming up
LEAVE_SECONDS = 20.0


@dataclass(frozen=True)
class SoakConfig:
    """python -m viewer.soak out/avatar out/tracked --out soak.json"""

    avatar: Annotated[Path, tyro.conf.Positional]
    """Avatar folder."""
    tracked: Annotated[Path | None, tyro.conf.Positional] = None
    """Tracked folder with the truth pictures; not needed."""
    hours: float = 1.0
    """How much to compress."""
    rounds: int = 40
    """How often the visitors come and leave."""
    out: Path | None = None
    """Write the report here as JSON."""


def soak(viewer: Viewer, events: int, rounds: int, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Let visitors do `events` things in `rounds` visits each; the report as JSON values (see `verdict` for what it should say)."""
    failures = _Failures()
    viewer.live.listen(0, "127.0.0.1")
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    visitors = context.Process(target=_visitors, args=(theirs, viewer.url, viewer.live.port, events // rounds // VISITORS), daemon=True)
    report: dict[str, Any] = {"events": 0, "pictures": 0, "refusals": 0, "saved": 0, "memory_mb": [], "threads": [], "open_files": []}
    started = time.monotonic()
    with failures:
        visitors.start()
        theirs.close()
        try:
            for number in range(rounds):
                ours.send(number)
                done = ours.recv()
                for name in ("events", "pictures", "refusals", "saved"):
                    report[name] += done[name]
                failures.texts += done["errors"]
                _wait(lambda: not viewer.guests and not viewer.loop._clients, "the visitors' departure", failures)
                gc.collect()
                for name, value in vitals().items():
                    report[name].append(value)
                say(
                    f"round {number + 1} of {rounds}: {report['events']} events, {report['memory_mb'][-1]:.1f} MB, {len(failures.texts)} errors"
                )
        except EOFError:
            failures.texts.append("the visitors died")
        finally:
            ours.close()
            visitors.join(10)
            if visitors.is_alive():
                visitors.terminate()
    report |= {"visits": VISITORS * len(report["memory_mb"]), "packets": viewer.live.frames, "packets_refused": viewer.live.refused}
    report |= {"seconds": round(time.monotonic() - started, 1), "errors": failures.texts[:20], **verdict(report["memory_mb"])}
    report["passed"] = not failures.texts and report["growth_percent"] <= MOST_GROWTH
    return report


def verdict(memory: list[float]) -> dict[str, float]:
    """By how many percent the memory after the last rounds exceeds that after warming up (means over an eighth of the rounds)."""
    if len(memory) < 3:
        return {"growth_percent": 0.0 if memory else float("inf")}
    settled = memory[int(WARM_UP * len(memory)) :]
    part = max(len(settled) // 6, 1)
    return {"growth_percent": round(100 * (float(np.mean(settled[-part:])) / float(np.mean(settled[:part])) - 1), 2)}


def vitals() -> dict[str, float]:
    """Resident memory in MB, threads and open files of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "memory_mb": round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1), "threads": threading.active_count(), "open_files": len(os.listdir("/proc/self/fd"))
    }  # fmt: skip


class _Failures(logging.Handler):
    """While it lasts, collects everything that is logged as an error, and exceptions that nobody caught."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """A record of the server."""
        cause = f": {record.exc_info[1]!r}" if record.exc_info and record.exc_info[1] is not None else ""
        self.texts.append(f"{record.name}: {record.getMessage()[:300]}{cause}")

    def __enter__(self) -> _Failures:
        logging.getLogger().addHandler(self)
        self._hook, threading.excepthook = (
            threading.excepthook,
            lambda a: self.texts.append(f"{a.thread and a.thread.name}: {a.exc_value!r}"),
        )
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self)
        threading.excepthook = self._hook


def _wait(condition: Callable[[], bool], what: str, failures: _Failures) -> None:
    deadline = time.monotonic() + LEAVE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            failures.texts.append(f"waited in vain for {what}")
            return
        time.sleep(0.02)


# The other process ---------------------------------------------------------------------------------------------------


def _visitors(pipe: Any, url: str, udp_port: int, events: int) -> None:
    while True:
        try:
            number = pipe.recv()
        except EOFError:
            return
        pipe.send(asyncio.run(_round(url, udp_port, events, number)))


async def _round(url: str, udp_port: int, events: int, number: int) -> dict[str, Any]:
    done: dict[str, Any] = {"events": 0, "pictures": 0, "refusals": 0, "saved": 0, "errors": []}
    results = await asyncio.gather(
        *(_visit(url, udp_port, events, VISITORS * number + i, done) for i in range(VISITORS)), return_exceptions=True
    )
    done["errors"] = [f"visitor: {r!r}" for r in results if isinstance(r, BaseException)]
    return done


async def _visit(url: str, udp_port: int, events: int, seed: int, done: dict[str, Any]) -> None:
    chance = random.Random(seed)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as phone:
        async with Visitor(url, chance.randrange(200, 640), chance.randrange(150, 480)) as visitor:
            names = [w for w, uuid in visitor.widgets.items() if visitor.kinds[uuid] == "GuiSliderMessage" and w[0].islower()]
            for i in range(events):
                await _event(visitor, chance, names, phone, udp_port)
                done["events"] += 1
                if i % 20 == 19:  # what came of it is looked at before going on
                    pictures = visitor.pictures
                    await visitor.command("seek", (7 * i + seed) % 40 + 0.0)
                    await visitor.set(names[i % len(names)], round(chance.random(), 2))
                    await visitor.until(lambda seen=pictures: visitor.pictures > seen)
                await asyncio.sleep(0.001)
            done["pictures"] += visitor.pictures
            done["refusals"] += len(visitor.refusals) + len(visitor.notes)
            done["saved"] += visitor.files


async def _event(visitor: Visitor, chance: random.Random, names: list[str], phone: socket.socket, port: int) -> None:
    """One thing that a person, or somebody worse, does."""
    match chance.choices(range(11), (24, 10, 16, 6, 10, 4, 1, 6, 8, 3, 2))[0]:
        case 0:
            await visitor.set(chance.choice(names), round(chance.random(), 2))
        case 1:
            await visitor.command("seek", chance.randrange(80))
        case 2:
            angle = chance.uniform(-1, 1)
            await visitor.say(
                CAMERA
                | {
                    "position": [math.sin(angle), 0.1 * chance.random(), math.cos(angle)],
                    "wxyz": [0.0, math.cos(angle / 2), 0.0, math.sin(angle / 2)],
                }
            )
        case 3:
            await visitor.command("mode", chance.choice(MODES))
        case 4:
            name, value = chance.choice(
                (
                    ("toggle", None),
                    ("step", 1),
                    ("speed", 2.0),
                    ("speed", 1.0),
                    ("loop", None),
                    ("wipe", 0.3),
                    ("undo", None),
                    ("release", None),
                    ("look", "Front"),
                    ("camera", 1),
                )
            )
            await visitor.command(name, value)
        case 5:
            await visitor.command("canvas", [chance.randrange(160, 640), chance.randrange(120, 480)])
        case 6:
            await visitor.command("snapshot")
        case 7:
            await visitor.bar.send(chance.choice(("nonsense", b"\xff\x00", '{"do": "fly"}', '{"do": "seek", "value": NaN}', "[" * 3000)))
        case 8:
            values = np.zeros(VALUES)
            values[chance.randrange(52)] = chance.random()
            packet = encode("phone", values)
            phone.sendto(packet if chance.random() < 0.7 else packet[: chance.randrange(len(packet))], ("127.0.0.1", port))
        case 9:
            await visitor.set(chance.choice(("Show", "Resolution")), chance.choice((*LAYERS, "Half", "rubbish")))
        case 10:
            await visitor.set(chance.choice(names), chance.choice((7.0, "x", None)))


def main() -> int:
    """Command line."""
    config = tyro.cli(SoakConfig, description=__doc__)
    from viewer.avatar_stage import open_stage

    if not config.hours > 0 or config.rounds < 4:
        raise UserError("give --hours above 0 and at least 4 --rounds.")
    logging.basicConfig(level=logging.ERROR)
    with Viewer(open_stage(config.avatar, config.tracked)) as viewer:
        report = soak(viewer, round(config.hours * EVENTS_AN_HOUR), config.rounds, lambda text: print(text, file=sys.stderr, flush=True))
    print(json.dumps(report, indent=1))
    if config.out is not None:
        write_json(config.out, report)
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"viewer.soak: {error}")
