"""The panel's tab for driving live: listen, follow, calibrate, record."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avatars.drive import save_codes, sound
from avatars.errors import UserError
from viewer.hearing import Microphone
from viewer.live import PORT, LiveLink
from viewer.session import Session

if TYPE_CHECKING:
    from viser import ClientHandle

PHONE, VOICE = "Phone (Live Link Face)", "Microphone"
PHONE_HOW = "Live Link Face on a phone: *Settings → Live Link → Add target*, with this computer's address."
PHONE_HINT = "A phone: opens the port to your network until you stop it. The microphone: your browser asks you first."


class LivePanel:
    """Builds the tab in the current container. All browsers share one listener; each decides whether to follow it."""

    def __init__(self, client: ClientHandle, session: Session, link: LiveLink, tell: Callable[[str], None]) -> None:
        self.session, self.link, self.tell = session, link, tell
        gui = client.gui
        self._source = gui.add_dropdown("From", (PHONE, VOICE))
        self._how = gui.add_markdown(PHONE_HOW)
        self._port = gui.add_number("UDP port", PORT, min=1024, max=65535, step=1)
        names = {module.NAME: name for name, module in sound.sound_drivers().items()}
        self._driver = gui.add_dropdown("Heard by", tuple(names), initial_value=sound.sound_drivers()[sound.DEFAULT].NAME, visible=False)
        self._listen = gui.add_button("Listen", hint=PHONE_HINT)
        self._status = gui.add_text("State", link.status, disabled=True, multiline=True)
        self._follow = gui.add_checkbox("Follow", True, hint="The face does what is seen or heard.")
        neutral = gui.add_button("This is my neutral face")
        self._record = gui.add_button("Record a take", icon="player-record")

        @self._source.on_update
        async def _(_: Any) -> None:
            voice = self._source.value == VOICE
            self._port.visible, self._driver.visible, neutral.visible = not voice, voice, not voice
            about = sound.sound_drivers()[names[self._driver.value]].ABOUT
            self._how.content = about if voice else PHONE_HOW
            session.live = self.source if self._follow.value and self._listening else None
            session.touch()

        @self._listen.on_click
        def _(_: Any) -> None:
            if self._listening:
                session.microphone.stop() if self.source is session.microphone else link.close()
                session.live = None
            else:
                self._try(
                    lambda: (
                        session.microphone.listen(names[self._driver.value])
                        if self.source is session.microphone
                        else link.listen(int(self._port.value))
                    )
                )
                session.live = self.source if self._listening and self._follow.value else None
            session.touch()

        @self._follow.on_update
        async def _(_: Any) -> None:
            session.live = self.source if self._follow.value and self._listening else None
            session.touch()

        @neutral.on_click
        async def _(_: Any) -> None:
            self._try(link.calibrate)
            session.touch()

        @self._record.on_click
        def _(_: Any) -> None:
            if self.source.recording:
                self._try(self._keep)
            else:
                self._try(self.source.record)
            session.touch()

    @property
    def source(self) -> LiveLink | Microphone:
        """What the tab is about now."""
        return self.session.microphone if self._source.value == VOICE else self.link

    @property
    def _listening(self) -> bool:
        return self.session.microphone.wanted if self.source is self.session.microphone else self.link.listening

    def refresh(self) -> None:
        """Show what the source does now."""
        if self.session.live is self.session.microphone and not self.session.microphone.wanted:  # the browser gave none
            self.session.live = None
            self.session.touch()
        for handle, label in (
            (self._listen, "Stop listening" if self._listening else "Listen"),
            (self._record, "Stop and keep the take" if self.source.recording else "Record a take"),
        ):
            if handle.label != label:
                handle.label = label
        if self._status.value != self.source.status:
            self._status.value = self.source.status

    def _keep(self) -> None:
        """The take becomes a sequence of the timeline, from where it can be saved."""
        codes = self.source.finish()
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
