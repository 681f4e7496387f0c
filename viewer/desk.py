"""The expression desk: which weights a hand holds, with symmetry, presets, undo and redo. Pure; one per client.

Names are the 52 ARKit names. A held expression replaces the recorded weight; what is not held follows the recording.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping, Sequence

REGIONS: Mapping[str, tuple[str, ...]] = {  # region → prefixes of ARKit names
    "Mouth": ("mouth",),
    "Jaw": ("jaw",),
    "Eyes": ("eyeBlink", "eyeSquint", "eyeWide"),
    "Gaze": ("eyeLook",),
    "Brows": ("brow",),
    "Cheeks and nose": ("cheek", "nose"),
    "Tongue": ("tongue",),
}
OTHER = "More"

_SMILE = {"mouthSmile": 0.8, "cheekSquint": 0.45, "eyeSquint": 0.3, "mouthDimple": 0.25}
PRESETS: Mapping[str, Mapping[str, float]] = {  # a name without side stands for both sides
    "Neutral": {},
    "Smile": _SMILE,
    "Laugh": {**_SMILE, "jawOpen": 0.45, "mouthUpperUp": 0.35, "eyeSquint": 0.6},
    "Surprise": {"browInnerUp": 0.9, "browOuterUp": 0.7, "eyeWide": 0.8, "jawOpen": 0.5},
    "Anger": {"browDown": 0.9, "eyeSquint": 0.5, "noseSneer": 0.5, "mouthPress": 0.5, "mouthFrown": 0.3},
    "Sadness": {"browInnerUp": 0.8, "mouthFrown": 0.7, "mouthShrugLower": 0.4, "eyeLookDown": 0.3},
    "Disgust": {"noseSneer": 0.9, "mouthUpperUp": 0.6, "browDown": 0.5, "eyeSquint": 0.4},
    "Eyes closed": {"eyeBlink": 1.0},
    "Viseme AA": {"jawOpen": 0.6, "mouthLowerDown": 0.3, "mouthUpperUp": 0.15},
    "Viseme E": {"jawOpen": 0.25, "mouthStretch": 0.5, "mouthSmile": 0.25, "mouthLowerDown": 0.3},
    "Viseme I": {"jawOpen": 0.15, "mouthSmile": 0.4, "mouthStretch": 0.3},
    "Viseme O": {"jawOpen": 0.4, "mouthFunnel": 0.7},
    "Viseme U": {"jawOpen": 0.15, "mouthPucker": 0.8, "mouthFunnel": 0.3},
    "Viseme FV": {"mouthRollLower": 0.6, "mouthUpperUp": 0.25, "jawOpen": 0.05},
    "Viseme MBP": {"mouthPress": 0.4, "mouthRollLower": 0.3, "mouthRollUpper": 0.3},
}
_SIDES = (("Left", "Right"), ("Right", "Left"))
_DIRECTIONS = ("jawLeft", "jawRight", "mouthLeft", "mouthRight")  # here Left is where it goes, not where it is
_HISTORY = 200


def regions(names: Sequence[str]) -> dict[str, list[str]]:
    """Group expression names by region, in the order of `REGIONS`; names of no region come last under "More"."""
    groups: dict[str, list[str]] = {region: [] for region in REGIONS}
    groups[OTHER] = []
    for name in names:
        region = next((r for r, prefixes in REGIONS.items() if name.startswith(prefixes)), OTHER)
        groups[region].append(name)
    return {region: members for region, members in groups.items() if members}


def counterpart(name: str, names: Sequence[str]) -> str | None:
    """The same expression on the other side of the face (for gaze, the one that turns both eyes alike), or None."""
    for side, other in _SIDES:
        if name.endswith(side) and name not in _DIRECTIONS:
            mirrored = name.removesuffix(side) + other
            if mirrored.startswith("eyeLookIn"):  # both eyes to one side: one turns in, the other out
                mirrored = mirrored.replace("eyeLookIn", "eyeLookOut")
            elif mirrored.startswith("eyeLookOut"):
                mirrored = mirrored.replace("eyeLookOut", "eyeLookIn")
            return mirrored if mirrored in names else None
    return None


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

    def apply(self, preset: str) -> None:
        """Hold every expression: at the preset's weights, or zero."""
        if preset not in PRESETS:
            raise ValueError(f"no preset {preset!r}; known: {', '.join(PRESETS)}")
        self._remember()
        wanted = PRESETS[preset]
        self.held = {n: float(wanted.get(n, wanted.get(_without_side(n), 0.0))) for n in self.names}

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


def _without_side(name: str) -> str:
    return name if name in _DIRECTIONS else name.removesuffix("Left").removesuffix("Right")
