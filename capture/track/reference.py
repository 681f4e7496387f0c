"""Which frame shows the face at rest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from avatars.errors import CaptureError
from avatars.sequence import Segment
from capture.track.state import Footage

_MOUTH, _MOUTH_WIDTH = (13, 14), (61, 291)
_LIDS, _EYE_WIDTHS = ((159, 145), (386, 374)), ((33, 133), (362, 263))
_NOSE, _EYES = 4, (33, 263)


def calmest_frame(footage: Footage, wanted: str = "", alone: bool = False) -> int:
    """The frame with the mouth closed, the eyes open and the face turned to as many cameras as possible.

    wanted "SEQUENCE:FRAME" decides instead. `alone`: with a single camera, a face that looks into it is preferred. Sequences conventionally begin
    at rest, so their first frames have an advantage.
    """
    if wanted:
        return frame_named(footage.segments, wanted)
    p = footage.points.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        gap = _distance(p, *_MOUTH) / _distance(p, *_MOUTH_WIDTH)
        eyes = np.mean([_distance(p, *lids) / _distance(p, *width) for lids, width in zip(_LIDS, _EYE_WIDTHS, strict=True)], axis=0)
        middle = (p[:, :, _EYES[0]] + p[:, :, _EYES[1]]) / 2
        turn = np.abs(p[:, :, _NOSE, 0] - middle[..., 0]) / _distance(p, *_EYES)
    seen = np.isfinite(gap)
    cameras = seen.sum(1)
    some = cameras >= min(2, seen.shape[1])
    if not some.any():
        raise CaptureError(
            "The face is never seen by two cameras at the same time, so it cannot be placed in space. "
            "Check that the cameras are synchronised and look at the same person (`avatars check`)."
        )
    gap, eyes, turn = (np.array([np.median(v[t][seen[t]]) if seen[t].any() else np.nan for t in range(len(v))]) for v in (gap, eyes, turn))
    usual = np.nanquantile(eyes, 0.7)
    score = 4 * (gap - np.nanmin(gap)) + 2 * np.abs(eyes / usual - 1) + (2 * turn if alone else 0) + 0.5 * (1 - cameras / cameras.max())
    score[[s.start for s in footage.segments]] -= 0.3
    return int(np.where(some, np.nan_to_num(score, nan=1e9), 1e9).argmin())


def frame_named(segments: Sequence[Segment], wanted: str) -> int:
    """The frame of the timeline that "SEQUENCE:FRAME" means; CaptureError lists the known ones."""
    name, _, frame = wanted.partition(":")
    for segment in segments:
        if segment.name == name and frame.isdigit() and int(frame) < len(segment):
            return segment.start + int(frame)
    known = ", ".join(f"{s.name}:0–{len(s) - 1}" for s in segments)
    raise CaptureError(f"reference {wanted!r} is not a frame of this capture; known: {known}.")


def _distance(points: np.ndarray, a: int, b: int) -> np.ndarray:
    return np.linalg.norm(points[:, :, a] - points[:, :, b], axis=-1)
