"""The panel's tab for where the head turns and where the eyes look."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from viewer.gaze import WAYS
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
            self._way = gui.add_dropdown("Eyes look", WAYS, hint="At the camera: at you, wherever you orbit.")
            side = gui.add_slider(
                "Sideways °", -35.0, 35.0, 0.5, 0.0, marks=(), hint="Towards the subject's left; added to the recorded gaze."
            )
            up = gui.add_slider("Up °", -30.0, 30.0, 0.5, 0.0, marks=())
            left = gui.add_slider(
                "Left cm", -100.0, 100.0, 1.0, 0.0, marks=(), visible=False, hint="Of the resting head, to the subject's left."
            )
            above = gui.add_slider("Above cm", -100.0, 100.0, 1.0, 0.0, marks=(), visible=False)
            front = gui.add_slider(
                "In front cm", 12.0, 300.0, 1.0, 60.0, marks=(), visible=False, hint="Near points make the eyes converge."
            )
        reset = gui.add_button("Reset head and gaze")
        self._turns, self._by_angles, self._by_point = (turn, nod, tilt), (side, up), (left, above, front)

        def turned() -> None:
            a, b, c = (float(handle.value) for handle in self._turns)
            x, y, z = (float(handle.value) for handle in self._by_point)
            session.head, session.gaze.point = (a, b, c), (x, y, z)
            session.gaze.angles = (float(side.value), float(up.value))

        for handle in (*self._turns, *self._by_angles, *self._by_point):

            @handle.on_update
            async def _(event: Any) -> None:
                if event.client_id is not None:
                    attempt(turned)

        @self._way.on_update
        async def _(event: Any) -> None:
            if event.client_id is not None:
                attempt(lambda: session.gaze.choose(self._way.value))

        @self._still.on_update
        async def _(event: Any) -> None:
            if event.client_id is not None:
                attempt(lambda: setattr(session, "still", bool(self._still.value)))

        @reset.on_click
        async def _(_: Any) -> None:
            session.head, session.still = (0.0, 0.0, 0.0), False
            session.gaze.reset()
            session.touch()

    def refresh(self) -> None:
        """Show what the head is at now."""
        session = self.session
        gaze = session.gaze
        put(self._still, session.still)
        put(self._way, gaze.way)
        for handle, value in zip(
            (*self._turns, *self._by_angles, *self._by_point), (*session.head, *gaze.angles, *gaze.point), strict=True
        ):
            put(handle, value)
        for handles, way in ((self._by_angles, WAYS[0]), (self._by_point, WAYS[2])):
            for handle in handles:
                if handle.visible != (gaze.way == way):
                    handle.visible = gaze.way == way
