"""`avatars export`: an avatar or one of its frames in other programs' formats."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from avatars.commands import Console, existing_folder
from avatars.commands.shot import AvatarFolder, Moment, MomentFlags

EXAMPLES = (
    (
        "a smile as a splat file that any viewer opens",
        "avatars export out/demo/avatar --expression mouthSmileLeft=1 mouthSmileRight=1 --out smile.ply",
    ),
    (
        "one page that opens from disk: sliders, head, gaze, the recordings with their sound",
        "avatars export out/demo/avatar --format html --out anna.html",
    ),
    ("the whole avatar, to take it to another machine", "avatars export out/demo/avatar --format avatar --out handover/anna"),
)


@dataclass(frozen=True)
class Export:
    """Write one frame as Gaussian-splatting PLY (ply) or bound to triangles as GaussianAvatars' PLY (ga); or the whole avatar, still
    drivable, as a page for any browser (html) or as the folder itself (avatar).
    """

    avatar: AvatarFolder
    """The avatar's folder, as `avatars train` or `avatars demo` wrote it."""
    out: Path | None = None
    """The file to write, or the folder for --format avatar; left out: avatar.ply, avatar.html …, here."""
    format: str = "ply"
    """ply, ga, html or avatar: the name of a file in avatars/export."""
    moment: MomentFlags = field(default_factory=Moment)

    def run(self, console: Console) -> None:
        """Export."""
        from avatars.export import export, find

        exporter = find(self.format)
        existing_folder(self.avatar, "avatar", "avatars train TRACKED --out AVATAR")

        from avatars.avatar import load_avatar

        avatar = load_avatar(self.avatar)
        out = self.out or Path(f"avatar{exporter.SUFFIX}")
        figures = export(avatar, self.moment.poses(avatar, single=True), out, self.format)
        console.say(f"{out}  {', '.join(f'{k} {v}' for k, v in figures.items())}")
        console.say(f"{exporter.DESCRIPTION}")


def command() -> type:
    """The flags of `avatars export`."""
    return Export
