"""The panel's tab for where the head turns and where the eyes look."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from viewer.session import Session
from viewer.widgets import put

if TYPE_CHECKING:
    from viser import ClientHandle


class HeadPanel:
    """Builds the tab in the current container. `attempt` does something and shows in the page why it cannot be done."""

    def __init__(self, client: ClientHandle, session: Session, attempt: Callable[[Callable[[], object]], None]) -> None:
        self.session = session
        gui = client.gui
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
                    attempt(turned)

        @self._still.on_update
        async def _(event: Any) -> None:
            if event.client_id is not None:
                attempt(lambda: setattr(session, "still", bool(self._still.value)))

        @reset.on_click
        async def _(_: Any) -> None:
            session.head, session.gaze, session.still = (0.0, 0.0, 0.0), (0.0, 0.0), False
            session.touch()

    def refresh(self) -> None:
        """Show what the head is at now."""
        put(self._still, self.session.still)
        for handle, value in zip(self._angles, (*self.session.head, *self.session.gaze), strict=True):
            put(handle, value)
