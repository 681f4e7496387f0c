"""One browser's state: its camera, time, mode, held expressions; and what picture it therefore wants next.

Panels, the bar in the page and the keyboard call the methods below; the render loop calls `wants`, `take`, `show` and
`fail`. Everything is guarded by one lock per session, because the calls come from different threads.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import numpy as np

from viewer.cameras import Orbit, canvas_size, nearest, orbit, orbit_of, overview, view_matrix
from viewer.desk import Desk
from viewer.eye import Eye
from viewer.follow import Follower
from viewer.gaze import Gaze
from viewer.governor import Governor
from viewer.hearing import Microphone
from viewer.keys import KeyCameras, View
from viewer.loop import NEVER, RenderLoop
from viewer.splats import SplatDisplay, Splats
from viewer.stage import BACKGROUND, LAYERS, MODES, REGIONS, TRUTH, Controls, Request, Stage
from viewer.transport import Transport

DRAWN_BY = SERVER, BROWSER = "server", "browser"
STILL_SECONDS = 0.22  # without a change for this long, the exact picture follows
MOST_FPS = 30.0
MARGIN = 0.05  # beyond the recordings by this much is still familiar
MOST_PIXELS = 1_600_000
FLICKER_SECONDS = 0.5


class Display(Protocol):
    """The screen of the browser."""

    @property
    def ready(self) -> bool: ...

    def show(self, picture: np.ndarray, exact: bool, time: float) -> None: ...


class Session:
    """See the module. `place_camera` moves the browser's camera; `changed` is told when panels should be refreshed."""

    def __init__(
        self,
        stage: Stage,
        loop: RenderLoop,
        display: Display,
        place_camera: Callable[[Orbit], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stage, self.loop, self.display, self.clock = stage, loop, display, clock
        self.lock = threading.RLock()
        self.transport = Transport(stage.timeline, clock)
        self.desk = Desk(stage.expression_names)
        self.governor = Governor()
        self.mode, self.layer = MODES[0], LAYERS[0]
        self.against = stage.references[0] if stage.references else TRUTH
        self.wipe, self.gain, self.lines = 0.5, 4.0, False
        self.frustums, self.pointed = False, ""  # the capture's cameras are shown; the one under the pointer
        self.background = BACKGROUND
        self.head, self.gaze, self.keys = (0.0, 0.0, 0.0), Gaze(), KeyCameras()
        self.subject, self.region = "", REGIONS[0]  # the avatar that is shown; the region whose curve is
        self.offered = stage.references
        self.copied: tuple[int, str] = (0, "")  # for the browser's clipboard: a number that counts, and the text
        self.follow, self.still = stage.timeline is not None, False
        self.microphone = Microphone(loop.wake)
        self.live: Follower | None = None  # followed while it is not None
        self.drawn_by = DRAWN_BY[0]
        self.splats: SplatDisplay | None = None  # where the browser can draw
        self._splat_seconds = 0.0
        self._resumed = False
        self.camera: str | None = None
        self.visible = True  # a hidden tab gets no pictures
        self.most_scale = 1.0  # the user's limit on resolution
        self.error: str | None = None
        self.fps = 0.0  # pictures a second that were delivered lately
        self.version = 0  # counts changes that panels show
        self.eye = Eye(place_camera, clock)
        self._wish: Request | None = None
        self._changed_at = clock()
        self._shown: tuple[Request, bool] | None = None  # the last wish that was shown, and whether exactly
        self._taken: tuple[Request, bool] | None = None
        self._taken_at = -math.inf
        self._delivered: list[float] = []

    # What the browser reports ------------------------------------------------------------------------------------

    def camera_moved(self, wxyz: np.ndarray, position: np.ndarray, fov: float) -> None:
        """The browser's camera is there now."""
        if not np.isfinite([*wxyz, *position, fov]).all() or not 0 < fov < math.pi or not np.any(wxyz):
            return
        with self.lock:
            if self.eye.report(view_matrix(wxyz, position), fov) and self.camera is not None:
                self.camera = None
                self._leave_truth()
                self.version += 1
        self.loop.wake()

    def resized(self, width: int, height: int) -> None:
        """The browser shows pictures on a canvas of that many pixels."""
        if not 1 <= width <= 20_000 or not 1 <= height <= 20_000:
            raise ValueError(f"a canvas of {width} × {height} pixels")
        with self.lock:
            before, first = self.aspect, self.eye.canvas is None
            self.eye.canvas = (width, height)
            refit = first or abs(self.aspect / before - 1) > 0.01
        if refit and self.camera is not None:
            self.look_through(self.camera)
        elif first and not self._resumed:
            self.look_from("Front")
        self.loop.wake()

    def acknowledged(self, seconds: float) -> None:
        """The browser confirmed a picture that was sent so long ago; 0: it has just connected."""
        if seconds > 0:
            with self.lock:
                self.governor.acknowledged(seconds)
        self.loop.wake()

    # What the user does ------------------------------------------------------------------------------------------

    def look_from(self, preset: str) -> None:
        """Move the camera to one of `viewer.cameras.PRESETS`."""
        with self.lock:
            self.camera = None
            self._leave_truth()
            target = orbit(self.stage.place, preset, self.aspect)
            self._send_camera(target)

    def show_cameras(self, shown: bool) -> None:
        """The capture's cameras in the scene, seen from outside of them all."""
        with self.lock:
            self.frustums, self.pointed = shown and bool(self.stage.camera_names), ""
            if self.frustums:
                self.camera = None
                self._leave_truth()
                views = [np.asarray(self.stage.view(n, self.aspect)[0]).reshape(4, 4) for n in self.stage.camera_names]
                self._send_camera(overview(self.stage.place, np.stack([-v[:3, :3].T @ v[:3, 3] for v in views]), self.aspect))
            else:
                self.look_from("Front")
        self.touch()

    def point_at(self, x: float, y: float, go: bool) -> None:
        """The pointer is at a place of the picture, as fractions of its size; with `go`, look through the camera there."""
        if not self.frustums or self.camera is not None:
            return
        request = self.full_request()
        name = self.stage.camera_at(request, x * request.width, y * request.height)
        with self.lock:
            self.pointed = name or ""
        if go and name is not None:
            self.look_through(name)
        self.loop.wake()

    def look_through(self, camera: str | None) -> None:
        """See through a camera of the capture; None: stay and orbit freely."""
        with self.lock:
            if camera is None:
                self.camera = None
                self.eye.release()
                self._leave_truth()
            elif camera not in self.stage.camera_names:
                raise ValueError(f"no camera {camera!r}")
            else:
                self.camera = camera
                viewmat, fov = self.stage.view(camera, self.aspect)
                matrix = np.asarray(viewmat).reshape(4, 4)
                self._send_camera(orbit_of(matrix, fov, self.stage.place))
            self.version += 1
        self.loop.wake()

    def step_camera(self, by: int) -> None:
        """The next or previous camera of the capture."""
        names = self.stage.camera_names
        if names:
            at = names.index(self.camera) if self.camera in names else -1 if by > 0 else 0
            self.look_through(names[(at + by) % len(names)])

    def set_mode(self, mode: str) -> None:
        """Render, truth, or a comparison; comparisons look through the nearest camera of the capture."""
        if mode not in MODES:
            raise ValueError(f"no mode {mode!r}")
        if mode != MODES[0] and not self.stage.references:
            raise ValueError("There is nothing to compare with: open the avatar together with its tracked capture.")
        with self.lock:
            if mode != MODES[0] and self.camera is None and self.against == TRUTH:
                position = -self.eye.viewmat[:3, :3].T @ self.eye.viewmat[:3, 3]
                views = [np.asarray(self.stage.view(n, self.aspect)[0]).reshape(4, 4) for n in self.stage.camera_names]
                centres = np.stack([-v[:3, :3].T @ v[:3, 3] for v in views])
                at = nearest(position, centres, np.asarray(self.stage.place.centre))
                self.look_through(self.stage.camera_names[at])
            self.mode = mode
            if mode != MODES[0]:
                self.layer = LAYERS[0]
        self.touch()

    def set_against(self, reference: str) -> None:
        """Compare with that."""
        if reference not in self.stage.references:
            raise ValueError(f"no reference {reference!r}")
        with self.lock:
            self.against = reference
            self.set_mode(self.mode)  # the truth needs a camera of the capture

    def set_subject(self, name: str) -> None:
        """Show that avatar; where it was what the other one was compared with, the two change places."""
        if name not in self.stage.avatars:
            raise ValueError(f"no avatar {name!r} is open")
        with self.lock:
            if self.against == name:
                self.against = self.subject or self.stage.avatars[0]
            self.subject = "" if name == self.stage.avatars[0] else name
            self.set_mode(self.mode)

    def tidy(self) -> None:
        """Let go of avatars that somebody has closed."""
        with self.lock:
            if self.subject and self.subject not in self.stage.avatars:
                self.subject = ""
            shown = self.subject or self.stage.name
            if self.against not in self.stage.references or self.against == shown:
                self.against = next((r for r in self.stage.references if r != shown), TRUTH)
                if self.against not in self.stage.references:
                    self.mode = MODES[0]
        self.touch()

    def view_now(self) -> View:
        """The camera that is looked through."""
        with self.lock:
            if self.camera is None:
                return View(self.eye.viewmat.copy(), self.eye.fov)
            viewmat, fov = self.stage.view(self.camera, self.aspect)
            return View(np.asarray(viewmat).reshape(4, 4), fov)

    def look_as(self, view: View) -> None:
        """Move the camera there."""
        with self.lock:
            self.camera = None
            self._leave_truth()
            self._send_camera(orbit_of(view.viewmat, view.fov, self.stage.place))

    def set_layer(self, layer: str) -> None:
        """What the picture shows of the avatar; leaves a comparison, which is always in colour."""
        if layer not in self.stage.layers:
            raise ValueError(f"no layer {layer!r}")
        with self.lock:
            self.layer = layer
            if layer != LAYERS[0]:
                self.mode = MODES[0]
        self.touch()

    def request_now(self) -> Request:
        """What is wanted now."""
        with self.lock:
            return self._current(self.clock())

    def full_request(self) -> Request:
        """What is wanted now, at the size of the canvas."""
        with self.lock:
            wish = self._current(self.clock(), draw=True)
            width, height = canvas_size(wish.width, wish.height, 1.0, MOST_PIXELS)
            return replace(wish, width=width, height=height)

    def redraw(self) -> None:
        """The stage has changed: what was shown is no longer what it would draw."""
        with self.lock:
            self._shown = None
        self.touch()

    def resume(self, old: Session) -> None:
        """Go on where another session was: time, mode, face, camera, all that a person has set."""
        with old.lock:
            transport, held, camera = old.transport, dict(old.desk.held), old.camera
            place = orbit_of(old.eye.viewmat, old.eye.fov, self.stage.place)
            kept = {
                n: getattr(old, n)
                for n in (
                    "mode",
                    "layer",
                    "against",
                    "wipe",
                    "gain",
                    "lines",
                    "background",
                    "head",
                    "gaze",
                    "keys",
                    "subject",
                    "region",
                    "follow",
                    "still",
                    "most_scale",
                )
            }
            bounds, frame, speed, loop = transport.bounds, transport.time, transport.speed, transport.loop
        with self.lock:
            self.transport.set_bounds(*bounds)
            self.transport.seek(frame)
            self.transport.set_speed(speed)
            self.transport.loop = loop
            self._resumed = True
            self.desk.held, self.desk.symmetric = held, old.desk.symmetric
            for name, value in kept.items():
                setattr(self, name, value)
            if camera is None:
                self.camera = None
                self._send_camera(place)
            else:
                self.look_through(camera)
        self.touch()

    def touch(self) -> None:
        """Something was changed: refresh panels and pictures."""
        with self.lock:
            self.version += 1
        self.loop.wake()

    def weights(self) -> np.ndarray:
        """[E] what the face does now: recorded or neutral, with the held expressions on top."""
        with self.lock:
            weights = self.stage.weights(self.transport.time) if self.follow else np.zeros(len(self.desk.names))
            weights = np.array(weights, np.float64)
            for name, value in self.desk.held.items():
                weights[self.desk.names.index(name)] = value
            return weights

    def beyond(self) -> list[str]:
        """Held expressions that lie outside of what the recordings contain: there the avatar guesses."""
        ranges = self.stage.trained_range()
        if ranges is None:
            return []
        with self.lock:
            limits = dict(zip(self.desk.names, ranges, strict=True))
            return [n for n, w in self.desk.held.items() if not limits[n][0] - MARGIN <= w <= limits[n][1] + MARGIN]

    # What the loop asks ------------------------------------------------------------------------------------------

    def wants(self, now: float) -> float:
        """See `viewer.loop.Client`."""
        with self.lock:
            if self.eye.canvas is None or not self.visible:
                return NEVER
            wish = self._current(now)
            if wish != self._wish:
                self._wish, self._changed_at = wish, now
            content = self._shown is not None and self._shown[0] == wish
            if content and self._shown is not None and self._shown[1]:
                return self._next_change(now)
            if wish.splats:
                return max(0.0, self._taken_at + max(1 / MOST_FPS, self._splat_seconds) - now)
            if not self.display.ready:
                return 0.02
            if content:  # shown roughly; the exact picture follows
                return max(0.0, min(self._changed_at + STILL_SECONDS - now, self._next_change(now)))
            return max(0.0, self._taken_at + 1 / MOST_FPS - now)

    def take(self, now: float) -> Request:
        """See `viewer.loop.Client`."""
        with self.lock:
            wish = self._wish or self._current(now)
            if wish.splats:
                self._taken, self._taken_at = (wish, True), now
                return wish
            exact = not self._moving(now)
            self._taken, self._taken_at = (wish, exact), now
            scale = self.most_scale if exact else min(self.governor.scale, self.most_scale)
            width, height = canvas_size(*(self.eye.canvas or (16, 16)), scale, MOST_PIXELS)
            return replace(wish, width=width, height=height)

    def show(self, request: Request, picture: np.ndarray | Splats, seconds: float) -> None:
        """See `viewer.loop.Client`."""
        with self.lock:
            assert self._taken is not None
            wish, exact = self._taken
        started = self.clock()
        if isinstance(picture, Splats):
            assert self.splats is not None
            self._splat_seconds = picture.seconds
            self.splats.show(picture, request.background)
        else:
            if self.splats is not None:
                self.splats.hide()
            self.display.show(picture, exact, request.time)
        now = self.clock()
        with self.lock:
            self._shown = (wish, exact)
            if self.error is not None:
                self.error = None
                self.version += 1
            if not exact and self.eye.canvas is not None and not request.splats:
                self.governor.drew(seconds + now - started, request.width / self.eye.canvas[0])
            self._delivered = [t for t in self._delivered if now - t < 1.5] + [now]
            self.fps = (len(self._delivered) - 1) / max(now - self._delivered[0], 1e-3) if len(self._delivered) > 2 else 0.0

    def fail(self, request: Request, error: Exception) -> None:
        """See `viewer.loop.Client`. Playing pauses; the next change tries again."""
        with self.lock:
            self.transport.pause()
            wish = self._current(self.clock())
            self._wish, self._shown = wish, (wish, True)
            self.error = f"{error}" or type(error).__name__
            self.version += 1

    def _leave_truth(self) -> None:
        if self.against == TRUTH:  # which exists only where the capture's cameras stood
            self.mode = MODES[0]

    @property
    def in_browser(self) -> bool:
        """Whether the browser draws what is seen now: it can draw the avatar in colour and nothing else."""
        plain = self.mode == MODES[0] and self.layer == LAYERS[0] and not self.lines and not (self.frustums and self.camera is None)
        return self.drawn_by == BROWSER and self.splats is not None and plain

    def set_drawn_by(self, who: str) -> None:
        """`DRAWN_BY`: pictures from here, or Gaussians that the browser draws."""
        if who not in DRAWN_BY:
            raise ValueError(f"nobody is called {who[:40]!r}")
        with self.lock:
            self.drawn_by = who
        self.touch()

    def _current(self, now: float, draw: bool = False) -> Request:
        comparing = self.mode != MODES[0]
        position = self.transport.time
        # Between frames there is no truth, and standing still one is on a frame.
        position = position if self.transport.playing and not comparing else float(math.floor(position + 1e-6))
        live = self.live.values if self.live is not None else ()
        mode = self.mode
        if mode == "Flicker":
            mode = MODES[int(now / FLICKER_SECONDS) % 2]
        width, height = self.eye.canvas or (16, 16)
        target = self.gaze.target(self.stage.place, self.view_now().viewmat)
        held = Controls(tuple(sorted(self.desk.held.items())), self.head, self.gaze.angles, self.follow, live, target, self.still)
        if self.in_browser and not draw:  # whose camera is its own affair
            return Request(16, 16, (0.0,) * 16, 0.4, position, held, subject=self.subject, background=self.background, splats=True)
        # Through a camera of the capture, what the browser reports about its own camera does not matter.
        viewmat, fov = (np.eye(4), 0.4) if self.camera is not None else (self.eye.viewmat, self.eye.fov)
        return Request(
            width=width, height=height, viewmat=tuple(float(v) for v in viewmat.ravel()), fov=float(fov),
            time=position, camera=self.camera, mode=mode, subject=self.subject, against=self.against, layer=self.layer, wipe=self.wipe, gain=self.gain,
            background=self.background, lines=self.lines,
            frustums=self.frustums and self.camera is None, pointed=self.pointed if self.frustums and self.camera is None and self.pointed else None,
            controls=held,
        )  # fmt: skip

    def _next_change(self, now: float) -> float:
        if self.transport.playing:
            return 0.005
        if self.mode == "Flicker":
            return FLICKER_SECONDS - now % FLICKER_SECONDS + 0.001
        return NEVER

    def _moving(self, now: float) -> bool:
        return self.transport.playing or now - self._changed_at < STILL_SECONDS

    @property
    def aspect(self) -> float:
        """Width over height of the canvas."""
        return self.eye.aspect

    def _send_camera(self, target: Orbit) -> None:
        self.eye.send(target)
        self.version += 1
        self.loop.wake()
