"""The viewer as a server: one stage, many browsers, each with a session, panels and a bar of its own.

`serve` opens an avatar folder and blocks until interrupted; `Viewer` serves any stage and is what tests and the
benchmark use. Listens on loopback behind a token (see `viewer.security`); viser's public sharing is switched off.
"""

from __future__ import annotations

import html
import logging
import secrets
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from avatars.errors import UserError
from viewer.bar import Bar, Guest
from viewer.cameras import Orbit, orbit
from viewer.display import ImageDisplay, encode
from viewer.incoming import Judge, judged
from viewer.live import LiveLink
from viewer.loop import RenderLoop
from viewer.page import Page
from viewer.panels import Panels
from viewer.security import Gate, guarded
from viewer.session import Session
from viewer.splats import SplatDisplay
from viewer.stage import REGIONS, TRUTH, Stage
from viewer.watch import SHARE, Watcher

log = logging.getLogger(__name__)

BRAND = (74, 144, 226)
PANEL_WIDTH = 340
MOST_DEPARTED = 8  # sessions that a page which comes back can go on with


@dataclass
class _Kept:
    """One connected browser, with what has to be kept in step."""

    guest: Guest
    panels: Panels
    shown_version: int = -1

    @property
    def session(self) -> Session:
        return self.guest.session

    @property
    def display(self) -> ImageDisplay:
        return self.guest.display


class Viewer:
    """`with Viewer(stage) as viewer: print(viewer.url)`."""

    def __init__(self, stage: Stage, host: str = "127.0.0.1", port: int = 0, token: str | None = None, hosts: tuple[str, ...] = ()) -> None:
        import viser
        from viser import _messages as messages

        _require_free(host, port)
        self.stage = stage
        self.gate = Gate(token or secrets.token_urlsafe(24), (*hosts, *(() if host in ("0.0.0.0", "::") else (host,))))
        self.loop = RenderLoop(stage)
        self.live = LiveLink(self.loop.wake)
        self.watcher: Watcher | None = None  # of the training whose newest state is on the stage
        self.guests: dict[int, _Kept] = {}
        self._departed: dict[str, Session] = {}  # by key, the latest last
        self._curves: dict[tuple[str, str], np.ndarray] = {}  # (camera, avatar) → figures
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        page = Page(
            f"{stage.name} · Avatar viewer", Path(str(viser.__file__)).parent / "client/build/index.html", self._sound, self._thumbnail
        )
        bar = Bar(self._find, self.curve, lambda: self.watcher.state if self.watcher is not None else "")

        async def socket(connection: Any) -> bool:
            if await bar.socket(connection):
                return True
            judged(connection, Judge(messages, self._widget), lambda reason: self._tell(connection, reason))
            return False

        with guarded(self.gate, page.answer, socket), _quiet():
            self.server = viser.ViserServer(host=host, port=port, verbose=False, label=stage.name)
        # Any client may ask viser for a public tunnel to this machine; nobody may here.
        for message in (messages.ShareUrlRequest, messages.ShareUrlDisconnect):
            self.server._websock_server.unregister_handler(message)
        self._dress(self.server)
        self.server.on_client_connect(self._arrive)
        self.server.on_client_disconnect(self._leave)
        self._keeper = threading.Thread(target=self._keep_panels, name="viewer-panels", daemon=True)

    def __enter__(self) -> Viewer:
        self.loop.__enter__()
        self._keeper.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self.live.close()
        self.loop.stop()
        with _quiet():
            self.server.stop()

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.server.get_port()

    @property
    def url(self) -> str:
        """The complete link, with the token."""
        host = self.server.get_host()
        return f"http://{'localhost' if host in ('0.0.0.0', '::') else host}:{self.port}/?token={self.gate.token}"

    def curve(self, session: Session) -> np.ndarray | None:
        """PSNR and SSIM per frame and region [T, 2, 3] (NaN: not yet measured) through the camera that a session looks through, else None."""
        return self._curves.get((session.camera, session.subject)) if session.camera is not None else None

    # Guests ------------------------------------------------------------------------------------------------------

    def _dress(self, server: Any) -> None:
        place = self.stage.place
        start = orbit(place, "Front", 1.2)
        server.gui.configure_theme(dark_mode=True, show_logo=False, show_share_button=False, brand_color=BRAND, control_width="medium")
        server.gui.main_panel.dock_right()
        server.gui.main_panel.set_width(PANEL_WIDTH)
        server.scene.set_up_direction(tuple(place.up))
        server.scene.world_axes.visible = False
        server.initial_camera.position = tuple(start.position)
        server.initial_camera.look_at = tuple(start.look_at)
        server.initial_camera.up = tuple(start.up)
        server.initial_camera.fov = start.fov

    def _arrive(self, client: Any) -> None:
        key = secrets.token_urlsafe(16)
        session: Session

        def place_camera(target: Orbit) -> None:
            with client.atomic():
                client.camera.up_direction = target.up
                client.camera.position = target.position
                client.camera.look_at = target.look_at
                client.camera.fov = target.fov

        def acknowledged(seconds: float) -> None:
            session.acknowledged(seconds)

        display = ImageDisplay(acknowledged)
        session = Session(self.stage, self.loop, display, place_camera)
        session.splats = SplatDisplay(client)
        panels = Panels(client, session, self.live)
        client.gui.add_html(f'<i id="session" data-key="{html.escape(key, quote=True)}" hidden></i>', order=1e6)
        kept = _Kept(
            Guest(
                key,
                session,
                display,
                {"snapshot": panels.save_picture, **self._training_actions()},
                lambda old: self._inherit(session, old),
            ),
            panels,
        )
        with self._lock:
            if client.client_id not in self.server.get_clients():
                return
            self.guests[client.client_id] = kept

        async def moved(camera: Any) -> None:
            session.camera_moved(camera.wxyz, camera.position, camera.fov)

        client.camera.on_update(moved)
        session.camera_moved(client.camera.wxyz, client.camera.position, client.camera.fov)
        self.loop.add(session)

    def _training_actions(self) -> dict[str, Callable[[], None]]:
        def ask(pause: bool) -> None:
            if self.watcher is None or not self.watcher.state:
                raise ValueError("No training is being watched.")
            self.watcher.pause() if pause else self.watcher.resume()

        return {"pause training": lambda: ask(True), "resume training": lambda: ask(False)}

    def _leave(self, client: Any) -> None:
        with self._lock:
            kept = self.guests.pop(client.client_id, None)
        if kept is not None:
            kept.panels.left = True
            kept.panels.clip.give_up()
            self.loop.remove(kept.session)
            with self._lock:
                kept.session.splats = None  # it holds viser's handle of the browser
                self._departed[kept.guest.key] = kept.session
                while len(self._departed) > MOST_DEPARTED:
                    self._departed.pop(next(iter(self._departed)))

    def _inherit(self, session: Session, key: str) -> None:
        """Go on as the session of that key did, once: its page was loaded again, or lost its connection."""
        known = self._find(key)
        with self._lock:
            old = self._departed.pop(key, None) or (known.session if known is not None else None)
        if old is not None and old is not session:
            session.resume(old)

    def _find(self, key: str) -> Guest | None:
        with self._lock:
            guests = [kept.guest for kept in self.guests.values()]
        wanted = key.encode("utf-8", "replace")
        return next((g for g in guests if secrets.compare_digest(g.key.encode(), wanted)), None)

    def _widget(self, uuid: str) -> Any:
        """The widget of that name, of any browser: names cannot be guessed."""
        return next((h for c in self.server.get_clients().values() if (h := c.gui._gui_input_handle_from_uuid.get(uuid)) is not None), None)

    def _tell(self, connection: Any, reason: str) -> None:
        """Show in the page behind a socket of viser why something that it sent was refused."""
        number = next((n for n, c in self.server._websock_server._live_connections.items() if c is connection), None)
        with self._lock:
            kept = self.guests.get(number) if number is not None else None
        if kept is not None:
            kept.panels.tell(f"Refused: {reason}.")

    def _sound(self, key: str, number: int) -> Path | None:
        timeline = self.stage.timeline
        if timeline is None or not 0 <= number < len(timeline.segments) or self._find(key) is None:
            return None
        return self.stage.sound(timeline.segments[number].name)

    def _thumbnail(self, key: str, camera: int, frame: int) -> bytes | None:
        if not 0 <= camera < len(self.stage.camera_names) or self._find(key) is None:
            return None
        picture = self.stage.thumbnail(self.stage.camera_names[camera], frame)
        return None if picture is None else encode(picture, exact=False)

    def change_stage(self, change: Callable[[], None]) -> None:
        """Do something to the stage between two pictures, then draw for everybody again and measure anew."""

        def task() -> Iterator[None]:
            change()
            self._curves.clear()
            with self._lock:
                guests = list(self.guests.values())
            for guest in guests:
                guest.session.redraw()
            yield

        self.loop.background(task())

    # Upkeep ------------------------------------------------------------------------------------------------------

    def _keep_panels(self) -> None:
        """Refresh panels some time after something changed: rarely while playing, since 52 sliders are not free."""
        while not self._stopped.wait(0.15):
            self.loop.share = SHARE if self.watcher is not None and self.watcher.state == "running" else 1.0
            with self._lock:
                guests = list(self.guests.values())
            for guest in guests:
                try:
                    self._keep(guest)
                except Exception:
                    log.exception("a panel could not be refreshed")

    def _keep(self, guest: _Kept) -> None:
        session = guest.session
        if session.transport.timeline is not self.stage.timeline:  # somebody has added a performance
            session.transport.timeline = self.stage.timeline
            session.touch()
        if session.offered != self.stage.references:  # somebody has opened or closed an avatar
            session.offered = self.stage.references
            session.tidy()
        if session.camera is not None and TRUTH in self.stage.references and (session.camera, session.subject) not in self._curves:
            self._measure(session.camera, session.subject)
        guest.panels.live.refresh()
        version = session.version
        if version != guest.shown_version and not session.transport.playing:
            guest.shown_version = version
            guest.panels.refresh()

    def _measure(self, camera: str, subject: str) -> None:
        timeline = self.stage.timeline
        if timeline is None:
            return
        curve = np.full((timeline.length, 2, len(REGIONS)), np.nan)
        self._curves[camera, subject] = curve

        def task() -> Iterator[None]:
            for frame in range(len(curve)):
                if subject and subject not in self.stage.avatars:
                    return
                value = self.stage.measure(frame, camera, subject)
                curve[frame] = np.nan if value is None else value
                yield

        self.loop.background(task())


def serve(
    avatar_dir: str | Path,
    tracked_dir: str | Path | None = None,
    host: str = "127.0.0.1",
    port: int = 8080,
    open_browser: bool = True,
    token: str | None = None,
    other_dirs: Sequence[str | Path] = (),
    announce: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True),
) -> None:
    """Serve an avatar folder, or a training in progress, until Ctrl-C; what is newer on disk is shown without a restart.

    `port` 0 takes any free port; `token` None makes a new one. `other_dirs`: further avatars to compare with, in the same
    pose through the same camera.
    """
    from viewer.avatar_stage import open_stage

    if not 0 <= port <= 65535:
        raise UserError(f"port {port} does not exist; use 0 (any free port) or 1–65535.")
    stage = open_stage(avatar_dir, tracked_dir, other_dirs)
    try:
        viewer = Viewer(stage, host, port, token)
    except OSError as error:
        raise UserError(
            f"cannot listen on {host}:{port}: {error}. Give an address of this machine, and --port 0 for any free port."
        ) from None
    watcher = Watcher(
        avatar_dir,
        stage.tracked,
        lambda avatar: viewer.change_stage(lambda: stage.adopt(avatar)),
        lambda text: setattr(stage, "status", text),
    )
    viewer.watcher = watcher
    with viewer, watcher, _interruptions() as interruptions:
        announce(f"The viewer is open at\n  {viewer.url}\nThe link contains its password. Press Ctrl-C to stop.")
        if host not in ("127.0.0.1", "localhost", "::1"):
            announce(f"It can be reached from other machines (--host {host}), unencrypted. Use only in a network you trust.")
        if open_browser:
            webbrowser.open(viewer.url)
        interruptions.get()
        announce("Stopped.")


@contextmanager
def _interruptions() -> Iterator[SimpleQueue[int]]:
    """Ctrl-C as something to wait for, a second one as usual.

    The exception that Python makes of it may come up anywhere: half-way through a line that says where the viewer is, or in a destructor,
    where it would be swallowed.
    """
    found: SimpleQueue[int] = SimpleQueue()  # the one queue that a signal's handler may put something into
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield found
        return

    def interrupted(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        found.put(number)

    before = signal.signal(signal.SIGINT, interrupted)
    try:
        yield found
    finally:
        signal.signal(signal.SIGINT, before)


def _require_free(host: str, port: int) -> None:
    """OSError when nothing can listen there: viser would wait for ever at a foreign address, and take another port than the one asked for."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    with socket.create_server(address[:2], family=family):
        pass


class _quiet:
    """Swallow the banner that viser prints: it shows a link without the token."""

    def __enter__(self) -> None:
        import io

        import rich

        self._console = rich.get_console()
        self._file = self._console.file
        self._console.file = io.StringIO()

    def __exit__(self, *_: object) -> None:
        self._console.file = self._file
