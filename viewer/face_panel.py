"""The panel's tab for the face: presets, search, symmetry, history, a slider per expression, codes in and out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avatars.expressions import PRESETS, regions
from viewer.codes_file import FORMATS, read_codes, write_codes
from viewer.desk import matches
from viewer.session import Session
from viewer.widgets import put

if TYPE_CHECKING:
    from viser import ClientHandle


class FacePanel:
    """Builds the tab in the current container. `attempt` does something and shows in the page why it cannot be done."""

    def __init__(
        self, client: ClientHandle, session: Session, tell: Callable[[str], None], attempt: Callable[[Callable[[], object]], None]
    ) -> None:
        self.client, self.session, self.gui, self.tell, self.attempt = client, session, client.gui, tell, attempt
        self.sliders: dict[str, Any] = {}
        self._folders: dict[str, Any] = {}
        self._desk()
        self._expressions()
        with self.gui.add_folder("Codes", expand_by_default=False):
            self._codes()

    def refresh(self) -> None:
        """Show what the face is at now."""
        session = self.session
        for name, weight in zip(session.desk.names, session.weights(), strict=True):
            put(self.sliders[name], round(min(max(float(weight), 0.0), 1.0), 2))
        if session.stage.timeline is not None:
            put(self._follow, session.follow)
        self._release.disabled = not session.desk.held

    def _desk(self) -> None:
        session, gui = self.session, self.gui
        preset = gui.add_dropdown("Preset", ("Choose…", *PRESETS), hint="Sets every expression at once.")
        search = gui.add_text("Find", "", hint="Part of a name: smile, brow up, left …")
        symmetric = gui.add_checkbox("Symmetric", False, hint="Left and right move together.")
        self._follow = gui.add_checkbox(
            "Follow clip",
            session.follow,
            hint="Expressions you do not hold play from the recording.",
            visible=session.stage.timeline is not None,
        )
        buttons = gui.add_button_group("History", ("Undo", "Redo"))
        self._release = gui.add_button("Release all", hint="Every expression follows the clip again.", disabled=True)

        @preset.on_update
        async def _(event: Any) -> None:
            if event.client_id is not None and preset.value in PRESETS:
                self.attempt(lambda: session.desk.apply(preset.value))
                preset.value = "Choose…"

        @search.on_update
        async def _(_: Any) -> None:
            self._filter(search.value)

        @symmetric.on_update
        async def _(_: Any) -> None:
            session.desk.symmetric = bool(symmetric.value)

        @self._follow.on_update
        async def _(event: Any) -> None:
            if event.client_id is not None:
                self.attempt(lambda: setattr(session, "follow", bool(self._follow.value)))

        @buttons.on_click
        async def _(_: Any) -> None:
            self.attempt(session.desk.undo if buttons.value == "Undo" else session.desk.redo)

        @self._release.on_click
        async def _(_: Any) -> None:
            self.attempt(session.desk.release)

    def _expressions(self) -> None:
        names, ranges = self.session.desk.names, self.session.stage.trained_range()
        limits = {} if ranges is None else dict(zip(names, ranges, strict=True))
        for region, members in regions(names).items():
            self._folders[region] = self.gui.add_folder(region)
            with self._folders[region]:
                for name in members:
                    self.sliders[name] = self._expression(name, limits.get(name))

    def _expression(self, name: str, limit: Any) -> Any:
        hint = None if limit is None else f"{name}: the recordings reach {max(float(limit[1]), 0.0):.2f}; beyond, the avatar guesses."
        marks = () if limit is None or not 0.03 < limit[1] < 0.97 else (round(float(limit[1]), 2),)
        slider = self.gui.add_slider(name, 0.0, 1.0, 0.01, 0.0, hint=hint, marks=marks)

        @slider.on_update
        async def _(event: Any) -> None:
            if event.client_id is not None:  # None: we set it ourselves
                self.attempt(lambda: self.session.desk.set(name, slider.value))

        return slider

    def _codes(self) -> None:
        session, gui = self.session, self.gui
        format = gui.add_dropdown("Format", tuple(FORMATS), hint="Of this one expression; whole performances are in the tab Clip.")
        save = gui.add_button("Save", icon="download")
        load = gui.add_upload_button("Load", icon="upload", hint="JSON, Live Link Face CSV or npz; of a longer take, its first frame.")
        copy = gui.add_button("Copy", icon="copy", hint="Ctrl C over the picture does the same, Ctrl V pastes.")
        paste = gui.add_text("Paste", "", multiline=True, hint='{"expressions": {"jawOpen": 0.5}}')
        use = gui.add_button("Use pasted codes")

        @save.on_click
        async def _(_: Any) -> None:
            suffix = FORMATS[format.value]
            self.client.send_file_download(f"expression{suffix}", write_codes(session, suffix), save_immediately=True)

        @load.on_upload
        def _(_: Any) -> None:  # in a thread: it may be a long take
            file = load.value
            self.attempt(lambda: read_codes(session, Path(file.name).name, file.content))

        @copy.on_click
        async def _(_: Any) -> None:
            session.copied = (session.copied[0] + 1, write_codes(session, ".json").decode())

        @use.on_click
        async def _(_: Any) -> None:
            self.attempt(lambda: read_codes(session, "pasted.json", paste.value.encode()))

    def _filter(self, query: str) -> None:
        for region, names in regions(self.session.desk.names).items():
            shown = [n for n in names if matches(n, query)]
            self._folders[region].visible = bool(shown)
            for name in names:
                if self.sliders[name].visible != (name in shown):
                    self.sliders[name].visible = name in shown
