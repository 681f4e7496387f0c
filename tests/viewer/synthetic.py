"""A stage without an avatar: a head of coloured balls that obeys cameras, time and a few expressions, drawn in a millisecond."""

from __future__ import annotations

import math
import time as clock
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from avatars.drive import ARKIT_NAMES
from avatars.errors import UserError
from avatars.head.model import ARKIT
from avatars.sequence import Segment
from viewer.cameras import Rect, fit, fitted_fov
from viewer.splats import UNIT, Splats
from viewer.stage import Legend, Place, Request, Timeline

RED, WHITE, SKIN = (220, 30, 40), (245, 245, 245), (205, 160, 135)
TRUTH_SKIN, RIVAL_SKIN, SISTER_SKIN = (170, 190, 140), (120, 130, 210), (200, 200, 60)


class BallStage:
    """Skin ball, two eyes that blink, a red mouth that jawOpen opens, and a recording in which the head turns."""

    name = "Test <b>head</b>"
    figures = {"Gaussians": "12 345", "Capture": "made up"}
    status = ""
    expression_names = ARKIT
    layers = ("Colour", "Depth", "Wireframe")
    references = ("Truth", "Test <b>head</b>", "Rival")
    avatars = ("Test <b>head</b>", "Rival")
    nearby = {"Sister": "/nowhere/sister"}
    exports = {"ply": "one frame", "avatar": "everything"}
    held_out = frozenset({"SEN-1", "side"})
    place = Place((0.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, 1.0, 0.0), 0.16)
    camera_names = ("front <1>", "side")
    picture_size = (400, 550)

    def __init__(self, seconds: float = 0.0, sound: Path | None = None) -> None:
        self.timeline = Timeline(24.0, (Segment("EXP-1", 0, 40), Segment("SEN-1", 40, 88)))
        self.seconds = seconds
        self.fail: str | None = None
        self.drawn: list[Request] = []
        self._sound = sound

    def weights(self, time: float) -> np.ndarray:
        weights = np.zeros(len(ARKIT))
        weights[ARKIT.index("jawOpen")] = 0.5 - 0.5 * math.cos(2 * math.pi * time / 20)
        return weights

    def legend(self, request: Request) -> Legend | None:
        return Legend("Depth <i>", "near", "20 cm behind", ("#f00", "#00f")) if request.layer == "Depth" else None

    def trained_range(self) -> np.ndarray:
        return np.stack([np.zeros(len(ARKIT)), np.full(len(ARKIT), 0.8)], 1)

    def view(self, camera: str, aspect: float) -> tuple[tuple[float, ...], float]:
        angle = 0.0 if camera == self.camera_names[0] else math.radians(60)
        eye = np.array([math.sin(angle), 0.0, math.cos(angle)])
        z = -eye
        x = np.cross(z, [0.0, 1.0, 0.0])
        R = np.stack([x, np.cross(z, x), z])
        T = np.eye(4)
        T[:3, :3], T[:3, 3] = R, -R @ eye
        return tuple(T.ravel()), fitted_fov(math.radians(24), *self.picture_size, aspect)

    def camera_at(self, request: Request, x: float, y: float) -> str | None:
        return self.camera_names[1] if request.frustums and x > 0.75 * request.width else None

    def thumbnail(self, camera: str, frame: int) -> np.ndarray | None:
        return np.full((144, 100, 3), RED if camera == self.camera_names[0] else SKIN, np.uint8) if frame < 88 else None

    def measure(self, frame: int, camera: str, subject: str) -> np.ndarray | None:
        value = (25 if subject else 30) + 3 * math.sin(frame / 7) - (6 if frame == 55 else 0)
        return np.array([[value, value - 4 - (9 if frame == 60 else 0), math.nan], [0.9, 0.8, math.nan]])

    def open_avatar(self, folder: str) -> str:
        if folder != "/nowhere/sister":
            raise UserError(f"{folder} is not an avatar.")
        self.avatars, self.references = (*self.avatars, "Sister"), (*self.references, "Sister")
        return "Sister"

    def close_avatar(self, name: str) -> None:
        self.avatars, self.references = (tuple(a for a in names if a != name) for names in (self.avatars, self.references))

    def performances(self) -> tuple[tuple[str, str], ...]:
        return (("Rival", "EXP-9"),)

    def borrow(self, avatar: str, sequence: str) -> str:
        return self.add_take(f"{sequence} of {avatar}.csv", b"take 123")

    def export(self, format: str, request: Request) -> tuple[str, bytes]:
        return f"head.{format}", f"{format} at {request.time}".encode()

    def add_take(self, name: str, content: bytes) -> str:
        if not content.startswith((b"take", b"PK")):
            raise UserError(f"{name} is not a take.")
        stop = self.timeline.length
        self.timeline = Timeline(24.0, (*self.timeline.segments, Segment(Path(name).stem, stop, stop + min(len(content), 20))))
        return Path(name).stem

    def save_take(self, sequence: str, held: Mapping[str, float], suffix: str) -> bytes:
        return f"{sequence} {sorted(held.items())} {suffix}".encode()

    def sound(self, sequence: str) -> Path | None:
        return self._sound if sequence == "SEN-1" else None

    def render(self, request: Request) -> np.ndarray:
        if self.fail:
            raise RuntimeError(self.fail)
        if self.seconds:
            clock.sleep(self.seconds)
        self.drawn.append(request)
        width, height = request.width, request.height
        if request.camera is None:
            view, fov = np.reshape(request.viewmat, (4, 4)), request.fov
        else:
            matrix, fov = self.view(request.camera, width / height)
            view = np.reshape(matrix, (4, 4))
        skins = {"": SKIN, self.name: SKIN, "Truth": TRUTH_SKIN, "Rival": RIVAL_SKIN, "Sister": SISTER_SKIN}
        avatar = self._draw(request, view, fov, skins[request.subject])
        truth = self._draw(request, view, fov, skins[request.against])
        if request.mode == "Reference":
            return truth
        if request.mode == "Wipe":
            at = round(request.wipe * width)
            return np.concatenate([truth[:, :at], avatar[:, at:]], 1)
        if request.mode == "Side by side":
            half = width // 2
            rect = fit(width, height, Rect(0, 0, half, height))
            picture = np.full((height, width, 3), request.background, np.uint8)
            for offset, source in ((0, truth), (width - half, avatar)):
                small = cv2.resize(source, (rect.width, rect.height), interpolation=cv2.INTER_AREA)
                picture[rect.y : rect.y + rect.height, offset + rect.x : offset + rect.x + rect.width] = small
            return picture
        if request.mode == "Error":
            return np.clip(request.gain * np.abs(avatar.astype(int) - truth), 0, 255).astype(np.uint8)
        return avatar

    def splats(self, request: Request) -> Splats:
        """A red mouth before a skin ball, flat as the pictures are not."""
        jaw = dict(request.controls.held).get("jawOpen", 0.0)
        size = np.array([0.05, 0.012 + 0.025 * jaw]) / 2 / UNIT
        return Splats(
            np.array([[0, 0, 0], [0, -0.045, 0.09]], np.float32) / np.float32(UNIT), (np.eye(3) * size[:, None, None] ** 2).astype(np.float32),
            np.array([SKIN, RED], np.float32) / 255, np.ones((2, 1), np.float32),
        )  # fmt: skip

    def _draw(self, request: Request, view: np.ndarray, fov: float, skin: tuple[int, int, int]) -> np.ndarray:
        controls = request.controls
        weights = self.weights(request.time) if controls.follow else np.zeros(len(ARKIT))
        if controls.live:
            weights = np.zeros(len(ARKIT))
            for name, value in zip(ARKIT_NAMES, controls.live, strict=False):
                weights[ARKIT.index(name)] = value
        for name, value in controls.held:
            weights[ARKIT.index(name)] = value
        jaw = weights[ARKIT.index("jawOpen")]
        turn = math.radians(controls.head[0]) + (0 if controls.still or not controls.follow else 0.3 * math.sin(request.time / 9))
        balls = [((0, 0, 0), 0.1, skin), ((0, -0.045, 0.08), 0.012 + 0.025 * jaw, RED)]
        for side, name in ((1, "eyeBlinkLeft"), (-1, "eyeBlinkRight")):
            balls.append(((0.035 * side, 0.025, 0.085), 0.014 * (1 - weights[ARKIT.index(name)]) + 0.001, WHITE))
        c, s = math.cos(turn), math.sin(turn)
        R = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
        focal = request.height / 2 / math.tan(fov / 2)
        picture = np.full((request.height, request.width, 3), request.background, np.uint8)
        projected = []
        for centre, radius, color in balls:
            p = view[:3, :3] @ (R @ np.asarray(centre)) + view[:3, 3]
            projected.append((p, radius, color))
        for p, radius, color in sorted(projected, key=lambda b: -b[0][2]):
            if p[2] > 0.05:
                at = (round(request.width / 2 + focal * p[0] / p[2]), round(request.height / 2 + focal * p[1] / p[2]))
                cv2.circle(picture, at, max(round(focal * radius / p[2]), 1), color, -1, cv2.LINE_AA)
        return picture
