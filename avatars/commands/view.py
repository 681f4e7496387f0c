"""`avatars view`: an avatar in the browser."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from avatars.commands import Console, existing_folder
from avatars.commands.shot import AvatarFolder

EXAMPLES = (
    ("open it", "avatars view out/demo/avatar"),
    ("three trainings of one capture, one against another", "avatars view out/demo/avatar --compare out/longer/avatar out/sharper/avatar"),
    (
        "beside the recording that it was tracked from, on a fixed port, without opening a browser",
        "avatars view out/demo/avatar --tracked out/demo/tracked --port 8080 --no-browser",
    ),
)


@dataclass(frozen=True)
class View:
    """Open an avatar in the browser: time, expressions, head pose, cameras, and the recording beside it.

    Only this machine can reach it (127.0.0.1), and only with the link that is printed, which holds a password.
    """

    avatar: AvatarFolder
    """The avatar's folder, as `avatars train` or `avatars demo` wrote it."""
    tracked: Path | None = None
    """The tracked sequence with the recorded pictures; left out: where the avatar was trained from, if it is still there."""
    compare: tuple[Path, ...] = ()
    """More avatars, say of other trainings or other people, to compare with in the same pose through the same camera."""
    host: str = "127.0.0.1"
    """Address to listen on. Others than 127.0.0.1 make it reachable from the network, unencrypted."""
    port: int = 0
    """Port; 0 takes any that is free."""
    no_browser: bool = False
    """Only print the link."""

    def run(self, console: Console) -> None:
        """Serve until Ctrl-C."""
        existing_folder(self.avatar, "avatar", "avatars train TRACKED --out AVATAR")
        if self.tracked is not None:
            existing_folder(self.tracked, "tracked sequence", "avatars track CAPTURE --out TRACKED")
        for other in self.compare:
            existing_folder(other, "avatar", "avatars train TRACKED --out AVATAR")
        from viewer.app import serve

        serve(
            self.avatar, self.tracked, host=self.host, port=self.port, open_browser=not self.no_browser, other_dirs=self.compare, announce=console.say
        )  # fmt: skip


def command() -> type:
    """The flags of `avatars view`."""
    return View
