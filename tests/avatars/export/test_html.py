"""The exported page as a file: numbers that come back, names that stay text, a policy that lets nothing in. The pictures: tests/viewer."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from avatars.__main__ import main
from avatars.avatar import Avatar, load_avatar
from avatars.errors import UserError
from avatars.export import export
from avatars.export.html.contents import LOG_SCALE, MEAN, collect
from avatars.export.html.payload import Payload
from avatars.sequence import Segment


def unpacked(fields: list[dict], packed: bytes) -> dict[str, np.ndarray]:
    """The arrays of a payload, read by the words of its description."""
    content, at, arrays = zlib.decompress(packed), 0, {}
    for field in fields:
        count = int(np.prod(field["shape"]))
        planes = np.frombuffer(content, np.uint8, count * field["bytes"], at).reshape(field["bytes"], count)
        at += planes.size
        whole = sum((planes[b].astype(np.int64) << 8 * b) for b in range(field["bytes"]))
        if field["step"] == 0:
            arrays[field["name"]] = whole.astype(np.uint32).view(np.float32).reshape(field["shape"])
            continue
        if field["step"] == -1:
            arrays[field["name"]] = whole.astype(np.uint8)
            continue
        values = np.where(whole & 1, -(whole + 1) // 2, whole // 2).reshape(field["shape"])
        arrays[field["name"]] = (np.cumsum(values, 0) if field["differences"] else values) * field["step"]
    assert at == len(content)
    return arrays


class Parts(HTMLParser):
    """What a browser's parser makes of the page: elements, text of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.texts: list[tuple[dict, str]] = []
        self._open: dict | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.elements.append((tag, dict(attributes)))
        self._open = {"tag": tag, **dict(attributes)}

    def handle_endtag(self, tag: str) -> None:
        self._open = None

    def handle_data(self, text: str) -> None:
        if self._open is not None:
            self.texts.append((self._open, text))

    def text(self, tag: str, **wanted: str) -> str:
        return "".join(t for e, t in self.texts if e["tag"] == tag and all(e.get(k) == v for k, v in wanted.items()))


def page_of(avatar: Avatar, path: Path) -> tuple[str, Parts]:
    export(avatar, avatar.head.neutral(), path, "html")
    text = path.read_text(encoding="utf-8")
    return text, Parts(text)


def test_numbers_come_back_to_within_half_a_step() -> None:
    payload, rng = Payload(), np.random.default_rng(0)
    values = {
        "small": rng.normal(size=(3, 50)),
        "large": 1e5 * rng.normal(size=(7,)),
        "walk": rng.normal(size=(40, 2)).cumsum(0),
        "none": np.zeros((0, 4)),
    }
    for name, array in values.items():
        payload.steps(name, array, 0.01, differences=name == "walk")
    exact = np.array([0.1, -3e38, np.pi, -0.0], np.float32)
    payload.floats("exact", exact)
    payload.bytes("file", b"\x00\xffRIFF")
    assert [f["bytes"] for f in payload.fields] == [2, 4, 2, 1, 4, 1], "as many bytes as the largest needs"
    back = unpacked(payload.fields, payload.compressed())
    for name, array in values.items():
        np.testing.assert_allclose(back[name], array, atol=0.005 + 1e-9)
    assert back["exact"].tobytes() == exact.tobytes() and back["file"].tobytes() == b"\x00\xffRIFF"
    for bad in (np.array([np.nan]), np.array([1e12])):
        with pytest.raises(ValueError, match="bad: values must be finite and below"):
            payload.steps("bad", bad, 0.01)


def test_what_cannot_be_seen_is_left_out_and_the_rest_is_all_there(toy_avatar: Avatar) -> None:
    logits = toy_avatar.gaussians.logit_opacities.clone()
    logits[::7] = -6.0  # below 1/255
    avatar = replace(toy_avatar, gaussians=replace(toy_avatar.gaussians, logit_opacities=logits))
    facts, payload = collect(avatar)
    arrays = unpacked(payload.fields, payload.compressed())
    keep = (logits > -6).numpy()
    assert facts["gaussians"] == keep.sum() == len(arrays["triangles"])
    order = np.argsort(avatar.gaussians.face_ids.numpy()[keep], kind="stable")
    np.testing.assert_allclose(arrays["means"].T, avatar.gaussians.means.numpy()[keep][order], atol=MEAN / 2 + 1e-6)
    np.testing.assert_allclose(arrays["log_scales"].T, avatar.gaussians.log_scales.numpy()[keep][order].clip(-8), atol=LOG_SCALE / 2 + 1e-6)
    # Every Gaussian hangs on the triangle that it hung on, at the same three places of the neutral face.
    shape = avatar.head.shape(avatar.identity).vertices.numpy()
    corners = arrays["vertices"][arrays["faces"].astype(int)[arrays["triangles"].astype(int)]]
    np.testing.assert_array_equal(corners, shape[avatar.head.faces.numpy()[avatar.gaussians.face_ids.numpy()[keep][order]]])
    assert bytes(arrays["sound.ONE"]) == avatar.audio("ONE").read_bytes()  # type: ignore[union-attr]
    np.testing.assert_allclose(arrays["clip.expression"], avatar.timeline.codes.expression.numpy(), atol=1.3e-4)


def test_the_page_holds_everything_and_lets_nothing_else_in(toy_avatar: Avatar, tmp_path: Path) -> None:
    text, parts = page_of(toy_avatar, tmp_path / "toy.html")
    assert not re.search(r"(?:src|href)\s*=\s*[\"']?\s*(?:https?:|//|file:)", text), "nothing is fetched"
    assert [e for e in parts.elements if e[0] in ("iframe", "object", "embed", "base")] == []
    policy = next(a["content"] for t, a in parts.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "unsafe" not in policy and "connect-src" not in policy
    script = next(t for e, t in parts.texts if e["tag"] == "script" and not e.get("type"))
    style = parts.text("style")
    for kind, source in (("script", script), ("style", style)):
        assert f"{kind}-src 'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'" in policy
    assert not any(k.startswith("on") or k == "style" for _, a in parts.elements for k in a), "the policy would refuse them"
    facts = json.loads(parts.text("script", id="facts-json"))
    arrays = unpacked(facts["fields"], base64.b64decode(parts.text("script", id="payload"), validate=True))
    assert facts["gaussians"] == len(arrays["triangles"]) and facts["expressions"] == list(toy_avatar.head.expression_names)


def test_names_from_outside_stay_text(toy_folder: Path, tmp_path: Path) -> None:
    name = "<img src=x onerror=alert(1)> & {{script}}"
    folder = tmp_path / name
    shutil.copytree(toy_folder, folder)
    (folder / "LICENCE.txt").write_text("CC BY </script>\n  <script>alert(2)</script> Someone\n- else")
    avatar = load_avatar(folder)
    first = avatar.timeline.segments[0]
    segments = (Segment("</script><b>", first.start, first.stop), *avatar.timeline.segments[1:])
    avatar = replace(avatar, timeline=replace(avatar.timeline, segments=segments))
    text, parts = page_of(avatar, tmp_path / "page.html")
    plain = page_of(load_avatar(toy_folder), tmp_path / "plain.html")[1]
    assert [t for t, _ in parts.elements] == [t for t, _ in plain.elements], "no element came in by a name"
    assert "<img" not in text and "alert(2)</script>" not in text
    facts = json.loads(parts.text("script", id="facts-json"))
    assert facts["name"] == name and facts["clips"][0][0] == "</script><b>"
    assert facts["notes"][0][0] == "Licence" and "licence of the capture applies" in facts["notes"][0][1]
    notes = dict(facts["notes"][1:])
    assert notes["Licence"] == "CC BY </script> <script>alert(2)</script> Someone\n- else"


def test_what_pages_do_not_know_is_refused(toy_avatar: Avatar, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="know the deformations binding, blendshapes; this avatar uses field"):
        export(replace(toy_avatar, deformation="field"), toy_avatar.head.neutral(), tmp_path / "a.html", "html")
    assert not (tmp_path / "a.html").exists()


def test_export_without_a_name(toy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(toy_folder), "--format", "html"]) == 0
    assert (tmp_path / "avatar.html").stat().st_size < 1_000_000 and "avatar.html  gaussians" in capsys.readouterr().out
    assert main(["export", str(toy_folder), "--format", "html", "--out", "page.htm"]) == 2
    assert "html files end in .html" in capsys.readouterr().err


def test_a_still_avatar_has_no_recordings(toy_avatar: Avatar) -> None:
    none = toy_avatar.timeline.codes[torch.zeros(0, dtype=torch.int64)]
    facts, payload = collect(replace(toy_avatar, timeline=replace(toy_avatar.timeline, codes=none, segments=())))
    assert facts["clips"] == [] and facts["spans"] is None
    assert unpacked(payload.fields, payload.compressed())["clip.joints"].shape[0] == 0
