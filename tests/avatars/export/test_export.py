"""Exports read back by an independent parser, and mean the same as what was rendered."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from avatars import rights
from avatars.avatar import Avatar, load_avatar
from avatars.errors import UserError
from avatars.export import export, find, names
from avatars.export.ply import write_gaussians
from avatars.gaussians import face_frames
from avatars.playback import tracked_poses
from avatars.render import render
from avatars.types import Gaussians

ROOT = Path(__file__).resolve().parents[3]


def read_ply(path: Path) -> dict[str, np.ndarray]:
    """A PLY reader that knows nothing of the writer."""
    content = path.read_bytes()
    end = content.index(b"end_header\n") + len(b"end_header\n")
    header = content[:end].decode("ascii").splitlines()
    assert header[0] == "ply" and header[1] == "format binary_little_endian 1.0"
    count = next(int(line.split()[2]) for line in header if line.startswith("element vertex"))
    properties = [line.split()[1:] for line in header if line.startswith("property")]
    assert all(kind == "float" for kind, _ in properties)
    table = np.frombuffer(content[end:], "<f4").reshape(count, len(properties))
    return {name: table[:, i] for i, (_, name) in enumerate(properties)}


def gaussians_of(ply: dict[str, np.ndarray]) -> Gaussians:
    """Activated Gaussians, by the definitions of 3D Gaussian Splatting's own loader."""

    def columns(prefix: str, count: int) -> torch.Tensor:
        return torch.from_numpy(np.stack([ply[f"{prefix}{i}"] for i in range(count)], 1))

    rest = columns("f_rest_", 45).reshape(-1, 3, 15).transpose(1, 2)
    sh = torch.cat([columns("f_dc_", 3)[:, None], rest], 1)
    means = torch.from_numpy(np.stack([ply["x"], ply["y"], ply["z"]], 1))
    return Gaussians(means, columns("rot_", 4), columns("scale_", 3).exp(), torch.from_numpy(ply["opacity"].copy()).sigmoid(), sh)


def test_inria_ply_has_its_62_floats_and_renders_the_same(toy_avatar: Avatar, tmp_path: Path) -> None:
    pose = tracked_poses(toy_avatar, "ONE")[2]
    figures = export(toy_avatar, pose, tmp_path / "frame.ply", "ply")
    ply = read_ply(tmp_path / "frame.ply")
    assert (
        len(ply) == 62
        and list(ply)[:6] == ["x", "y", "z", "nx", "ny", "nz"]
        and list(ply)[-8:-4] == ["opacity", "scale_0", "scale_1", "scale_2"]
    )
    assert figures["gaussians"] == len(ply["x"]) == len(toy_avatar.gaussians)
    back, cameras = gaussians_of(ply), toy_avatar.timeline.cameras
    torch.testing.assert_close(back.quats.norm(dim=1), torch.ones(len(back)))
    expected = render(toy_avatar.at(pose), cameras, torch.ones(3), "reference").color
    torch.testing.assert_close(render(back, cameras, torch.ones(3), "reference").color, expected, atol=2e-5, rtol=0)


def test_view_dependent_colour_is_stored_channel_by_channel(tmp_path: Path) -> None:
    sh = torch.arange(4 * 3).float().reshape(1, 4, 3)
    gaussians = Gaussians(torch.zeros(1, 3), torch.tensor([[2.0, 0, 0, 0]]), torch.full((1, 3), 0.01), torch.tensor([1.0]), sh)
    write_gaussians(gaussians, tmp_path / "a.ply")
    ply = read_ply(tmp_path / "a.ply")
    assert [float(ply[f"f_dc_{i}"][0]) for i in range(3)] == [0, 1, 2]
    assert [float(ply[f"f_rest_{i}"][0]) for i in (0, 1, 2, 3, 15, 16, 17, 30)] == [3, 6, 9, 0, 4, 7, 10, 5]
    assert np.isfinite(ply["opacity"]).all() and float(ply["rot_0"][0]) == 1


def test_an_empty_set_is_a_valid_file(tmp_path: Path) -> None:
    empty = Gaussians(torch.zeros(0, 3), torch.zeros(0, 4), torch.zeros(0, 3), torch.zeros(0), torch.zeros(0, 1, 3))
    write_gaussians(empty, tmp_path / "a.ply")
    assert len(read_ply(tmp_path / "a.ply")["x"]) == 0


def test_bound_ply_gives_back_the_world_through_its_mesh(toy_avatar: Avatar, tmp_path: Path) -> None:
    pose = toy_avatar.head.neutral()
    export(toy_avatar, pose, tmp_path / "bound.ply", "ga")
    ply = read_ply(tmp_path / "bound.ply")
    lines = (tmp_path / "bound.obj").read_text().splitlines()
    vertices = torch.tensor([[float(v) for v in line.split()[1:]] for line in lines if line.startswith("v ")])
    faces = torch.tensor([[int(v) - 1 for v in line.split()[1:]] for line in lines if line.startswith("f ")])
    frames = face_frames(vertices, faces)
    ids = torch.from_numpy(ply["binding_0"].astype(np.int64))
    local = torch.from_numpy(np.stack([ply["x"], ply["y"], ply["z"]], 1))
    world = frames.origins[ids] + frames.sizes[ids, None] * (frames.axes[ids] @ local[..., None])[..., 0]
    torch.testing.assert_close(world, toy_avatar.at(pose).means, atol=1e-5, rtol=0)


def test_the_avatar_folder_is_complete_and_forgets_this_machine(toy_avatar: Avatar, tmp_path: Path) -> None:
    export(toy_avatar, toy_avatar.head.neutral(), tmp_path / "copy", "avatar")
    manifest = json.loads((tmp_path / "copy" / "manifest.json").read_text())
    assert manifest["tracked"] == "" and manifest["units"] == "metres"
    for key in ("version", "axes", "color_space", "licence"):
        assert manifest[key]
    copy = load_avatar(tmp_path / "copy")
    pose = tracked_poses(copy, "TWO")[0]
    torch.testing.assert_close(copy.at(pose).means, toy_avatar.at(pose).means)
    assert copy.audio("ONE") is not None
    with pytest.raises(UserError, match="is the avatar itself"):
        export(copy, pose, tmp_path / "copy", "avatar")


def test_licence_and_attribution_go_along(toy_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(toy_folder, tmp_path / "avatar")
    (tmp_path / "avatar" / "LICENSE.md").write_text("theirs")
    avatar = load_avatar(tmp_path / "avatar")
    export(avatar, avatar.head.neutral(), tmp_path / "copy", "avatar")
    assert rights.read(tmp_path / "copy") == {"LICENSE.md": "theirs"} and rights.read(toy_folder) == {} == rights.read(tmp_path / "none")
    assert rights.read(ROOT / "capture" / "sample" / "studio").keys() == {"ATTRIBUTION.md"}, "the sample's asks to be kept"


def test_wrong_paths_and_formats(toy_avatar: Avatar, tmp_path: Path) -> None:
    pose = toy_avatar.head.neutral()
    with pytest.raises(UserError, match="end in .ply. Write --out .*frame.ply"):
        export(toy_avatar, pose, tmp_path / "frame.splat", "ply")
    with pytest.raises(UserError, match="unknown; known: .*avatar.*ply"):
        export(toy_avatar, pose, tmp_path / "a.fbx", "fbx")
    (tmp_path / "x.ply").mkdir()
    with pytest.raises(UserError, match="folder"):
        export(toy_avatar, pose, tmp_path / "x.ply", "ply")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="other content"):
        export(toy_avatar, pose, tmp_path / "other", "avatar")
    assert (tmp_path / "other" / "thesis.txt").exists()
    with pytest.raises(ValueError, match="one frame"):
        export(toy_avatar, tracked_poses(toy_avatar, "ONE"), tmp_path / "a.ply", "ply")


@pytest.mark.parametrize("name", names())
def test_every_exporter_keeps_the_contract(name: str) -> None:
    module = find(name)
    assert isinstance(module.DESCRIPTION, str) and module.SUFFIX in ("", ".ply", ".html") and callable(module.write)
