"""The panel beside the stage: expression desk, head and gaze, camera, picture. Only widgets and their events.

Every widget belongs to one client (`client.gui`). Labels come from the avatar and the capture, so they are shown as
plain text and never as markup. viser calls back on its event loop; what the callbacks do is short.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from avatars.expressions import PRESETS, regions
from avatars.png import encode_png
from viewer import cameras
from viewer.clip_panel import ClipPanel
from viewer.desk import matches
from viewer.live import LiveLink
from viewer.live_panel import LivePanel
from viewer.session import Session
from viewer.stage import LAYERS, MODES

if TYPE_CHECKING:
    from viser import ClientHandle

log = logging.getLogger(__name__)

FREE = "Free orbit"
QUALITY = {"Automatic": 1.0, "Three quarters": 0.75, "Half": 0.5, "Quarter": 0.25}
_MOST_UPLOAD = 100_000


class Panels:
    """Builds the widgets of one client and keeps them in step with its session (`refresh`)."""

    def __init__(self, client: ClientHandle, session: Session, link: LiveLink) -> None:
        self.client, self.session, self.gui = client, session, client.gui
        self.sliders: dict[str, Any] = {}
        self._folders: dict[str, Any] = {}
        tabs = self.gui.add_tab_group()
        with tabs.add_tab("Face"):
            self._face()
        with tabs.add_tab("Head"):
            self._head()
        with tabs.add_tab("View"):
            self._view()
        with tabs.add_tab("Clip"):
            self.clip = ClipPanel(client, session, self.tell)
        with tabs.add_tab("Live"):
            self.live = LivePanel(client, session, link, self.tell)
        with tabs.add_tab("About"):
            self._about()
        self._commands()

    def refresh(self) -> None:
        """Show what the session is at now."""
        session = self.session
        with self.gui_atomic():
            for name, weight in zip(session.desk.names, session.weights(), strict=True):
                _put(self.sliders[name], round(min(max(float(weight), 0.0), 1.0), 2))
            _put(self._follow, session.follow) if session.stage.timeline is not None else None
            _put(self._still, session.still)
            for handle, value in zip(self._angles, (*session.head, *session.gaze), strict=True):
                _put(handle, value)
            if self._camera is not None:
                _put(self._camera, session.camera or FREE)
            _put(self._layer, session.layer)
            self._release.disabled = not session.desk.held

    @contextmanager
    def gui_atomic(self):
        """Widgets change together."""
        with self.client.atomic():
            yield

    # Tabs --------------------------------------------------------------------------------------------------------

    def _face(self) -> None:
        session, gui = self.session, self.gui
        preset = gui.add_dropdown("Preset", ("Choose…", *PRESETS), hint="Sets every expression at once.")
        self._search = gui.add_text("Find", "", hint="Part of a name: smile, brow up, left …")
        self._symmetric = gui.add_checkbox("Symmetric", False, hint="Left and right move together.")
        self._follow = gui.add_checkbox(
            "Follow clip", session.follow, hint="Expressions you do not hold play from the recording.", visible=session.stage.timeline is not None
        )
        buttons = gui.add_button_group("History", ("Undo", "Redo"))
        self._release = gui.add_button("Release all", hint="Every expression follows the clip again.", disabled=True)

        @preset.on_update
        async def _(event: Any) -> None:
            if event.client_id is not None and preset.value in PRESETS:
                self._try(lambda: session.desk.apply(preset.value))
                preset.value = "Choose…"

        @self._search.on_update
        async def _(_: Any) -> None:
            self._filter(self._search.value)

        @self._symmetric.on_update
        async def _(_: Any) -> None:
            session.desk.symmetric = bool(self._symmetric.value)

        @self._follow.on_update
        async def _(event: Any) -> None:
            if event.client_id is not None:
                self._try(lambda: setattr(session, "follow", bool(self._follow.value)))

        @buttons.on_click
        async def _(_: Any) -> None:
            self._try(session.desk.undo if buttons.value == "Undo" else session.desk.redo)

        @self._release.on_click
        async def _(_: Any) -> None:
            self._try(session.desk.release)

        ranges = session.stage.trained_range()
        limits = {} if ranges is None else dict(zip(session.desk.names, ranges, strict=True))
        for region, names in regions(session.desk.names).items():
            self._folders[region] = gui.add_folder(region)
            with self._folders[region]:
                for name in names:
                    self.sliders[name] = self._expression(name, limits.get(name))
        with gui.add_folder("Codes", expand_by_default=False):
            self._codes()

    def _expression(self, name: str, limit: Any) -> Any:
        hint = None if limit is None else f"{name}: the recordings reach {max(float(limit[1]), 0.0):.2f}; beyond, the avatar guesses."
        marks = () if limit is None or not 0.03 < limit[1] < 0.97 else (round(float(limit[1]), 2),)
        slider = self.gui.add_slider(name, 0.0, 1.0, 0.01, 0.0, hint=hint, marks=marks)

        @slider.on_update
        async def _(event: Any) -> None:
            if event.client_id is not None:  # None: we set it ourselves
                self._try(lambda: self.session.desk.set(name, slider.value))

        return slider

    def _codes(self) -> None:
        session, gui = self.session, self.gui
        save = gui.add_button("Save as JSON", icon="download")
        load = gui.add_upload_button("Load JSON", mime_type="application/json", icon="upload")
        paste = gui.add_text("Paste", "", multiline=True, hint='{"expressions": {"jawOpen": 0.5}}')
        use = gui.add_button("Use pasted codes")

        @save.on_click
        async def _(_: Any) -> None:
            text = session.desk.to_json(dict(zip(session.desk.names, session.weights(), strict=True)))
            self.client.send_file_download("expression.json", text.encode(), save_immediately=True)

        @load.on_upload
        async def _(_: Any) -> None:
            content = load.value.content
            if len(content) > _MOST_UPLOAD:
                self.tell("That file is too large for expression codes.")
            else:
                self._try(lambda: session.desk.from_json(content.decode("utf-8", "replace")))

        @use.on_click
        async def _(_: Any) -> None:
            self._try(lambda: session.desk.from_json(paste.value))

    def _head(self) -> None:
        session, gui = self.session, self.gui
        with gui.add_folder("Head"):
            turn = gui.add_slider("Turn °", -60.0, 60.0, 0.5, 0.0, marks=(), hint="Towards the subject's left.")
            nod = gui.add_slider("Nod °", -40.0, 40.0, 0.5, 0.0, marks=(), hint="Down is positive.")
            tilt = gui.add_slider("Tilt °", -40.0, 40.0, 0.5, 0.0, marks=(), hint="Towards the subject's left shoulder.")
            self._still = gui.add_checkbox("Hold head still", False, hint="Expressions play on while the head rests.")
        with gui.add_folder("Gaze"):
            side = gui.add_slider("Sideways °", -35.0, 35.0, 0.5, 0.0, marks=(), hint="Towards the subject's left.")
            up = gui.add_slider("Up °", -30.0, 30.0, 0.5, 0.0, marks=())
        reset = gui.add_button("Reset head and gaze")
        self._angles = (turn, nod, tilt, side, up)

        def turned() -> None:
            values = [float(handle.value) for handle in self._angles]
            session.head, session.gaze = (values[0], values[1], values[2]), (values[3], values[4])

        for handle in self._angles:

            @handle.on_update
            async def _(event: Any) -> None:
                if event.client_id is not None:
                    self._try(turned)

        @self._still.on_update
        async def _(event: Any) -> None:
            if event.client_id is not None:
                self._try(lambda: setattr(session, "still", bool(self._still.value)))

        @reset.on_click
        async def _(_: Any) -> None:
            session.head, session.gaze, session.still = (0.0, 0.0, 0.0), (0.0, 0.0), False
            session.touch()

    def _view(self) -> None:
        session, gui, stage = self.session, self.gui, self.session.stage
        with gui.add_folder("Camera"):
            presets = gui.add_button_group("Look from", tuple(cameras.PRESETS))
            names = stage.camera_names
            self._camera = gui.add_dropdown("Through", (FREE, *names), hint="The cameras of the capture.") if names else None
        with gui.add_folder("Picture"):
            self._layer = gui.add_dropdown("Show", tuple(n for n in LAYERS if n in stage.layers))
            lines = gui.add_checkbox("Mesh lines", False, hint="The fitted mesh over the avatar and over the truth.")
            background = gui.add_rgb("Background", session.background)
            gain = gui.add_slider("Error gain", 1.0, 16.0, 1.0, session.gain, marks=(), visible=bool(stage.references), hint="Brightness of the error picture.")
            quality = gui.add_dropdown("Resolution", tuple(QUALITY), hint="Automatic trades resolution for speed while things move.")
        save = gui.add_button("Save picture", icon="camera", hint="PNG at the size of the window, with its parameters inside.")

        @presets.on_click
        async def _(_: Any) -> None:
            self._try(lambda: session.look_from(presets.value))

        if self._camera is not None:
            through = self._camera

            @through.on_update
            async def _(event: Any) -> None:
                if event.client_id is not None:
                    self._try(lambda: session.look_through(None if through.value == FREE else through.value))

        @self._layer.on_update
        async def _(event: Any) -> None:
            if event.client_id is not None:
                self._try(lambda: session.set_layer(self._layer.value))

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

        @save.on_click
        async def _(_: Any) -> None:
            self.save_picture()

    def _about(self) -> None:
        gui = self.gui
        rows = {"Avatar": self.session.stage.name, **self.session.stage.figures}
        for label, text in rows.items():
            gui.add_text(label, text, disabled=True)
        gui.add_markdown("Press **?** for all keys, **Ctrl K** for all commands.")

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
        add("Save picture", self.save_picture, "P")

    def save_picture(self) -> None:
        """Send what is wanted now as a PNG file, drawn by the render thread."""
        session = self.session

        def task():
            request = session.full_request()
            parameters = {"avatar": session.stage.name, "request": asdict(request)}
            png = encode_png(session.stage.render(request), parameters)
            self.client.send_file_download("avatar.png", png, save_immediately=True)
            yield

        session.loop.background(task())

    def tell(self, text: str) -> None:
        """A short message in the page."""
        self.client.add_notification("", text, auto_close_seconds=5.0)

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except ValueError as error:
            self.tell(str(error))
        self.session.touch()

    def _filter(self, query: str) -> None:
        for region, names in regions(self.session.desk.names).items():
            shown = [n for n in names if matches(n, query)]
            self._folders[region].visible = bool(shown)
            for name in names:
                if self.sliders[name].visible != (name in shown):
                    self.sliders[name].visible = name in shown


def _put(handle: Any, value: Any) -> None:
    if handle.value != value:
        handle.value = value
