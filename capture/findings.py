"""One thing that a check found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """What is wrong, where, and what to do about it."""

    severity: str  # "error": cannot be used so; "warning": will cost quality; "note": what was assumed
    where: str  # a file, or "camera 100000009"
    what: str
    remedy: str
