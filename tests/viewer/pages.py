"""What the browser tests have in common: waiting for a condition, the still picture, pixels on the screen, sliders."""

from __future__ import annotations

import time
import wave
from pathlib import Path

import cv2
import numpy as np

from viewer.app import Viewer


def tone(path: Path, seconds: float = 2.0) -> Path:
    """A sound file to play."""
    samples = (8000 * np.sin(2 * np.pi * 440 * np.arange(int(22050 * seconds)) / 22050)).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(22050)
        file.writeframes(samples.tobytes())
    return path


def newest(viewer: Viewer):
    """The guest that arrived last."""
    return viewer.guests[max(viewer.guests)]


def until(condition, timeout: float = 15.0, what: str = "condition"):
    """Poll until true; the value."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"{what} did not come true within {timeout} s")


def still(guest) -> np.ndarray:
    """The exact picture of what is wanted now, when it has been sent and confirmed."""

    def settled() -> bool:
        session = guest.session
        with session.lock:
            wanted = session._current(session.clock())
            return session._shown == (wanted, True) and guest.display.confirmed == guest.display.sent

    until(settled, what="a still picture")
    return guest.display.last_picture


def count(picture: np.ndarray, color: tuple[int, int, int], tolerance: int = 12) -> int:
    """Pixels of about that colour."""
    return int((np.abs(picture.astype(int) - color).max(-1) <= tolerance).sum())


def on_screen(page) -> np.ndarray:
    """The page as pixels."""
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(page.screenshot(), np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def type_slider(page, name: str, value: float) -> None:
    """Type a value into the box beside a slider."""
    box = page.locator(".mantine-Flex-root", has=page.get_by_text(name, exact=True)).last.get_by_role("textbox")
    box.fill(str(value))
    box.press("Enter")
