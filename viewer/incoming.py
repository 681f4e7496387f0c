"""What a page says to viser, judged before viser believes it: one `Judge` per connection, in front of viser's own reading.

viser decodes messages without looking at their types, converts values by trial, and lets a page set any attribute of a widget.
So each message is decoded here first; one that no page of ours sends, that carries numbers that are none, sets something else
than a value, or sets a value that its widget cannot have, is dropped, and the page is told why. A connection that speaks another
language, or is refused `MOST_REFUSALS` times, is closed with the reason. Uploads may be `MOST_UPLOAD` bytes on the way at a time.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

log = logging.getLogger(__name__)

MOST_UPLOAD = 40_000_000  # bytes that one browser may have on the way
MOST_PARTS = 10_000
MOST_UPLOADS = 8  # of one browser at a time
MOST_REFUSALS = 100
MOST_TEXT = 200_000  # characters of one field
MOST_ITEMS = 1_000
EXPECTED = frozenset({
    "ViewerCameraMessage", "GuiUpdateMessage", "FileTransferStartUpload", "FileTransferPart", "CommandTriggerMessage",
    "GuiButtonHoldMessage", "GuiFormSubmitMessage", "GuiFormDirtyMessage", "LocalStorageGetItemResponseMessage",
    "GetRenderResponseMessage", "ScenePointerMessage", "SceneNodeClickMessage", "SceneNodeDragMessage",
    "TransformControlsUpdateMessage", "TransformControlsDragStartMessage", "TransformControlsDragEndMessage",
})  # fmt: skip
_CLOSE_NOT_OURS, _CLOSE_REFUSED = 1003, 1008  # RFC 6455: unsupported data, policy


class Foreign(ValueError):
    """Not a message of viser's at all."""


class Judge:
    """`find(uuid)` gives the widget of that name, or None."""

    def __init__(self, messages: Any, find: Callable[[str], Any]) -> None:
        self.messages, self.find = messages, find
        self.announced: dict[str, int] = {}  # upload → bytes that may still come

    def check(self, raw: Any) -> None:
        """ValueError with the reason when this message must not reach viser; `Foreign` when it is none."""
        if not isinstance(raw, bytes):
            raise Foreign("text where a packed message is expected")
        try:
            message = self.messages.Message.deserialize(raw)
        except Exception as error:
            raise Foreign(f"not a message of this page ({type(error).__name__})") from None
        kind = type(message).__name__
        if kind not in EXPECTED:
            raise ValueError(f"{kind[:60]} is not for pages to send")
        fields = vars(message)
        for name, value in fields.items():
            _sane(value, f"{kind}.{name}")
        check = getattr(self, f"_{kind}", None)
        if check is not None:
            check(**{k: v for k, v in fields.items() if not k.startswith("_")})

    def _ViewerCameraMessage(
        self, *, wxyz: Any, position: Any, look_at: Any, up_direction: Any, fov: Any, image_width: Any, image_height: Any, **_: Any
    ) -> None:
        for name, value, length in (
            ("wxyz", wxyz, 4),
            ("position", position, 3),
            ("look_at", look_at, 3),
            ("up_direction", up_direction, 3),
        ):
            if not isinstance(value, (list, tuple)) or len(value) != length or not all(_is_number(v) and abs(v) < 1e6 for v in value):
                raise ValueError(f"a camera's {name} is {length} numbers")
        if (
            not any(wxyz)
            or not _is_number(fov)
            or not 0 < fov < math.pi
            or not all(_is_number(v) and 0 <= v < 1e5 for v in (image_width, image_height))
        ):
            raise ValueError("no camera looks like this")

    def _GuiUpdateMessage(self, *, uuid: Any, updates: Any, **_: Any) -> None:
        if not isinstance(uuid, str) or not isinstance(updates, dict):
            raise ValueError("a widget's message names the widget and its new value")
        if set(updates) != {"value"}:
            raise ValueError("of a widget only the value can be set")
        widget = self.find(uuid)
        if widget is not None:
            check_value(widget, updates["value"])

    def _CommandTriggerMessage(self, *, uuid: Any, **_: Any) -> None:
        if not isinstance(uuid, str):
            raise ValueError("a command has a name")

    def _FileTransferStartUpload(
        self, *, source_component_uuid: Any, transfer_uuid: Any, filename: Any, mime_type: Any, part_count: Any, size_bytes: Any, **_: Any
    ) -> None:
        if not all(isinstance(v, str) and len(v) <= 1000 for v in (source_component_uuid, transfer_uuid, filename, mime_type)):
            raise ValueError("an upload has a file's name and kind")
        if not _is_count(size_bytes) or not _is_count(part_count) or part_count > MOST_PARTS or (part_count == 0) != (size_bytes == 0):
            raise ValueError(f"{filename[:60]}: a file of that size cannot be")
        if sum(self.announced.values()) + size_bytes > MOST_UPLOAD or len(self.announced) >= MOST_UPLOADS:
            raise ValueError(
                f"{filename[:60]} is too large: {MOST_UPLOAD // 1_000_000} MB in {MOST_UPLOADS} files can be uploaded at a time"
            )
        if transfer_uuid in self.announced:
            raise ValueError(f"{filename[:60]} is being uploaded already")
        if size_bytes:
            self.announced[transfer_uuid] = size_bytes

    def _FileTransferPart(self, *, transfer_uuid: Any, part_index: Any, content: Any, source_component_uuid: Any = None, **_: Any) -> None:
        if not isinstance(transfer_uuid, str) or not isinstance(content, bytes) or not _is_count(part_index):
            raise ValueError("a part of a file has a number and bytes")
        if not isinstance(source_component_uuid, (str, type(None))):
            raise ValueError("a part of a file belongs to a button")
        left = self.announced.get(transfer_uuid, -1) - len(content)
        if left < 0:
            self.announced.pop(transfer_uuid, None)
            raise ValueError("more of a file than was announced")
        self.announced[transfer_uuid] = left
        if left == 0:
            del self.announced[transfer_uuid]


def check_value(widget: Any, value: Any) -> None:
    """ValueError when a viser widget cannot have that value."""
    state = widget._impl
    label = getattr(state.props, "label", None) or "this"
    known = state.value
    options = getattr(widget, "options", None)
    if state.is_button and options is None:
        good = isinstance(value, bool)
    elif options is not None:
        good = value in options
    elif isinstance(known, bool):
        good = isinstance(value, bool)
    elif isinstance(known, (int, float)):
        good = _is_number(value) and _within(widget, value)
    elif isinstance(known, str):
        good = isinstance(value, str)
    elif isinstance(known, tuple) and known and all(_is_number(k) for k in known):
        whole = "Rgb" in type(widget).__name__
        good = (
            isinstance(value, (list, tuple))
            and len(value) == len(known)
            and all(_is_number(v) and (not whole or 0 <= v <= 255) and _within(widget, v) for v in value)
        )
    else:
        good = False
    if not good:
        raise ValueError(f"{label[:60]} cannot be set to {str(value)[:40]!r}")


def judged(connection: Any, judge: Judge, tell: Callable[[str], None]) -> None:
    """Let a socket of viser receive only what `judge` passes; `tell` shows a reason in its page."""
    receive, refused = connection.recv, 0

    async def checked(*arguments: Any, **options: Any) -> Any:
        nonlocal refused
        while True:
            raw = await receive(*arguments, **options)
            try:
                judge.check(raw)
                return raw
            except Foreign as error:
                log.warning("a connection is closed: %s", error)
                await connection.close(_CLOSE_NOT_OURS, str(error)[:120])
            except ValueError as error:
                refused += 1
                log.info("refused from a page: %s", error)
                if refused >= MOST_REFUSALS:
                    await connection.close(_CLOSE_REFUSED, "too much was refused")
                else:
                    tell(str(error))

    connection.recv = checked


def _sane(value: Any, where: str, depth: int = 0) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} holds a value that is no number")
    if isinstance(value, int) and abs(value) > 1 << 53:
        raise ValueError(f"{where} holds a number too large for a page")
    if isinstance(value, str) and len(value) > MOST_TEXT:
        raise ValueError(f"{where} holds {len(value)} characters")
    if isinstance(value, (list, tuple, dict)):
        if len(value) > MOST_ITEMS or depth > 6:
            raise ValueError(f"{where} holds too much")
        for item in [*value.keys(), *value.values()] if isinstance(value, dict) else value:
            _sane(item, where, depth + 1)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _within(widget: Any, value: float) -> bool:
    for name, sign in (("min", 1), ("max", -1)):
        bound = getattr(widget, name, None)
        if bound is not None and _is_number(bound) and sign * (value - bound) < -1e-6:  # a page rounds to the step
            return False
    return True
