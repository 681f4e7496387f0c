"""Driving the viewer in a real, headless browser: for the tests and the benchmark, never for the viewer itself.

Needs Playwright (a development dependency) and a Chromium that the system provides; nothing is downloaded.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = (
    "--no-sandbox", "--use-angle=gl-egl", "--ignore-gpu-blocklist", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--mute-audio", "--autoplay-policy=no-user-gesture-required",
    "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",  # a microphone that beeps, and a user who allows it
)  # fmt: skip


def missing() -> str | None:
    """Why no browser can be driven here, or None."""
    if importlib.util.find_spec("playwright") is None:
        return "playwright is not installed (pip install playwright)"
    if executable() is None:
        return f"no Chromium found (looked for {', '.join(NAMES)})"
    return None


def executable() -> str | None:
    """Path of the system's Chromium."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def chromium() -> Iterator[Any]:
    """A Playwright browser; its pages draw WebGL in software where there is no GPU."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), headless=True, args=list(ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


def open_viewer(page: Any, url: str, timeout: float = 30.0) -> None:
    """Open the viewer's link and wait until panels, bar and the first picture are there."""
    page.goto(url)
    page.wait_for_selector("#session", state="attached", timeout=timeout * 1000)
    page.wait_for_selector("#av-wait", state="detached", timeout=timeout * 1000)
