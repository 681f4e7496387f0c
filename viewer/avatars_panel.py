"""The panel's tab for avatars: which is shown, which it is compared with, opening others, and lending a performance."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from avatars.errors import UserError
from viewer.session import Session
from viewer.stage import MODES

if TYPE_CHECKING:
    from viser import ClientHandle

NONE = "Choose…"


class AvatarsPanel:
    """Builds the tab in the current container. `tell` shows a sentence, `attempt` does something or says why it cannot be done."""

    def __init__(
        self, client: ClientHandle, session: Session, tell: Callable[[str], None], attempt: Callable[[Callable[[], object]], None]
    ) -> None:
        self.session, self.gui, self.tell, self.attempt = session, client.gui, tell, attempt
        self._offered: tuple[Any, ...] = ()
        with self.gui.add_folder("On the stage"):
            self._shown()
        with self.gui.add_folder("Open another"):
            self._open()
        with self.gui.add_folder("Perform"):
            self._perform()
        with self.gui.add_folder("About this avatar", expand_by_default=False):
            for label, text in {"Avatar": session.stage.name, **session.stage.figures}.items():
                self.gui.add_text(label, text, disabled=True)
        self.gui.add_markdown("Press **?** for all keys, **Ctrl K** for all commands.")

    def refresh(self) -> None:
        """Show which avatars are open, and what they can lend."""
        session, stage = self.session, self.session.stage
        others = stage.avatars[1:]
        lent = {f"{sequence} of {avatar}": (avatar, sequence) for avatar, sequence in stage.performances()}
        against = tuple(r for r in stage.references if r != (session.subject or stage.name)) or (NONE,)
        offered = (stage.avatars, against, tuple(lent))
        if offered != self._offered:
            self._offered, self._lent = offered, lent
            self._subject.options = stage.avatars
            self._against.options = against
            self._close.options = (NONE, *others)
            self._close.visible = bool(others)
            self._performance.options = tuple(lent) or (NONE,)
            self._performance.visible = self._play.visible = bool(lent)
            self._hint.visible = not lent
        for handle, value in ((self._subject, session.subject or stage.name), (self._against, session.against)):
            if value in handle.options and handle.value != value:
                handle.value = value

    def _shown(self) -> None:
        session, gui = self.session, self.gui
        self._subject = gui.add_dropdown("Avatar", session.stage.avatars, hint="All play the same recording, seen by the same camera.")
        self._against = gui.add_dropdown("Compare with", session.stage.references or (NONE,), hint="In the modes above the picture.")

        @self._subject.on_update
        async def _(event: Any) -> None:
            if event.client_id is not None:
                self.attempt(lambda: session.set_subject(self._subject.value))

        @self._against.on_update
        async def _(event: Any) -> None:
            if event.client_id is not None and self._against.value != NONE:
                self.attempt(lambda: session.set_against(self._against.value))

    def _open(self) -> None:
        session, gui = self.session, self.gui
        nearby = session.stage.nearby
        beside = gui.add_dropdown("Nearby", (NONE, *nearby), hint="Avatars and trainings that lie beside this one.", visible=bool(nearby))
        folder = gui.add_text("Folder", "", hint="Of an avatar, or of a training in progress, on the computer that runs the viewer.")
        button = gui.add_button("Open", icon="folder-open")
        self._close: Any = gui.add_dropdown("Close", (NONE,), visible=False)

        @button.on_click
        def _(_: Any) -> None:  # in a thread: reading an avatar takes a while
            chosen = folder.value.strip() or nearby.get(beside.value, "")
            if not chosen:
                self.tell("Choose an avatar that lies nearby, or type its folder.")
                return
            try:
                name = session.stage.open_avatar(chosen)
            except UserError as error:
                self.tell(str(error))
                return
            session.tidy()
            folder.value, beside.value = "", NONE
            if session.mode == MODES[0]:
                session.set_against(name)
            self.tell(f"{name} is open. Compare with Side by side, Wipe, Flicker or Error.")

        @self._close.on_update
        async def _(event: Any) -> None:
            if event.client_id is not None and self._close.value != NONE:
                name = self._close.value
                self._close.value = NONE
                self.attempt(lambda: session.stage.close_avatar(name))
                session.tidy()

    def _perform(self) -> None:
        session, gui = self.session, self.gui
        self._lent: dict[str, tuple[str, str]] = {}
        self._hint = gui.add_markdown("Open another avatar to let this one do what that one did.")
        self._performance: Any = gui.add_dropdown("Recording", (NONE,), visible=False)
        self._play = gui.add_button(
            "Perform it", icon="player-play", hint="On the first avatar; it becomes one more sequence, with its sound.", visible=False
        )

        @self._play.on_click
        def _(_: Any) -> None:
            chosen = self._lent.get(self._performance.value)
            if chosen is None:
                return
            try:
                name = session.stage.borrow(*chosen)
            except UserError as error:
                self.tell(str(error))
                return
            with session.lock:
                session.transport.timeline = session.stage.timeline
                session.transport.select(name)
                session.follow = True
                session.set_subject(session.stage.name)
            self.tell(f"{name} was added to the timeline.")
