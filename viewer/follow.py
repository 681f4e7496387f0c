"""What a face that is seen or heard right now has in common, wherever it comes from: neutral, newest frame, takes.

A frame is [61]: the 52 ARKit weights in the order of `avatars.drive.ARKIT_NAMES`, then yaw, pitch and roll of the head, the left
eye and the right eye. Sources are `viewer.live` (a phone) and `viewer.hearing` (a microphone); sessions follow one of them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np

from avatars.drive import ARKIT_NAMES, Codes
from avatars.drive.codes import yaw_pitch_roll
from avatars.errors import UserError

VALUES = 61
WEIGHTS = len(ARKIT_NAMES)
SILENT_SECONDS = 1.5
MOST_RECORDED = 60 * 60 * 20  # frames of a take: twenty minutes at 60 a second


def codes_of(values: np.ndarray, times: np.ndarray) -> Codes:
    """Codes [T] of values [T, 61] at `times` [T] seconds."""
    angles = {
        name: yaw_pitch_roll(*values[:, at : at + 3].T)
        for name, at in (("head", WEIGHTS), ("eye_left", WEIGHTS + 3), ("eye_right", WEIGHTS + 6))
    }
    looks = [i for i, n in enumerate(ARKIT_NAMES) if n.startswith("eyeLook")]
    if np.abs(values[:, looks]).max() > 1e-3:  # these turn the eyes already
        angles = {"head": angles["head"]}
    return Codes(ARKIT_NAMES, values[:, :WEIGHTS].astype(np.float32), times, angles)


class Follower:
    """One source. `changed` is called when there is something new; `nothing` says that there has been none."""

    nothing = "No face has been received yet."

    def __init__(self, changed: Callable[[], None], clock: Callable[[], float] = time.monotonic) -> None:
        self.changed, self.clock = changed, clock
        self.subject = ""
        self.frames = 0
        self._raw: np.ndarray | None = None
        self._neutral = np.zeros(VALUES)
        self._arrived = -1e9
        self._recording: list[tuple[float, np.ndarray]] | None = None
        self._lock = threading.Lock()

    def receive(self, subject: str, frames: np.ndarray, spacing: float = 0.0) -> None:
        """Take frames [K, 61], the last of which is of now and the others `spacing` seconds apart before it."""
        with self._lock:
            self.subject, self._raw, self._arrived = subject[:60] or "unnamed", np.array(frames[-1]), self.clock()
            self.frames += len(frames)
            if self._recording is not None:
                first = self._arrived - spacing * (len(frames) - 1)
                if self._recording:  # pieces arrive less evenly than they were made
                    first = max(first, self._recording[-1][0] + spacing)
                for i, frame in enumerate(frames[: max(MOST_RECORDED - len(self._recording), 0)]):
                    self._recording.append((first + spacing * i, self._relative(frame)))
        self.changed()

    @property
    def silent(self) -> bool:
        """Whether nothing has come for a while."""
        return self.clock() - self._arrived > SILENT_SECONDS

    @property
    def values(self) -> tuple[float, ...]:
        """The newest frame [61] relative to the neutral one; empty before the first."""
        with self._lock:
            if self._raw is None:
                return ()
            return tuple(float(v) for v in self._relative(self._raw))

    def calibrate(self) -> None:
        """Take the face that is made now as the neutral one."""
        with self._lock:
            if self._raw is None:
                raise UserError(self.nothing)
            self._neutral = self._raw.copy()

    def record(self) -> None:
        """Begin a take."""
        with self._lock:
            if self._raw is None:
                raise UserError(self.nothing)
            self._recording = []

    @property
    def recording(self) -> bool:
        """Whether a take is being recorded."""
        return self._recording is not None

    def finish(self) -> Codes:
        """End the take; UserError when it holds nothing."""
        with self._lock:
            taken, self._recording = self._recording, None
        if not taken or len(taken) < 2:
            raise UserError(f"The take is empty. {self.nothing}")
        times = np.array([t for t, _ in taken])
        keep = np.concatenate([[True], np.diff(times) > 1e-4])
        return codes_of(np.stack([v for _, v in taken])[keep], times[keep] - times[0])

    def _relative(self, raw: np.ndarray) -> np.ndarray:
        weights = (raw[:WEIGHTS] - self._neutral[:WEIGHTS]) / np.maximum(1 - self._neutral[:WEIGHTS], 0.2)
        return np.concatenate([np.clip(weights, 0, 1.5), raw[WEIGHTS:] - self._neutral[WEIGHTS:]])
