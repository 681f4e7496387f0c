"""The panel's folder for exports: the avatar, or what it does now, in other programs' formats."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from avatars.errors import UserError
from viewer.session import Session

if TYPE_CHECKING:
    from viser import ClientHandle

log = logging.getLogger(__name__)

LABELS = {
    "ply": "Splats of this frame (PLY)", "ga": "Splats with their triangles (GaussianAvatars PLY)", "avatar": "Avatar folder (zip)",
    "html": "Page that opens without a server (HTML)",
}  # fmt: skip


class ExportPanel:
    """Builds the folder in the current container; every exporter of `avatars.export` is offered."""

    def __init__(self, client: ClientHandle, session: Session, tell: Callable[[str], None]) -> None:
        gui, stage = client.gui, session.stage
        formats = {LABELS.get(name, name): name for name in sorted(stage.exports, key=lambda n: (n not in LABELS, [*LABELS, n].index(n)))}
        format = gui.add_dropdown("As", tuple(formats))
        about = gui.add_markdown(_plain(stage.exports[formats[format.value]]))
        button = gui.add_button(
            "Export", icon="package-export", hint="Expression, head and gaze as they are now, where the format freezes them."
        )

        @format.on_update
        async def _(_: Any) -> None:
            about.content = _plain(stage.exports[formats[format.value]])

        @button.on_click
        def _(_: Any) -> None:  # in a thread: some formats take seconds
            button.disabled, button.label = True, "Exporting…"
            try:
                name, content = stage.export(formats[format.value], session.request_now())
                client.send_file_download(name, content, save_immediately=True)
            except UserError as error:
                tell(str(error))
            except Exception as error:
                log.exception("an export failed")
                tell(f"The export failed: {error}")
            finally:
                button.disabled, button.label = False, "Export"


def _plain(text: str) -> str:
    """One sentence of ours, as markdown."""
    return text[:1].upper() + text[1:] + "."
