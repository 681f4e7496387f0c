"""The page: viser's own, with our style and the bar added, and the few files that the bar needs.

`Page.answer` serves `/` (viser's single-file page with two tags inserted), `/stage.css`, `/stage.js` …, `/icon.svg`,
`/sound/<session>/<sequence number>` (with byte ranges, so that browsers can seek) and `/camera/<session>/<camera number>/<frame>`. Everything else is left to viser.
"""

from __future__ import annotations

import gzip
import html
import http
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from viewer.security import respond

if TYPE_CHECKING:
    from websockets.http11 import Request, Response

ASSETS = Path(__file__).parent / "assets"
KINDS = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
SOUNDS = {".wav": "audio/wav", ".mp3": "audio/mpeg", ".m4a": "audio/mp4", ".ogg": "audio/ogg", ".flac": "audio/flac"}


class Page:
    """`sound(session, number)` finds the sound file of a session's sequence, `thumbnail(session, camera, frame)` a JPEG; or None."""

    def __init__(
        self, title: str, viser_page: Path, sound: Callable[[str, int], Path | None], thumbnail: Callable[[str, int, int], bytes | None]
    ) -> None:
        self.sound, self.thumbnail = sound, thumbnail
        source = viser_page.read_text(encoding="utf-8")
        # Before viser's own script, which reads the query: its canvas only takes the mouse, our pictures lie over it, so
        # that a machine without graphics need not draw it at full size, unless the browser is to draw the avatar.
        small = '<script>history.replaceState(null, "", sessionStorage.getItem("av-drawn") === "browser" ? "/" : "?fixedDpr=0.1")</script>'
        head = f'{small}<link rel="stylesheet" href="/stage.css"><script defer src="/stage.js"></script>'
        head += '<link rel="stylesheet" href="/scene.css"><script defer src="/scene.js"></script>'
        start = source.index("<head>") + len("<head>")
        end = source.index("</head>")
        source = source[:start] + head + source[start:end] + '<link rel="icon" href="/icon.svg">' + source[end:]
        start, stop = source.index("<title>"), source.index("</title>")
        self._page = (source[:start] + f"<title>{html.escape(title)}" + source[stop:]).encode()
        self._zipped = gzip.compress(self._page, 6)

    def answer(self, request: Request, port: int) -> Response | None:
        """The response to a permitted request, or None when viser should give it."""
        path = request.path.partition("?")[0]
        if path in ("/", "/index.html"):
            if "gzip" in (request.headers.get("Accept-Encoding") or ""):
                return respond(http.HTTPStatus.OK, self._zipped, "text/html; charset=utf-8", {"Content-Encoding": "gzip"})
            return respond(http.HTTPStatus.OK, self._page, "text/html; charset=utf-8")
        if path in ("/stage.css", "/stage.js", "/scene.css", "/scene.js", "/icon.svg"):
            asset = ASSETS / path[1:]
            return respond(http.HTTPStatus.OK, asset.read_bytes(), KINDS[asset.suffix])
        if path.startswith("/sound/"):
            return self._sound(path, request.headers.get("Range"))
        if path.startswith("/camera/"):
            return self._camera(path)
        return None

    def _sound(self, path: str, range_header: str | None) -> Response:
        _, _, session, number = (path.split("/") + ["", ""])[:4]
        file = self.sound(session, int(number)) if number.isascii() and number.isdigit() and len(number) < 6 else None
        if file is None or not file.is_file():
            return respond(http.HTTPStatus.NOT_FOUND, b"no such sound", "text/plain")
        content = file.read_bytes()
        kind = SOUNDS.get(file.suffix.lower(), "application/octet-stream")
        span = byte_range(range_header, len(content))
        if span is None:
            return respond(http.HTTPStatus.OK, content, kind, {"Accept-Ranges": "bytes"})
        first, last = span
        described = {"Accept-Ranges": "bytes", "Content-Range": f"bytes {first}-{last}/{len(content)}"}
        return respond(http.HTTPStatus.PARTIAL_CONTENT, content[first : last + 1], kind, described)

    def _camera(self, path: str) -> Response:
        _, _, session, camera, frame = (path.split("/") + ["", "", ""])[:5]
        numbers = [int(n) for n in (camera, frame) if n.isascii() and n.isdigit() and len(n) < 9]
        picture = self.thumbnail(session, numbers[0], numbers[1]) if len(numbers) == 2 else None
        if picture is None:
            return respond(http.HTTPStatus.NOT_FOUND, b"no such picture", "text/plain")
        return respond(http.HTTPStatus.OK, picture, "image/jpeg")


def byte_range(header: str | None, length: int) -> tuple[int, int] | None:
    """First and last byte of a `Range: bytes=…` header with one range; None when absent or not satisfiable (RFC 9110)."""
    if not header or not header.startswith("bytes=") or length == 0:
        return None
    first, dash, last = header[6:].partition("-")
    if not dash or not (first + last).isascii() or not (first + last).isdigit() or len(first + last) > 24:
        return None
    if first == "":
        return max(length - int(last), 0), length - 1
    if int(first) >= length:
        return None
    return int(first), min(int(last), length - 1) if last else length - 1
