"""`avatars check`: what is wrong with a capture, before hours are spent on it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from avatars.commands import Console

EXAMPLES = (
    ("a studio capture", "avatars check studio/take-07"),
    ("a single video; the findings as JSON and a sheet of all cameras into a folder", "avatars check webcam.mp4 --out out/me"),
)


@dataclass(frozen=True)
class Check:
    """Check a capture: counts, sizes, synchronisation, exposure, and whether the calibration is sane.

    Exit code 0 when it can be used (warnings allowed), 2 when it cannot.
    """

    capture: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CAPTURE")]
    """The capture folder or video."""
    format: str = "auto"
    """The capture's format; auto recognises it."""
    out: Path | None = None
    """Folder for check.json and cameras.png (a picture of every camera)."""

    def run(self, console: Console) -> int:
        """Check; the exit code."""
        from capture.formats import open_capture
        from capture.quality import check_capture

        report = check_capture(open_capture(self.capture, self.format), progress=console.progress)
        console.say(report.text())
        if self.out is not None:
            report.save(self.out)
            console.say(f"{self.out / 'check.json'}")
        if report.ok:
            console.say(f"next: avatars track {shlex.quote(str(self.capture))}")
        return report.exit_code


def command() -> type:
    """The flags of `avatars check`."""
    return Check
