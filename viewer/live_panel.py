"""The panel's tab for driving live: listen, follow, calibrate, record."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avatars.drive import save_codes
from avatars.errors import UserError
from viewer.live import PORT, LiveLink
from viewer.session import Session

if TYPE_CHECKING:
    from viser import ClientHandle


class LivePanel:
    """Builds the tab in the current container. All browsers share one listener; each decides whether to follow it."""

    def __init__(self, client: ClientHandle, session: Session, link: LiveLink, tell: Callable[[str], None]) -> None:
        self.session, self.link, self.tell = session, link, tell
        gui = client.gui
        gui.add_markdown("Live Link Face on a phone: *Settings → Live Link → Add target*, with this computer's address.")
        port = gui.add_number("UDP port", PORT, min=1024, max=65535, step=1)
        self._listen = gui.add_button("Listen", hint="Opens the port to your network until you stop it.")
        self._status = gui.add_text("State", link.status, disabled=True, multiline=True)
        self._follow = gui.add_checkbox("Follow", True, hint="The face and the head do what the phone sees.")
        neutral = gui.add_button("This is my neutral face")
        self._record = gui.add_button("Record a take", icon="player-record")

        @self._listen.on_click
        def _(_: Any) -> None:
            if link.listening:
                link.close()
                session.live = None
            else:
                self._try(lambda: link.listen(int(port.value)))
                session.live = link if link.listening and self._follow.value else None
            session.touch()

        @self._follow.on_update
        async def _(_: Any) -> None:
            session.live = link if self._follow.value and link.listening else None
            session.touch()

        @neutral.on_click
        async def _(_: Any) -> None:
            self._try(link.calibrate)
            session.touch()

        @self._record.on_click
        def _(_: Any) -> None:
            if link.recording:
                self._try(self._keep)
            else:
                self._try(link.record)
            session.touch()

    def refresh(self) -> None:
        """Show what the listener does now."""
        for handle, label in (
            (self._listen, "Stop listening" if self.link.listening else "Listen"),
            (self._record, "Stop and keep the take" if self.link.recording else "Record a take"),
        ):
            if handle.label != label:
                handle.label = label
        if self._status.value != self.link.status:
            self._status.value = self.link.status

    def _keep(self) -> None:
        """The take becomes a sequence of the timeline, from where it can be saved."""
        codes = self.link.finish()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "take.npz"
            save_codes(path, codes)
            name = self.session.stage.add_take("Take.npz", path.read_bytes())
        session = self.session
        with session.lock:
            session.live = None
            self._follow.value = False
            session.transport.timeline = session.stage.timeline
            session.transport.select(name)
        self.tell(f"{name} was added to the timeline ({codes.duration:.1f} s).")

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except UserError as error:
            self.tell(str(error))
