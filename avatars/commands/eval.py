"""`avatars eval`: measure an avatar on what it was not trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from avatars.commands import Console, Device, choose_device, existing_folder
from avatars.commands.shot import AvatarFolder
from avatars.errors import UserError

EXAMPLES = (
    ("against the sequence that it was trained from; report.json and report.html go beside the avatar", "avatars eval out/demo/avatar"),
    (
        "every held-out picture, with LPIPS",
        "avatars eval out/demo/avatar --novel-views 100000 --reenactments 100000 --lpips-weights lpips_alex.pth --out out/full",
    ),
)


@dataclass(frozen=True)
class Eval:
    """Measure novel views (held-out cameras) and self-reenactment (held-out sequences): PSNR, SSIM and, with weights, LPIPS.

    What is held out is decided at training: `avatars train --held-out-cameras … --held-out-sequences …`.
    """

    avatar: AvatarFolder
    """The avatar's folder, as `avatars train` or `avatars demo` wrote it."""
    tracked: Path | None = None
    """The tracked sequence; left out: the one that the avatar was trained from."""
    out: Path | None = None
    """Folder for report.json and report.html; left out: the one that holds the avatar."""
    novel_views: int = 48
    """At most so many pictures of held-out cameras."""
    reenactments: int = 96
    """At most so many pictures of held-out sequences."""
    lpips_weights: Path | None = None
    """Network weights for LPIPS (.safetensors or .pth); without them LPIPS is left out. Nothing is downloaded."""
    device: Device = "auto"
    """Where to compute: auto takes CUDA where there is one."""

    def run(self, console: Console) -> None:
        """Evaluate."""
        existing_folder(self.avatar, "avatar", "avatars train TRACKED --out AVATAR")
        if self.lpips_weights is not None and not self.lpips_weights.is_file():
            raise UserError(f"--lpips-weights {self.lpips_weights} does not exist. Leave it out to go without LPIPS.")
        if self.novel_views < 1 or self.reenactments < 1:
            raise UserError("--novel-views and --reenactments must be at least 1.")
        from avatars.avatar import load_avatar
        from avatars.commands.work import default_out, headline
        from avatars.evaluate import EvalConfig, evaluate
        from avatars.files import claimed
        from avatars.report import write_report
        from avatars.sequence import load_tracked

        avatar = load_avatar(self.avatar).to(choose_device(self.device))
        folder = self.tracked or (Path(avatar.timeline.tracked) if avatar.timeline.tracked else None)
        if folder is None or not folder.is_dir():
            where = f" ({folder} is not there)" if folder is not None else ""
            raise UserError(f"{self.avatar}: the tracked sequence that it was trained from is not known{where}. Give --tracked TRACKED.")
        out = self.out or default_out(self.avatar, "")
        config = EvalConfig(self.novel_views, self.reenactments, self.lpips_weights)
        with claimed(out):  # before the work: a place that cannot be written is told now
            evaluation = evaluate(avatar, load_tracked(folder), config, progress=console.progress)
            page = write_report(evaluation, out, self.avatar / "events.jsonl")
        if not any(evaluation.report.get(k) for k in ("novel_view", "self_reenactment")):
            console.say("Nothing was held out when this avatar was trained, so only its speed and size could be measured.")
        for name, value in headline(evaluation.report).items():
            console.say(f"  {name:24} {value}")
        console.say(f"{page}")


def command() -> type:
    """The flags of `avatars eval`."""
    return Eval
