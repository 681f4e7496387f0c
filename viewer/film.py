"""Filming what a session shows: frame by frame in the render loop's free moments, into an MP4 with its sound.

`film` is a background task of the loop (see `viewer.loop.RenderLoop.background`): each step draws one frame, so that
filming never holds up the pictures that somebody waits for. It can be given up at any frame.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from avatars.video import VideoFormat, open_video
from viewer.keys import View
from viewer.stage import Place, Request, Stage

PATH = "Camera path"
MOVEMENTS = ("As seen", "Orbit", "Turntable", PATH)
SIZES = {"Window": 0, "480 lines": 480, "720 lines": 720, "1080 lines": 1080}
TURN_SECONDS = 5.0  # without a recording
SWAY = (math.radians(25), math.radians(6))  # of an orbit: sideways, up


@dataclass
class Film:
    """What is being filmed. Set `given_up` to stop."""

    frames: int
    done: int = 0
    given_up: bool = False
    failed: str | None = None
    finished: bool = False


def film(
    stage: Stage, wish: Request, bounds: tuple[int, int], movement: str, lines: int, state: Film, deliver: Callable[[bytes], None],
    views: Sequence[View] | None = None,
) -> Iterator[None]:  # fmt: skip
    """Draw frames [start, stop) of `bounds` as `wish` shows them, with the camera moving; `deliver` gets the MP4.

    `views`: the camera of every frame, for the movement "Camera path" alone.
    """
    if movement not in MOVEMENTS or (movement == PATH) != (views is not None):
        raise ValueError(f"no camera movement {movement!r}, or one without its path")
    width, height = even_size(wish.width, wish.height, lines)
    fps = stage.timeline.fps if stage.timeline else 24.0
    first, stop = bounds if stage.timeline else (0, state.frames)
    audio, audio_start = _sound(stage, first)
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "film.mp4"
            with open_video(path, fps, audio, audio_start, VideoFormat(preset="veryfast")) as video:
                for i, t in enumerate(range(first, stop)):
                    if state.given_up:
                        raise _GivenUp
                    request = replace(wish, width=width, height=height, time=float(t) if stage.timeline else 0.0)
                    if views is not None:
                        view = views[i]
                        request = replace(request, camera=None, viewmat=tuple(float(v) for v in view.viewmat.ravel()), fov=view.fov)
                    else:
                        request = moved(request, stage.place, movement, i / max(stop - first, 1))
                    video.write(stage.render(request))
                    state.done = i + 1
                    yield
            deliver(path.read_bytes())
    except _GivenUp:
        pass
    except Exception as error:
        state.failed = str(error) or type(error).__name__
    finally:
        state.finished = True


def length(stage: Stage, bounds: tuple[int, int]) -> int:
    """Frames that `film` will draw."""
    return bounds[1] - bounds[0] if stage.timeline else round(TURN_SECONDS * 24)


def even_size(width: int, height: int, lines: int) -> tuple[int, int]:
    """Video wants even numbers; `lines` 0 keeps the size, else the height becomes `lines` with the same aspect."""
    if lines:
        width, height = round(width * lines / height), lines
    return max(width - width % 2, 16), max(height - height % 2, 16)


def moved(request: Request, place: Place, movement: str, phase: float) -> Request:
    """The request with its camera carried round the head, `phase` in 0–1 of the way; both movements end where they begin."""
    if movement == "As seen":
        return request
    angle = 2 * math.pi * phase
    around, above = (angle, 0.0) if movement == "Turntable" else (SWAY[0] * math.sin(angle), SWAY[1] * (1 - math.cos(angle)) / 2)
    view = np.reshape(request.viewmat, (4, 4))
    centre, up = np.asarray(place.centre), np.asarray(place.up)
    eye = -view[:3, :3].T @ view[:3, 3]
    right = np.cross(up, eye - centre)
    right /= np.linalg.norm(right) + 1e-12
    R = _rotation(up, around) @ _rotation(right, -above)
    motion = np.eye(4)
    motion[:3, :3], motion[:3, 3] = R, centre - R @ centre
    matrix = view @ np.linalg.inv(motion)
    return replace(request, viewmat=tuple(float(v) for v in matrix.ravel()))


def _rotation(axis: np.ndarray, angle: float) -> np.ndarray:
    x, y, z = axis
    K = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + math.sin(angle) * K + (1 - math.cos(angle)) * K @ K


def _sound(stage: Stage, first: int) -> tuple[Path | None, float]:
    if stage.timeline is None:
        return None, 0.0
    segment = stage.timeline.segment_at(first)
    return stage.sound(segment.name), (first - segment.start) / stage.timeline.fps


class _GivenUp(Exception):
    pass
