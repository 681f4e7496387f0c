"""Sound drivers: from a voice to codes, as it is heard. One file per kind; a new kind is one new file here.

A file of this folder is a sound driver when it defines

    NAME: str                        # what people choose it by
    ABOUT: str                       # a sentence that says what it does and what it does not
    def start() -> SoundDriver       # a fresh one, for one voice

Sound is mono, float32 in ±1, at `RATE`. A driver is told chunks of any length and answers the frames that they complete, at
its own constant rate; the frames may not depend on where the chunks were cut. `latency` is how far its frames lie behind the
sound; who plays sound and face together delays the sound by as much, and `codes_of_sound` moves the frames back.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType
from typing import Protocol

import numpy as np

from avatars.drive.codes import Codes
from avatars.errors import UserError

RATE = 16_000  # samples a second
DEFAULT = "loudness"


class SoundDriver(Protocol):
    """One voice being heard."""

    names: tuple[str, ...]  # [E] of the expressions that it drives, ARKit's
    fps: float
    latency: float  # seconds

    def hear(self, samples: np.ndarray) -> np.ndarray:
        """Weights [K, E] float32 of the frames that these samples [N] complete; K may be 0."""
        ...


def sound_drivers() -> dict[str, ModuleType]:
    """The sound drivers found in this folder, by file name."""
    modules = (importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__))
    return {m.__name__.rsplit(".", 1)[-1]: m for m in modules if all(hasattr(m, a) for a in ("NAME", "ABOUT", "start"))}


def start(name: str = DEFAULT) -> SoundDriver:
    """A fresh driver of that file name; UserError lists the known ones."""
    known = sound_drivers()
    if name not in known:
        raise UserError(f"there is no sound driver {name!r}. Known: {', '.join(known)}.")
    return known[name].start()


def codes_of_sound(samples: np.ndarray, driver: SoundDriver) -> Codes:
    """What the face does while `samples` [N] are heard, in step with them; at least one frame."""
    silence = np.zeros(round((driver.latency + 1 / driver.fps) * RATE), np.float32)  # so that the last sounds are answered too
    frames = driver.hear(np.concatenate([np.asarray(samples, np.float32), silence]))
    frames = frames[round(driver.latency * driver.fps) :]
    count = max(min(len(frames), round(len(samples) / RATE * driver.fps)), 1)
    frames = frames[:count] if len(frames) else np.zeros((1, len(driver.names)), np.float32)
    return Codes(driver.names, frames, np.arange(len(frames)) / driver.fps, nominal_fps=driver.fps)
