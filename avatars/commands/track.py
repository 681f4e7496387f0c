"""`avatars track`: fit the head model to every frame of a capture."""

# No `from __future__ import annotations` here: the type of `settings` is known only inside command().
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from avatars.commands import Console
from avatars.errors import UserError

EXAMPLES = (
    ("a studio capture, into out/take-07/tracked", "avatars track studio/take-07"),
    (
        "two sequences of it, with another head and the face at rest in the first frame",
        "avatars track studio/take-07 --sequences EXP-1 SEN-1 --head heads/ict-facekit --reference EXP-1:0 --out out/tracked",
    ),
    ("a single video of one person", "avatars track webcam.mp4 --out out/me/tracked"),
)


def command() -> type:
    """The flags of `avatars track`, those of its configuration included."""
    from capture.track.config import TrackConfig

    @dataclass(frozen=True)
    class Track:
        """Track a capture: identity, expression, jaw, eyes, neck and rigid pose of every frame, from all cameras at once.

        An interrupted tracking goes on where it stopped when the same line is run again.
        """

        capture: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CAPTURE")]
        """The capture folder or video."""
        out: Path | None = None
        """Folder to write; left out: out/<name of the capture>/tracked."""
        format: str = "auto"
        """The capture's format; auto recognises it."""
        cameras: tuple[str, ...] = ()
        """Use only these cameras."""
        sequences: tuple[str, ...] = ()
        """Use only these sequences."""
        head: Path | None = None
        """Another head model: an ICT-FaceKit folder, an .npz, or FLAME."""
        config: Path | None = None
        """TOML with the settings below; flags win over it."""
        settings: Annotated[TrackConfig, tyro.conf.arg(name="")] = field(default_factory=TrackConfig)

        def run(self, console: Console) -> None:
            """Track."""
            if self.head is not None and not self.head.exists():
                raise UserError(f"--head {self.head} does not exist.")
            from avatars.files import claimed
            from avatars.head import load_head
            from capture.formats import open_capture
            from capture.track import track

            opened = open_capture(self.capture, self.format, self.cameras or None, self.sequences or None)
            out = self.out or Path("out") / opened.name / "tracked"
            head = load_head(self.head) if self.head is not None else None
            with claimed(out):
                tracked = track(opened, out, head, self.settings, progress=console.progress)
            figures = ", ".join(f"{k} {v:.2f}" for k, v in tracked.quality.items() if isinstance(v, float))
            console.say(f"{out}  {tracked.frame_count} frames, {len(tracked.cameras)} cameras{f', {figures}' if figures else ''}")
            console.say(f"next: avatars train {shlex.quote(str(out))}")

    return Track
