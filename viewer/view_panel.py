"""The panel's tab for cameras and for what the picture shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from viewer import cameras
from viewer.session import DRAWN_BY, Session
from viewer.splats import NOTE
from viewer.stage import LAYERS
from viewer.widgets import put

if TYPE_CHECKING:
    from viser import ClientHandle

FREE = "Free orbit"
QUALITY = {"Automatic": 1.0, "Three quarters": 0.75, "Half": 0.5, "Quarter": 0.25}


class ViewPanel:
    """Builds the tab in the current container. `attempt` does something and shows in the page why it cannot be done."""

    def __init__(
        self, client: ClientHandle, session: Session, attempt: Callable[[Callable[[], object]], None], save_picture: Callable[[], None]
    ) -> None:
        self.session, self.gui, self.attempt = session, client.gui, attempt
        with self.gui.add_folder("Camera"):
            self._cameras()
        with self.gui.add_folder("Picture"):
            self._picture()
        save = self.gui.add_button("Save picture", icon="camera", hint="PNG at the size of the window, with its parameters inside.")

        @save.on_click
        async def _(_: Any) -> None:
            save_picture()

    def refresh(self) -> None:
        """Show what the view is at now."""
        if self._camera is not None:
            put(self._camera, self.session.camera or FREE)
        if self._frustums is not None:
            put(self._frustums, self.session.frustums)
        put(self._layer, self.session.layer)
        put(self._drawn, self.session.drawn_by)

    def _cameras(self) -> None:
        session, names = self.session, self.session.stage.camera_names
        presets = self.gui.add_button_group("Look from", tuple(cameras.PRESETS))
        self._camera = self.gui.add_dropdown("Through", (FREE, *names), hint="The cameras of the capture.") if names else None

        self._frustums = (
            self.gui.add_checkbox("Show cameras", False, hint="Where they stand around the head, with their pictures: click one.")
            if names
            else None
        )

        if self._frustums is not None:
            shown = self._frustums

            @shown.on_update
            async def _(event: Any) -> None:
                if event.client_id is not None:
                    self.attempt(lambda: session.show_cameras(bool(shown.value)))

        @presets.on_click
        async def _(_: Any) -> None:
            self.attempt(lambda: session.look_from(presets.value))

        if self._camera is not None:
            through = self._camera

            @through.on_update
            async def _(event: Any) -> None:
                if event.client_id is not None:
                    self.attempt(lambda: session.look_through(None if through.value == FREE else through.value))

    def _picture(self) -> None:
        session, gui, stage = self.session, self.gui, self.session.stage
        self._layer = gui.add_dropdown("Show", tuple(n for n in LAYERS if n in stage.layers))
        lines = gui.add_checkbox("Mesh lines", False, hint="The fitted mesh over the avatar and over the truth.")
        background = gui.add_rgb("Background", session.background)
        gain = gui.add_slider(
            "Error gain", 1.0, 16.0, 1.0, session.gain, marks=(), visible=bool(stage.references), hint="Brightness of the error picture."
        )
        quality = gui.add_dropdown("Resolution", tuple(QUALITY), hint="Automatic trades resolution for speed while things move.")
        self._drawn = gui.add_dropdown("Drawn by", DRAWN_BY, hint=f"The server sends pictures, exact when still. Browser: {NOTE}")

        @self._drawn.on_update
        async def _(event: Any) -> None:
            if event.client_id is not None:
                self.attempt(lambda: session.set_drawn_by(self._drawn.value))

        @self._layer.on_update
        async def _(event: Any) -> None:
            if event.client_id is not None:
                self.attempt(lambda: session.set_layer(self._layer.value))

        @lines.on_update
        async def _(_: Any) -> None:
            session.lines = bool(lines.value)
            session.loop.wake()

        @background.on_update
        async def _(_: Any) -> None:
            session.background = tuple(int(v) for v in background.value)  # type: ignore[assignment]
            session.loop.wake()

        @gain.on_update
        async def _(_: Any) -> None:
            session.gain = float(gain.value)
            session.loop.wake()

        @quality.on_update
        async def _(_: Any) -> None:
            session.most_scale = QUALITY[quality.value]
            session.loop.wake()
