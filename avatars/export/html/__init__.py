"""One HTML file with everything in it: the avatar, and a program that poses and draws it in any browser with WebGL2.

It opens from disk; there is no server and nothing is fetched, which its content security policy holds. What it draws agrees with
`avatars.render` (same binding, corrections, projection and compositing), up to the rounding that `contents.py` states.
The sources of the page lie readable in `page/`; here they are put together.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from pathlib import Path
from typing import Any

from avatars import rights
from avatars.avatar import Avatar
from avatars.export.html.contents import collect
from avatars.files import atomic_path
from avatars.types import HeadPose

DESCRIPTION = "one page that opens from disk in any browser with WebGL2: expressions, head, gaze and the recorded clips, no server"
SUFFIX = ".html"
SOURCES = Path(__file__).parent / "page"
SCRIPTS = ("payload.js", "rig.js", "splats.js", "camera.js", "clip.js", "desk.js", "main.js")


def write(avatar: Avatar, pose: HeadPose, path: Path) -> dict[str, Any]:
    """Write the page; `pose` is ignored, since the page poses itself."""
    facts, payload = collect(avatar)
    facts |= {"name": title_of(avatar), "fields": payload.fields, "notes": notes(avatar)}
    text = assemble(facts, payload.compressed())
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return {"gaussians": facts["gaussians"], "clips": len(facts["clips"]), "megabytes": round(path.stat().st_size / 1e6, 2)}


def assemble(facts: dict[str, Any], payload: bytes) -> str:
    """The page as text: markup, style, facts, numbers and program, and a policy that lets nothing else in."""
    style = _source("page.css")
    script = '(() => {\n"use strict";\n' + "".join(_source(name) for name in SCRIPTS) + "})();\n"
    policy = (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; img-src data: blob:; media-src blob:; "
        "base-uri 'none'; form-action 'none'"
    )
    # In JSON "<" occurs in strings alone; escaped it can end no element.
    data = json.dumps(facts, ensure_ascii=True, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    parts = {
        "policy": policy, "title": html.escape(str(facts["name"])), "style": style, "facts": data,
        "payload": base64.b64encode(payload).decode("ascii"), "script": script,
    }  # fmt: skip
    text = _source("page.html")
    pieces = text.split("{{")
    filled = [pieces[0]]
    for piece in pieces[1:]:  # in one pass, so that nothing in a part is taken for a place
        name, rest = piece.split("}}", 1)
        filled += [parts[name], rest]
    return "".join(filled)


def title_of(avatar: Avatar) -> str:
    """What to call it: its folder, or the folder above one that is just called avatar."""
    folder = avatar.folder.resolve() if avatar.folder is not None else Path("avatar")
    return (folder.parent.name if folder.name == "avatar" else "") or folder.name


def notes(avatar: Avatar) -> list[list[str]]:
    """Heading and text of what has to stay with the avatar: licence, attribution, origin."""
    capture = avatar.provenance.get("capture")
    found = [["Licence", "The licence of the capture" + (f" “{capture}”" if capture else "") + " applies to this avatar."]]
    if avatar.folder is not None:
        # Lines that go on indented were broken by hand; the page breaks them where it is wide.
        found += [[Path(name).stem.capitalize(), re.sub(r"\n +", " ", text)] for name, text in rights.read(avatar.folder).items()]
    if avatar.head.name == "default":
        found.append(["Head model", "Made from the CC0 data of MakeHuman and its Face Units pack."])
    return found


def _source(name: str) -> str:
    return (SOURCES / name).read_text(encoding="utf-8").replace("\r\n", "\n")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
