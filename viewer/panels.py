"""The panel beside the stage: a tab per subject, and the same actions as commands. Only widgets and their events.

Every widget belongs to one client (`client.gui`). Labels come from the avatar and the capture, so they are shown as
plain text and never as markup. viser calls back on its event loop; what the callbacks do is short.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from avatars.errors import UserError
from avatars.expressions import PRESETS
from avatars.png import encode_png
from viewer import cameras
from viewer.avatars_panel import AvatarsPanel
from viewer.clip_panel import ClipPanel
from viewer.face_panel import FacePanel
from viewer.gaze import WAYS
from viewer.head_panel import HeadPanel
from viewer.live import LiveLink
from viewer.live_panel import LivePanel
from viewer.session import Session
from viewer.stage import MODES, REGIONS
from viewer.view_panel import ViewPanel

if TYPE_CHECKING:
    from viser import ClientHandle

log = logging.getLogger(__name__)


class Panels:
    """Builds the widgets of one client and keeps them in step with its session (`refresh`)."""

    def __init__(self, client: ClientHandle, session: Session, link: LiveLink) -> None:
        self.client, self.session, self.gui = client, session, client.gui
        self.left = False  # the browser has gone: what it asked for is dropped
        tabs = self.gui.add_tab_group()
        with tabs.add_tab("Face"):
            self.face = FacePanel(client, session, self.tell, self._try)
        with tabs.add_tab("Head"):
            self.head = HeadPanel(client, session, self._try)
        with tabs.add_tab("View"):
            self.view = ViewPanel(client, session, self._try, self.save_picture)
        with tabs.add_tab("Clip"):
            self.clip = ClipPanel(client, session, self.tell, self._try)
        with tabs.add_tab("Live"):
            self.live = LivePanel(client, session, link, self.tell)
        with tabs.add_tab("Avatars"):
            self.avatars = AvatarsPanel(client, session, self.tell, self._try)
        self._commands()

    def refresh(self) -> None:
        """Show what the session is at now; widgets change together."""
        with self.client.atomic():
            self.face.refresh()
            self.head.refresh()
            self.view.refresh()
            self.clip.refresh()
            self.avatars.refresh()

    # Actions -----------------------------------------------------------------------------------------------------

    def _commands(self) -> None:
        """The same actions as in the bar and the panel, for the command palette."""
        session = self.session

        def add(label: str, action: Callable[[], object], description: str | None = None) -> None:
            command = self.gui.add_command(label, description=description)

            @command.on_trigger
            async def _(_: Any) -> None:
                self._try(action)

        if session.transport.timeline is not None:
            add("Play or pause", session.transport.toggle, "Space")
            for segment in session.transport.timeline.segments:
                add(f"Sequence: {segment.name}", lambda name=segment.name: session.transport.select(name))
        for mode in MODES if session.stage.references else ():
            add(f"Mode: {mode}", lambda mode=mode: session.set_mode(mode))
        for layer in session.stage.layers:
            add(f"Show: {layer}", lambda layer=layer: session.set_layer(layer))
        for preset in PRESETS:
            add(f"Expression: {preset}", lambda preset=preset: session.desk.apply(preset))
        for view in cameras.PRESETS:
            add(f"Look from: {view}", lambda view=view: session.look_from(view))
        for name in session.stage.camera_names:
            add(f"Camera: {name}", lambda name=name: session.look_through(name))
        add("Release all expressions", session.desk.release, "R")
        add("Undo", session.desk.undo, "Z")
        add("Redo", session.desk.redo, "Shift Z")
        for region in REGIONS if session.stage.references else ():
            add(f"Curve of the {region}", lambda region=region: setattr(session, "region", region))
        if session.stage.camera_names:
            add("Show or hide the cameras", lambda: session.show_cameras(not session.frustums))
        for way in WAYS:
            add(f"Gaze: {way.lower()}", lambda way=way: session.gaze.choose(way))
        add("Set a key camera here", self.clip.path.add, "K")
        add("Save picture", self.save_picture, "P")

    def save_picture(self) -> None:
        """Send what is wanted now as a PNG file, drawn by the render thread."""
        session = self.session

        def task():
            if self.left:
                return
            request = session.full_request()
            parameters = {"avatar": session.stage.name, "request": asdict(request)}
            png = encode_png(session.stage.render(request), parameters)
            self.client.send_file_download("avatar.png", png, save_immediately=True)
            yield from ()  # done in one step

        session.loop.background(task())

    def tell(self, text: str) -> None:
        """A short message in the page."""
        self.client.add_notification("", text, auto_close_seconds=5.0)

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except (ValueError, UserError) as error:
            self.tell(str(error))
        self.session.touch()
