"""TrackedSequence: what is saved comes back, and each way in which a folder can be broken is one clear error."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from avatars.errors import AvatarError
from avatars.sequence import Segment, TrackedSequence, load_tracked, save_tracked
from avatars.types import Cameras, HeadPose, Identity


def tracked(folder: Path, offsets: bool = True) -> TrackedSequence:
    torch.manual_seed(0)
    frames, cameras = 5, 2
    codes = HeadPose(torch.rand(frames, 7), torch.randn(frames, 5, 3), torch.randn(frames, 3), torch.randn(frames, 3))
    valid = np.ones((frames, cameras), bool)
    valid[3, 1] = False
    return TrackedSequence(
        folder=folder, capture="studio", fps=24.0,
        cameras=Cameras(("left", "right"), torch.eye(3).expand(2, 3, 3).clone(), torch.eye(4).expand(2, 4, 4).clone(), 8, 6),
        segments=(Segment("A", 0, 2), Segment("B", 2, 5)),
        identity=Identity(torch.randn(4), torch.randn(9, 3) if offsets else None, 1.25),
        codes=codes, valid=valid, head_hash="abc", expression_names=tuple("abcdefg"), quality={"landmark_px": 1.5}, provenance={"seconds": 3},
    )  # fmt: skip


@pytest.mark.parametrize("offsets", [True, False])
def test_there_and_back(tmp_path: Path, offsets: bool) -> None:
    original = tracked(tmp_path, offsets)
    save_tracked(original)
    loaded = load_tracked(tmp_path)
    for name in ("expression", "joints", "rotation", "translation"):
        assert torch.equal(getattr(loaded.codes, name), getattr(original.codes, name))
    assert torch.equal(loaded.identity.coefficients, original.identity.coefficients) and loaded.identity.scale == 1.25
    assert torch.equal(loaded.identity.offsets, original.identity.offsets) if offsets else loaded.identity.offsets is None
    assert torch.equal(loaded.cameras.Ks, original.cameras.Ks) and loaded.cameras.names == ("left", "right")
    assert np.array_equal(loaded.valid, original.valid)
    for name in ("capture", "fps", "segments", "head_name", "head_hash", "expression_names", "frames_root", "quality", "provenance"):
        assert getattr(loaded, name) == getattr(original, name), name


def test_timeline(tmp_path: Path) -> None:
    sequence = tracked(tmp_path)
    assert sequence.frame_count == 5 and len(sequence.segment("B")) == 3
    assert [(sequence.locate(t)[0].name, sequence.locate(t)[1]) for t in range(5)] == [("A", 0), ("A", 1), ("B", 0), ("B", 1), ("B", 2)]
    assert sequence.image_path(3, 1) == tmp_path / "frames" / "B" / "right" / "00001.jpg"
    assert sequence.mask_path(3, 1) == tmp_path / "frames" / "B" / "right" / "00001.png"
    assert replace(sequence, frames_root="/elsewhere").image_path(0, 0) == Path("/elsewhere/A/left/00000.jpg")
    for outside in (-1, 5):
        with pytest.raises(IndexError, match="outside of the timeline of 5"):
            sequence.locate(outside)
    with pytest.raises(AvatarError, match="no sequence 'C'; known: A, B"):
        sequence.segment("C")


def test_pictures_are_read_as_rgb(tmp_path: Path) -> None:
    sequence = tracked(tmp_path)
    sequence.image_path(0, 0).parent.mkdir(parents=True)
    cv2.imwrite(str(sequence.image_path(0, 0)), np.full((6, 8, 3), (10, 60, 200), np.uint8))  # BGR
    cv2.imwrite(str(sequence.mask_path(0, 0)), np.full((6, 8), 77, np.uint8))
    assert np.abs(sequence.image(0, 0)[0, 0].astype(int) - (200, 60, 10)).max() <= 2
    assert sequence.mask(0, 0).shape == (6, 8) and sequence.mask(0, 0)[0, 0] == 77
    cv2.imwrite(str(sequence.image_path(0, 0)), np.zeros((3, 3, 3), np.uint8))
    with pytest.raises(AvatarError, match="00000.jpg is 3×3, the cameras are 8×6"):
        sequence.image(0, 0)
    sequence.image_path(0, 0).write_bytes(b"\xff\xd8")
    with pytest.raises(AvatarError, match="00000.jpg is damaged"):
        sequence.image(0, 0)
    with pytest.raises(AvatarError, match="does not exist.*tracking again"):
        sequence.image(4, 1)


def test_sound(tmp_path: Path) -> None:
    sequence = tracked(tmp_path)
    assert sequence.audio("A") is None
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "A.wav").write_bytes(b"")
    assert sequence.audio("A") == tmp_path / "audio" / "A.wav"


def test_an_unfinished_folder_is_said_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(AvatarError, match="not a finished tracked sequence.*avatars track"):
        load_tracked(tmp_path)


@pytest.mark.parametrize("name", ["codes", "cameras", "identity"])
def test_damaged_arrays_are_named(tmp_path: Path, name: str) -> None:
    save_tracked(tracked(tmp_path))
    path = tmp_path / f"{name}.npz"
    content = path.read_bytes()
    for bad in (content[: len(content) // 2], b"", b"PK nonsense"):
        path.write_bytes(bad)
        with pytest.raises(AvatarError, match=f"{name}.npz is damaged"):
            load_tracked(tmp_path)
    path.unlink()
    with pytest.raises(AvatarError, match=f"{name}.npz does not exist. Delete .* track the capture again"):
        load_tracked(tmp_path)


def test_missing_and_empty_pictures(tmp_path: Path) -> None:
    sequence = tracked(tmp_path)
    assert len(sequence.missing_pictures()) == 2 * 9, "two files for each of nine pictures; the tenth is not valid"
    for t in range(5):
        for c in range(2):
            sequence.image_path(t, c).parent.mkdir(parents=True, exist_ok=True)
            sequence.image_path(t, c).write_bytes(b"x")
            sequence.mask_path(t, c).write_bytes(b"x")
    assert sequence.missing_pictures() == []
    sequence.mask_path(3, 1).unlink()
    assert sequence.missing_pictures() == []
    sequence.mask_path(4, 1).unlink()
    sequence.image_path(1, 0).write_bytes(b"")
    assert sequence.missing_pictures() == [sequence.image_path(1, 0), sequence.mask_path(4, 1)]


def unsealed(folder: Path) -> dict:
    """The manifest as someone leaves it who edits it on purpose."""
    manifest = json.loads((folder / "manifest.json").read_text())
    return {k: v for k, v in manifest.items() if k not in ("files", "checksum")}


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    save_tracked(tracked(tmp_path))
    generator = np.random.default_rng(0)
    for name in ("manifest.json", "cameras.npz", "identity.npz", "codes.npz"):
        content = (tmp_path / name).read_bytes()
        for at in generator.integers(0, len(content), 40):
            flipped = bytearray(content)
            flipped[at] ^= 1 << generator.integers(0, 8)
            (tmp_path / name).write_bytes(flipped)
            try:
                same = json.loads(flipped) == json.loads(content) if name.endswith(".json") else False
            except ValueError:
                same = False
            if not same:  # a blank for a tab
                with pytest.raises(AvatarError, match=r"(damaged|version|not a tracked sequence).*(again|Give)"):
                    load_tracked(tmp_path)
        (tmp_path / name).write_bytes(content)
    load_tracked(tmp_path)


def test_a_file_of_another_tracking_is_noticed_and_an_unsealed_manifest_loads(tmp_path: Path) -> None:
    save_tracked(tracked(tmp_path))
    other = tracked(tmp_path / "other")
    save_tracked(replace(other, codes=replace(other.codes, expression=other.codes.expression + 0.25)))
    (tmp_path / "codes.npz").write_bytes((tmp_path / "other" / "codes.npz").read_bytes())
    with pytest.raises(
        AvatarError, match=r"codes\.npz is damaged, or not the file that manifest\.json was written for\. Delete .* and track"
    ):
        load_tracked(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps(unsealed(tmp_path)))
    load_tracked(tmp_path)  # as folders of earlier versions do


@pytest.mark.parametrize(("change", "message"), [
    ({"kind": "cake"}, "not a tracked sequence.*cake"),
    ({"version": 99}, "version 99; this program reads"),
    ({"fps": "fast"}, "damaged"),
    ({"segments": [["A", 0, 9]]}, "9 frames in manifest.json, 5 codes"),
    ({"cameras": ["only"]}, "damaged"),
    ({"cameras": ["left", "../right"]}, "cannot be the name of a file"),
    ({"segments": [["../A", 0, 2], ["B", 2, 5]]}, "cannot be the name of a file"),
    ({"segments": [["A", 0, 3], ["B", 2, 5]]}, "do not lie one behind the other"),
    ({"segments": [["A", 0, 2], ["A", 2, 5]]}, "do not lie one behind the other"),
    ({"head": "default"}, "damaged"),
])  # fmt: skip
def test_wrong_manifests(tmp_path: Path, change: dict, message: str) -> None:
    save_tracked(tracked(tmp_path))
    (tmp_path / "manifest.json").write_text(json.dumps(unsealed(tmp_path) | change))
    with pytest.raises(AvatarError, match=message):
        load_tracked(tmp_path)


def test_missing_key_and_half_written_manifest(tmp_path: Path) -> None:
    save_tracked(tracked(tmp_path))
    manifest = unsealed(tmp_path)
    del manifest["frames_root"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(AvatarError, match="damaged.*frames_root"):
        load_tracked(tmp_path)
    (tmp_path / "manifest.json").write_text('{"kind": "avat')
    with pytest.raises(AvatarError, match="manifest.json is damaged"):
        load_tracked(tmp_path)
