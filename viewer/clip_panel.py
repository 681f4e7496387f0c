"""The panel's tab for whole clips: load a performance, save one, film what is seen."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avatars.errors import UserError
from viewer.export_panel import ExportPanel
from viewer.film import MOVEMENTS, PATH, SIZES, Film, film, length
from viewer.path_panel import PathPanel
from viewer.session import Session

if TYPE_CHECKING:
    from viser import ClientHandle

FORMATS = {"Live Link Face CSV": ".csv", "JSON": ".json", "npz": ".npz"}
PROGRESS_SECONDS = 0.25


class ClipPanel:
    """Builds the tab in the current container. `tell` shows a sentence in the page."""

    def __init__(
        self, client: ClientHandle, session: Session, tell: Callable[[str], None], attempt: Callable[[Callable[[], object]], None]
    ) -> None:
        self.client, self.session, self.gui, self.tell = client, session, client.gui, tell
        self._film: Film | None = None
        with self.gui.add_folder("Performance"):
            self._performance()
        with self.gui.add_folder("Camera path"):
            self.path = PathPanel(client, session, attempt, lambda: length(session.stage, session.transport.bounds))
        with self.gui.add_folder("Film"):
            self._filming()
        with self.gui.add_folder("Export"):
            ExportPanel(client, session, tell)

    def refresh(self) -> None:
        """Show what has changed."""
        self.path.refresh()

    def _performance(self) -> None:
        gui, session = self.gui, self.session
        load = gui.add_upload_button(
            "Load a performance", icon="upload", hint="Live Link Face CSV, JSON or npz; it becomes one more sequence."
        )
        format = gui.add_dropdown("Save as", tuple(FORMATS))
        save = gui.add_button(
            "Save this sequence", icon="download", hint="With the expressions that you hold.", visible=session.stage.timeline is not None
        )

        @load.on_upload
        def _(_: Any) -> None:  # in a thread: reading a long take takes a while
            file = load.value
            try:
                name = session.stage.add_take(Path(file.name).name, file.content)
            except UserError as error:
                self.tell(str(error))
                return
            session.transport.timeline = session.stage.timeline
            session.transport.select(name)
            session.follow = True
            session.touch()
            self.tell(f"{name} was added to the timeline.")

        @save.on_click
        def _(_: Any) -> None:
            suffix = FORMATS[format.value]
            sequence = session.transport.sequence
            try:
                content = session.stage.save_take(sequence, dict(session.desk.held), suffix)
            except UserError as error:
                self.tell(str(error))
                return
            self.client.send_file_download(f"{_safe(sequence)}{suffix}", content, save_immediately=True)

    def _filming(self) -> None:
        gui = self.gui
        movement = gui.add_dropdown(
            "Camera", MOVEMENTS, hint="Orbit sways before the face, turntable goes round once, camera path follows your key cameras."
        )
        size = gui.add_dropdown("Size", tuple(SIZES))
        start = gui.add_button("Film this range", icon="movie", hint="The range that plays, with its sound, as MP4.")
        bar = gui.add_progress_bar(0.0, visible=False)
        stop = gui.add_button("Give up", visible=False)

        @start.on_click
        async def _(_: Any) -> None:
            session = self.session
            if self._film is not None and not self._film.finished:
                return
            bounds = session.transport.bounds
            views = None
            if movement.value == PATH:
                try:
                    views = session.keys.path(length(session.stage, bounds), session.stage.place)
                except ValueError as error:
                    self.tell(str(error))
                    return
            elif session.camera is not None and movement.value != "As seen":
                self.tell("Choose free orbit first: a camera of the capture stands still.")
                return
            state = self._film = Film(length(session.stage, bounds))
            bar.value, bar.visible, stop.visible, start.disabled = 0.0, True, True, True

            def deliver(content: bytes) -> None:
                name = _safe(session.transport.sequence or session.stage.name)
                self.client.send_file_download(f"{name}.mp4", content, save_immediately=True)

            def task() -> Iterator[None]:
                shown = 0.0
                for _ in film(session.stage, session.full_request(), bounds, movement.value, SIZES[size.value], state, deliver, views):
                    if time.monotonic() - shown > PROGRESS_SECONDS:
                        shown = time.monotonic()
                        bar.value = 100.0 * state.done / state.frames
                    yield
                bar.visible, stop.visible, start.disabled = False, False, False
                if state.failed:
                    self.tell(f"The film could not be made: {state.failed}")

            session.loop.background(task())

        @stop.on_click
        async def _(_: Any) -> None:
            self.give_up()

    def give_up(self) -> None:
        """Stop filming, if that is going on: the button, or the browser that left."""
        if self._film is not None:
            self._film.given_up = True


def _safe(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_ " else "_" for c in name)[:60] or "clip"
