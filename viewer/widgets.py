"""What all panels do with viser's widgets."""

from __future__ import annotations

from typing import Any


def put(handle: Any, value: Any) -> None:
    """Show a value; nothing is sent when it is there already."""
    if handle.value != value:
        handle.value = value
