"""What the viewer asks for and what it asks of: one frozen `Request` for a picture, and the `Stage` that draws it.

The viewer owns no mathematics: panels and sockets make requests, the render loop hands the newest one to a stage, and
the stage returns pixels. Requests are hashable, so "nothing changed" is `==`. Times are frames on the timeline that
concatenates all sequences (fractions lie between two frames), angles are degrees, pictures are uint8 RGB [H, W, 3].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from avatars.sequence import Segment
from viewer.splats import Splats

MODES = ("Render", "Reference", "Side by side", "Wipe", "Flicker", "Error")
TRUTH = "Truth"  # the reference that is the capture's own picture; others are avatars
REGIONS = ("foreground", "mouth", "eyes")
BACKGROUND = (104, 107, 112)  # neutral: hair cut out of a light studio or a dark one looks right on it
LAYERS = ("Colour", "Coverage", "Depth", "Normals", "Mesh", "Textured mesh", "Wireframe", "Points", "Ellipsoids", "Splats per triangle")


@dataclass(frozen=True)
class Controls:
    """What a hand has set on top of the recorded performance."""

    held: tuple[tuple[str, float], ...] = ()  # expression → weight, replacing the recorded one
    head: tuple[float, float, float] = (0.0, 0.0, 0.0)  # turn to the subject's left, nod down, tilt to the subject's left; added
    gaze: tuple[float, float] = (0.0, 0.0)  # to the subject's left, up; added
    follow: bool = True  # False: the neutral face instead of the recorded one
    live: tuple[float, ...] = ()  # [61] of Live Link Face instead of the recording; see `viewer.follow`
    target: tuple[float, float, float] | None = None  # what the eyes look at instead, metres in the world
    still: bool = False  # keep the head where it is on average; expressions play on


@dataclass(frozen=True)
class Request:
    """One picture. With `camera` set it is seen by that camera of the capture, fitted into the picture."""

    width: int
    height: int
    viewmat: tuple[float, ...]  # 16 numbers, world → camera (OpenCV), row by row
    fov: float  # vertical, radians
    time: float = 0.0
    controls: Controls = Controls()
    camera: str | None = None
    mode: str = "Render"
    subject: str = ""  # which of the open avatars is shown; empty: the first
    against: str = TRUTH  # what it is compared with
    layer: str = "Colour"
    wipe: float = 0.5  # fraction of the width that shows the truth
    gain: float = 4.0  # of the error picture
    background: tuple[int, int, int] = BACKGROUND
    lines: bool = False  # the edges of the fitted mesh over it all
    splats: bool = False  # not a picture but the Gaussians, for the browser to draw
    frustums: bool = False  # the capture's cameras where they stand
    pointed: str | None = None  # the one of them under the pointer


@dataclass(frozen=True)
class Legend:
    """What the colours of a picture mean."""

    title: str
    low: str  # what the first colour stands for, with its unit
    high: str
    colors: tuple[str, ...]  # CSS, from low to high


@dataclass(frozen=True)
class Timeline:
    """The sequences that can be played, one after the other."""

    fps: float
    segments: tuple[Segment, ...]

    @property
    def length(self) -> int:
        """Number of frames."""
        return self.segments[-1].stop if self.segments else 0

    def segment_at(self, time: float) -> Segment:
        """The sequence that is playing at `time`."""
        for segment in self.segments:
            if time < segment.stop:
                return segment
        return self.segments[-1]


@dataclass(frozen=True)
class Place:
    """Where the head is, for cameras: world coordinates, metres."""

    centre: tuple[float, float, float]
    forward: tuple[float, float, float]  # out of the face
    up: tuple[float, float, float]
    radius: float  # of a sphere around head and hair


class Stage(Protocol):
    """Draws requests. Called by one thread at a time; a failure is an exception that says what is wrong."""

    name: str
    figures: Mapping[str, str]  # label → text, shown once
    status: str  # a line about what goes on behind the stage; usually empty
    expression_names: tuple[str, ...]
    timeline: Timeline | None
    camera_names: tuple[str, ...]
    layers: tuple[str, ...]
    references: tuple[str, ...]  # what there is to compare with, `TRUTH` first
    avatars: tuple[str, ...]  # all that are open; the first leads
    nearby: Mapping[str, str]  # label → folder of avatars that could be opened
    exports: Mapping[str, str]  # format → what opens it
    held_out: frozenset[str]  # sequences and cameras that training has not seen
    place: Place

    def render(self, request: Request) -> np.ndarray:
        """uint8 RGB [request.height, request.width, 3]."""
        ...

    def splats(self, request: Request) -> Splats:
        """The Gaussians of the request's time and controls."""
        ...

    def legend(self, request: Request) -> Legend | None:
        """What the colours of the picture mean, where they do not speak for themselves."""
        ...

    def weights(self, time: float) -> np.ndarray:
        """The recorded expression [E] at `time`; zeros without a recording."""
        ...

    def trained_range(self) -> np.ndarray | None:
        """[E, 2] least and greatest weight that the recordings contain; None when unknown."""
        ...

    def view(self, camera: str, aspect: float) -> tuple[tuple[float, ...], float]:
        """World → camera (16 numbers) of a capture camera, and the vertical field of view (radians) with which a canvas of
        width/height `aspect` shows its whole picture."""
        ...

    def camera_at(self, request: Request, x: float, y: float) -> str | None:
        """The capture camera whose frustum lies under pixel (x, y) of the request's picture."""
        ...

    def thumbnail(self, camera: str, frame: int) -> np.ndarray | None:
        """What a capture camera recorded, uint8 RGB and small; None where there is nothing. May be called from any thread."""
        ...

    def measure(self, frame: int, camera: str, subject: str) -> np.ndarray | None:
        """[2, 3] PSNR (dB) and SSIM of an avatar's render over each of `REGIONS` (NaN where it is not seen); None without a truth picture."""
        ...

    def open_avatar(self, folder: str) -> str:
        """Open another avatar, or the newest checkpoint of a training; the name that it got. UserError says why not."""
        ...

    def close_avatar(self, name: str) -> None:
        """Close one that is not the first."""
        ...

    def performances(self) -> tuple[tuple[str, str], ...]:
        """(avatar, sequence) of every recording of the other open avatars."""
        ...

    def borrow(self, avatar: str, sequence: str) -> str:
        """Retarget another avatar's recording onto the first, as one more sequence of the timeline; its name."""
        ...

    def export(self, format: str, request: Request) -> tuple[str, bytes]:
        """A name and the content of the shown avatar in one of `exports`; folders come as a zip archive."""
        ...

    def add_take(self, name: str, content: bytes) -> str:
        """Put an uploaded performance at the end of the timeline; its sequence name. UserError says what is wrong with it."""
        ...

    def save_take(self, sequence: str, held: Mapping[str, float], suffix: str) -> bytes:
        """A sequence with the held expressions as a file: .csv (Live Link Face), .json or .npz."""
        ...

    def sound(self, sequence: str) -> Path | None:
        """The sound of a sequence, starting with its first frame."""
        ...
