"""One expression as a file or on the clipboard: all weights, with the head's and the eyes' angles where a hand has turned them.

JSON is {"expressions": {"jawOpen": 0.5, …}, "head": {"turn": …, "nod": …, "tilt": …}, "gaze": {"side": …, "up": …}} in degrees;
CSV is Live Link Face's with one row, npz is the project's own. Of longer performances the first frame is taken.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from avatars.drive import Codes, open_driver, save_codes
from avatars.drive.codes import plain, to_yaw_pitch_roll, yaw_pitch_roll
from avatars.errors import UserError
from viewer.session import Session
from viewer.takes import MOST_BYTES, in_temporary_file, through_temporary_file

FORMATS = {"JSON": ".json", "Live Link Face CSV": ".csv", "npz": ".npz"}
_HEAD, _GAZE = ("turn", "nod", "tilt"), ("side", "up")


def write_codes(session: Session, suffix: str) -> bytes:
    """What the face does now, as the content of a file of that kind."""
    with session.lock:
        weights, (turn, nod, tilt), (side, up) = session.weights(), session.head, session.gaze.angles
    names = session.desk.names
    if suffix == ".json":
        content: dict[str, Any] = {"expressions": {n: round(float(w), 4) for n, w in zip(names, weights, strict=True)}}
        content |= {"head": dict(zip(_HEAD, (turn, nod, tilt), strict=True)), "gaze": dict(zip(_GAZE, (side, up), strict=True))}
        return json.dumps(content, indent=1).encode()

    def track(*degrees: float) -> np.ndarray:
        return yaw_pitch_roll(*(np.array([math.radians(d)]) for d in degrees))

    joints = {"head": track(turn, nod, -tilt)} if turn or nod or tilt else {}
    if side or up:
        joints |= {"eye_left": track(side, -up, 0.0), "eye_right": track(side, -up, 0.0)}
    codes = Codes(tuple(names), np.asarray(weights, np.float32)[None], np.zeros(1), joints, nominal_fps=60.0)
    return through_temporary_file(suffix, lambda path: save_codes(path, codes))


def read_codes(session: Session, name: str, content: bytes) -> None:
    """Hold the expression in such a file, and turn head and eyes as it says; ValueError or UserError says what is wrong with it."""
    if len(content) > MOST_BYTES:
        raise ValueError(f"{name} is too large for an expression.")
    if name.lower().endswith(".json") and (ours := _ours(content)) is not None:
        head, gaze = _angles(ours.get("head"), _HEAD), _angles(ours.get("gaze"), _GAZE)
        expressions = ours.get("expressions", ours)
    else:
        codes = in_temporary_file(name, content, open_driver)
        known = {plain(n): n for n in session.desk.names}
        expressions = {known[plain(n)]: float(w) for n, w in zip(codes.names, codes.weights[0], strict=True) if plain(n) in known}
        if not expressions:
            raise UserError(f"{name} holds no expression of this head.")
        head = _degrees(codes, "head", (1, 1, -1))
        eyes = _degrees(codes, "eye_left", (1, -1, 1))
        gaze = None if eyes is None else eyes[:2]
    with session.lock:  # nothing is drawn of one half of it
        session.desk.from_json(json.dumps(expressions))
        if head is not None:
            session.head = (head[0], head[1], head[2])
        if gaze is not None:
            session.gaze.way, session.gaze.angles = "By angles", (gaze[0], gaze[1])


def _ours(content: bytes) -> dict[str, Any] | None:
    """A JSON object with expressions by name; None when it is some other JSON."""
    try:
        found = json.loads(content.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        raise ValueError('this is not JSON; expected {"expressions": {"jawOpen": 0.5, …}}') from None
    if isinstance(found, dict) and ("expressions" in found or (found and all(isinstance(v, (int, float)) for v in found.values()))):
        return found
    if isinstance(found, (dict, list)) and found and content[:1] in (b"{", b"["):
        return None
    raise ValueError('expected {"expressions": {"jawOpen": 0.5, …}}')


def _angles(values: Any, names: tuple[str, ...]) -> tuple[float, ...] | None:
    if values is None:
        return None
    numbers = [values.get(n, 0.0) for n in names] if isinstance(values, dict) else [None]
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in numbers):
        raise ValueError(f"angles must be numbers: {', '.join(names)}")
    return tuple(min(max(float(v), -60.0), 60.0) for v in numbers)  # type: ignore[arg-type]


def _degrees(codes: Codes, joint: str, signs: tuple[int, int, int]) -> tuple[float, ...] | None:
    """Yaw, pitch and roll of the first frame's joint with our sliders' signs; None when the file has no such joint."""
    if joint not in codes.joints:
        return None
    angles = to_yaw_pitch_roll(codes.joints[joint][:1])
    return tuple(round(math.degrees(float(a[0])) * s, 2) for a, s in zip(angles, signs, strict=True))
