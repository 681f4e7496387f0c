"""The expression desk: which weights a hand holds, with symmetry, presets, undo and redo. Pure; one per client.

Names are the 52 ARKit names. A held expression replaces the recorded weight; what is not held follows the recording.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping, Sequence

from avatars.expressions import counterpart, preset

_HISTORY = 200


def matches(name: str, query: str) -> bool:
    """Whether an expression is found by what was typed: all words occur in its name, in any case."""
    plain = "".join(f" {c.lower()}" if c.isupper() else c for c in name) + " " + name.lower()
    return all(word in plain for word in query.lower().split())


class Desk:
    """Held weights of one client."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.symmetric = False
        self.held: dict[str, float] = {}
        self._past: list[dict[str, float]] = []
        self._future: list[dict[str, float]] = []
        self._last_moved: str | None = None

    def set(self, name: str, weight: float) -> None:
        """Hold one expression (and its counterpart when symmetric). Moving the same slider on is one step of undo."""
        if name not in self.names:
            raise ValueError(f"no expression {name!r}")
        if not math.isfinite(weight):
            raise ValueError(f"{name} must be a finite number, got {weight}")
        if name != self._last_moved:
            self._remember()
        self._last_moved = name
        weight = min(max(float(weight), -1.0), 2.0)
        self.held[name] = weight
        other = counterpart(name, self.names) if self.symmetric else None
        if other is not None:
            self.held[other] = weight

    def release(self, name: str | None = None) -> None:
        """Let one expression, or all, follow the recording again."""
        if name is None and not self.held:
            return
        self._remember()
        self.held = {} if name is None else {k: v for k, v in self.held.items() if k != name}

    def apply(self, name: str) -> None:
        """Hold every expression: at the preset's weights, or zero."""
        weights = preset(name, self.names)
        self._remember()
        self.held = weights

    def undo(self) -> bool:
        """Go back one change; False when there is none."""
        return self._travel(self._past, self._future)

    def redo(self) -> bool:
        """Go forward again; False when there is nothing to redo."""
        return self._travel(self._future, self._past)

    def to_json(self, weights: Mapping[str, float]) -> str:
        """Codes as text for the clipboard or a file: {"expressions": {name: weight}}."""
        return json.dumps({"expressions": {n: round(float(weights[n]), 4) for n in self.names}}, indent=1)

    def from_json(self, text: str) -> None:
        """Hold the weights in such text; ValueError says what is wrong with it."""
        if len(text) > 100_000:
            raise ValueError("the text is too long for expression codes")
        try:
            found = json.loads(text)
        except ValueError:
            raise ValueError('this is not JSON; expected {"expressions": {"jawOpen": 0.5, …}}') from None
        found = found.get("expressions", found) if isinstance(found, dict) else None
        if not isinstance(found, dict) or not found:
            raise ValueError('expected {"expressions": {"jawOpen": 0.5, …}}')
        clean = {}
        for name, weight in found.items():
            if name not in self.names:
                near = difflib.get_close_matches(str(name), self.names, 1)
                raise ValueError(f"no expression {str(name)[:40]!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
            if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not math.isfinite(weight):
                raise ValueError(f"{name} must be a number")
            clean[name] = min(max(float(weight), -1.0), 2.0)
        self._remember()
        self.held = clean

    def _remember(self) -> None:
        self._past.append(dict(self.held))
        del self._past[:-_HISTORY]
        self._future.clear()
        self._last_moved = None

    def _travel(self, source: list[dict[str, float]], target: list[dict[str, float]]) -> bool:
        if not source:
            return False
        target.append(dict(self.held))
        self.held = source.pop()
        self._last_moved = None
        return True
