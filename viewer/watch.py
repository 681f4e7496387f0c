"""Watching a training: the newest checkpoint on the stage, and how far it is.

The viewer and the training meet on disk only: the training writes `events.jsonl` and now and then a checkpoint, both
whole at any moment; a `Watcher` looks every few seconds, makes an avatar of a new checkpoint (or takes the finished one), and
hands it over. The training needs no viewer to run; while it does, the viewer keeps to `SHARE` of the machine. It is paused
and resumed by a file too (`avatars.pause`).
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

from avatars.avatar import Avatar, load_avatar
from avatars.config import load_config
from avatars.errors import AvatarError, UserError
from avatars.pause import is_paused, pause, resume
from avatars.pictures import PictureCache
from avatars.sequence import TrackedSequence
from avatars.train import TrainConfig, head_of, inputs_hash, split_of

log = logging.getLogger(__name__)

INTERVAL = 2.0  # seconds between looks
SHARE = 0.25  # of the time, at most, does the viewer draw or load while a training runs beside it
FRESH = 30.0  # a training that has said nothing for this long is not running
CHECKPOINT, EVENTS, CONFIG, MANIFEST = "checkpoint.safetensors", "events.jsonl", "train.toml", "manifest.json"


def avatar_in_training(folder: Path, tracked: TrackedSequence) -> Avatar:
    """The avatar as far as the last checkpoint in `folder` has got; AvatarError when there is none of this capture."""
    from avatars.trainer import Trainer

    config = load_config(TrainConfig, folder / CONFIG)
    split = split_of(tracked, config.held_out_cameras, config.held_out_sequences, config.held_out_last)
    trainer = Trainer(tracked, head_of(tracked), split, config, PictureCache(tracked, 1.0), torch.device("cpu"))
    if not trainer.resume(folder / CHECKPOINT, inputs_hash(tracked, config)):
        raise AvatarError(
            f"{folder} holds no checkpoint of a training with {tracked.folder}. Wait for the first one, or give the other capture."
        )
    return trainer.avatar()


def in_training(folder: str | Path) -> bool:
    """Whether `folder` holds a training that has not finished."""
    folder = Path(folder)
    return (folder / CHECKPOINT).exists() and (folder / CONFIG).exists() and not (folder / MANIFEST).exists()


def progress(folder: Path, now: float | None = None) -> str:
    """One line about a training that is running in `folder`; empty when none is."""
    try:
        if (time.time() if now is None else now) - (folder / EVENTS).stat().st_mtime > FRESH:
            return ""
        with open(folder / EVENTS, "rb") as file:
            file.seek(max(0, file.seek(0, 2) - 4096))
            lines = file.read().decode("utf-8", "replace").splitlines()
        event = next(json.loads(line) for line in reversed(lines) if line.startswith("{") and line.endswith("}"))
        left = int(event["left"])
        done = f"{100 * event['fraction']:.0f} %, {event['psnr']:.1f} dB"
        return f"Training paused at {done}" if is_paused(folder) else f"Training: {done}, {left // 60}:{left % 60:02d} left"
    except (OSError, StopIteration, KeyError, TypeError, ValueError):
        return ""


class Watcher:
    """Calls `adopt(avatar)` when the folder holds a newer one, and `say(text)` with the progress of its training."""

    def __init__(
        self,
        folder: str | Path,
        tracked: TrackedSequence | None,
        adopt: Callable[[Avatar], None],
        say: Callable[[str], None],
        interval: float = INTERVAL,
    ) -> None:
        self.folder, self.tracked, self.adopt, self.say = Path(folder), tracked, adopt, say
        self.running = False  # as of the last look
        self._seen = self._state()
        self._interval = interval
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="viewer-watch", daemon=True)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(timeout=30)

    @property
    def state(self) -> str:
        """`running`, `paused`, or empty where nothing trains."""
        return ("paused" if is_paused(self.folder) else "running") if self.running else ""

    def pause(self) -> None:
        """Let the training wait; UserError when the folder cannot be written."""
        self._ask(pause)

    def resume(self) -> None:
        """Let the training go on."""
        self._ask(resume)

    def _ask(self, action: Callable[[Path], None]) -> None:
        try:
            action(self.folder)
        except OSError as error:
            raise UserError(f"The training cannot be reached: {self.folder}: {error.strerror}.") from None
        self._tell()

    def _tell(self) -> None:
        text = progress(self.folder)
        self.running = bool(text) and not (self.folder / MANIFEST).exists()
        self.say(text)

    def look(self) -> bool:
        """Once: whether a new avatar was handed over."""
        self._tell()
        state = self._state()
        if state == self._seen:
            return False
        self._seen = state
        try:
            if (self.folder / MANIFEST).exists():
                self.adopt(load_avatar(self.folder))
            elif self.tracked is not None and in_training(self.folder):
                self.adopt(avatar_in_training(self.folder, self.tracked))
            else:
                return False
        except UserError as error:  # between two files of one writer, or another head: what is shown stays
            log.warning("the avatar on disk changed but cannot be shown: %s", error)
            return False
        return True

    def _state(self) -> tuple[float | None, ...]:
        def changed(name: str) -> float | None:
            try:
                return (self.folder / name).stat().st_mtime
            except OSError:
                return None

        # A finished avatar does not change when its checkpoint does.
        finished = changed(MANIFEST)
        return (finished,) if finished is not None else (None, changed(CHECKPOINT))

    def _run(self) -> None:
        wait = self._interval
        while not self._stopped.wait(wait):
            started = time.monotonic()
            try:
                self.look()
            except Exception:
                log.exception("watching the avatar's folder failed; trying again")
            wait = max(self._interval, (time.monotonic() - started) * (1 / SHARE - 1))
