"""The panel's folder for a camera path: set key cameras, run along them, save the way as a file."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from viewer.session import Session

if TYPE_CHECKING:
    from viser import ClientHandle

STILL_FPS = 24.0  # of a path without a recording


class PathPanel:
    """Builds the folder in the current container. `attempt` does something and shows in the page why it cannot be done."""

    def __init__(
        self, client: ClientHandle, session: Session, attempt: Callable[[Callable[[], object]], None], frames: Callable[[], int]
    ) -> None:
        self.client, self.session, self.attempt, self.frames = client, session, attempt, frames
        gui = client.gui
        self._count = gui.add_text("Key cameras", "none", disabled=True)
        add = gui.add_button("Set a key camera here", icon="map-pin-plus", hint="K. The film passes all of them, evenly in time.")
        self._along = gui.add_slider("Along the path %", 0.0, 100.0, 1.0, 0.0, marks=(), visible=False, hint="Moves your camera.")
        self._edit = gui.add_button_group("Keys", ("Take back", "Clear"), visible=False)
        self._save = gui.add_button("Save path", icon="download", visible=False, hint="JSON for avatars render --path.")

        @add.on_click
        async def _(_: Any) -> None:
            attempt(self.add)

        @self._along.on_update
        async def _(event: Any) -> None:
            if event.client_id is not None:
                attempt(lambda: session.look_as(session.keys.at(self._along.value / 100, session.stage.place)))

        @self._edit.on_click
        async def _(_: Any) -> None:
            attempt(session.keys.remove_last if self._edit.value == "Take back" else session.keys.clear)

        @self._save.on_click
        async def _(_: Any) -> None:
            attempt(self._download)

    def add(self) -> None:
        """A key where the camera is now."""
        self.session.keys.add(self.session.view_now())

    def refresh(self) -> None:
        """Show how many keys there are, and what can be done with them."""
        count = len(self.session.keys.keys)
        text = str(count) if count else "none"
        if self._count.value != text:
            self._count.value = text
        for handle, visible in ((self._along, count > 1), (self._edit, count > 0), (self._save, count > 1)):
            if handle.visible != visible:
                handle.visible = visible

    def _download(self) -> None:
        session = self.session
        fps = session.stage.timeline.fps if session.stage.timeline is not None else STILL_FPS
        content = session.keys.to_json(self.frames(), fps, session.stage.place, session.aspect)
        self.client.send_file_download("camera-path.json", content, save_immediately=True)
