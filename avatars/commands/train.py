"""`avatars train`: learn a Gaussian avatar from a tracked capture."""

# No `from __future__ import annotations` here: the type of `settings` is known only inside command().
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from avatars.commands import Console, Device, choose_device, existing_folder

EXAMPLES = (
    ("eight minutes on everything", "avatars train out/take-07/tracked"),
    (
        "with cameras and a sequence held out to measure it on afterwards",
        "avatars train out/take-07/tracked --held-out-cameras 100000004 100000012 --held-out-sequences SEN-1",
    ),
    (
        "settings from a file, one of them changed",
        "avatars train out/take-07/tracked --config configs/train-fast.toml --gaussians 60000 --out out/take-07/fine",
    ),
)


def command() -> type:
    """The flags of `avatars train`, those of its configuration included."""
    from avatars.train_config import TrainConfig

    @dataclass(frozen=True)
    class Train:
        """Train an avatar on a tracked sequence.

        An interrupted training goes on from its last checkpoint when the same line is run again; a finished one is not repeated.
        """

        tracked: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="TRACKED")]
        """The tracked sequence's folder, as `avatars track` wrote it."""
        out: Path | None = None
        """Folder to write; left out: `avatar` beside TRACKED."""
        config: Path | None = None
        """TOML with the settings below; flags win over it."""
        settings: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)
        device: Device = "auto"
        """Where to compute: auto takes CUDA where there is one."""

        def run(self, console: Console) -> None:
            """Train."""
            from avatars.commands.work import default_out, show_training
            from avatars.files import claimed
            from avatars.sequence import load_tracked
            from avatars.train import train

            existing_folder(self.tracked, "tracked sequence", "avatars track CAPTURE --out TRACKED")
            out = self.out or default_out(self.tracked, "avatar")
            tracked, device = load_tracked(self.tracked), choose_device(self.device)
            with claimed(out):
                event = show_training(train(tracked, self.settings, out, device), console)
            console.say(f"{out}  {event.gaussians} Gaussians, {event.step} steps, {event.psnr:.2f} dB on training pictures")
            console.say(f"next: avatars eval {shlex.quote(str(out))}")

    return Train
