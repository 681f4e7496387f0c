"""Reading and writing heads: our npz, ICT-FaceKit, FLAME, and files that are broken."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from avatars.errors import UserError
from avatars.head import ARKIT, DEFAULT, JOINTS, load_head, save_head
from avatars.types import Identity


def test_default_is_small_and_loads_quickly() -> None:
    assert DEFAULT.stat().st_size <= 8_000_000
    start = time.perf_counter()
    head = load_head(DEFAULT)
    assert time.perf_counter() - start < 1.5  # 0.05 s on an idle machine
    assert 5_000 < head.V < 13_000


def test_saved_and_read_back(tmp_path: Path) -> None:
    head = load_head()
    save_head(head, tmp_path / "head.npz")
    again = load_head(tmp_path / "head.npz")
    assert again.content_hash() == head.content_hash()
    assert load_head(tmp_path).content_hash() == head.content_hash()  # a folder with one npz


def test_absent_damaged_and_unknown_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_head(tmp_path / "none.npz")
    whole = DEFAULT.read_bytes()
    for name, content in (("cut.npz", whole[: len(whole) // 2]), ("text.npz", b"hello"), ("empty.npz", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=name):
            load_head(tmp_path / name)
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(UserError, match="no known kind"):
        load_head(tmp_path / "other.npz")
    np.savez(tmp_path / "objects.npz", a=np.array([{}], dtype=object))
    with pytest.raises(UserError, match="pickled objects"):
        load_head(tmp_path / "objects.npz")
    (tmp_path / "two").mkdir()
    with pytest.raises(UserError, match="0 npz files"):
        load_head(tmp_path / "two")


@pytest.mark.parametrize("key", ["template", "expression_offsets", "landmarks_ibug68_faces", "skin_weights"])
def test_missing_key_is_named(tmp_path: Path, key: str) -> None:
    with np.load(DEFAULT) as archive:
        arrays = {k: archive[k] for k in archive.files if k != key}
    np.savez(tmp_path / "lacking.npz", **arrays)
    with pytest.raises(UserError, match=f"lacks {key}"):
        load_head(tmp_path / "lacking.npz")


def test_wrong_shapes_and_versions_are_named(tmp_path: Path) -> None:
    with np.load(DEFAULT) as archive:
        arrays = {k: archive[k] for k in archive.files}
    np.savez(tmp_path / "short.npz", **(arrays | {"skin_weights": arrays["skin_weights"][:-1]}))
    with pytest.raises(UserError, match="skin_weights must be"):
        load_head(tmp_path / "short.npz")
    np.savez(tmp_path / "wild.npz", **(arrays | {"faces": arrays["faces"] + 9999}))
    with pytest.raises(UserError, match="faces must lie in"):
        load_head(tmp_path / "wild.npz")
    np.savez(tmp_path / "future.npz", **(arrays | {"version": np.array(99)}))
    with pytest.raises(UserError, match="version 99"):
        load_head(tmp_path / "future.npz")
    np.savez(tmp_path / "few.npz", **(arrays | {"expression_counts": arrays["expression_counts"] + 1}))
    with pytest.raises(UserError, match="inconsistent"):
        load_head(tmp_path / "few.npz")


# FLAME: a synthetic file in its format


def flame_arrays(expressions: int = 5) -> dict[str, np.ndarray]:
    """A sphere for a head and two small ones for eyes, with FLAME's keys and shapes."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.linspace(0.2, 2.9, 12), np.linspace(0, 2 * np.pi, 16, endpoint=False), indexing="ij"), -1).reshape(-1, 2)
    ball = np.stack([np.sin(grid[:, 0]) * np.sin(grid[:, 1]), np.cos(grid[:, 0]), np.sin(grid[:, 0]) * np.cos(grid[:, 1])], 1)
    centers = np.array([[0, 0, 0], [0.03, 0.02, 0.07], [-0.03, 0.02, 0.07]])
    vertices = np.concatenate([0.1 * ball, 0.012 * ball + centers[1], 0.012 * ball + centers[2]])
    n = len(ball)
    one = [[r * 16 + c, (r + 1) * 16 + c, (r + 1) * 16 + (c + 1) % 16] for r in range(11) for c in range(16)]
    faces = np.concatenate([np.array(one) + k * n for k in range(3)]).astype(np.uint32)
    weights = np.zeros((3 * n, 5))
    weights[:n, 0], weights[:n, 1], weights[:n, 2] = 0.2, 0.5, 0.3
    weights[n : 2 * n, 3] = weights[2 * n :, 4] = 1
    regressor = np.zeros((5, 3 * n))
    regressor[:3, :n], regressor[3, n : 2 * n], regressor[4, 2 * n :] = 1 / n, 1 / n, 1 / n
    return {
        "v_template": vertices, "f": faces, "shapedirs": rng.normal(size=(3 * n, 3, 300 + expressions)) * 1e-3,
        "posedirs": rng.normal(size=(3 * n, 3, 36)) * 1e-3, "J_regressor": regressor, "weights": weights,
    }  # fmt: skip


def test_flame_loads_and_obeys_its_own_equations(tmp_path: Path) -> None:
    arrays = flame_arrays()
    np.savez(tmp_path / "flame.npz", **arrays)
    head = load_head(tmp_path / "flame.npz")
    assert (head.name, head.I, head.E) == ("flame", 300, 5) and head.expression_names[0] == "flame000"
    rest = head.vertices(head.mean_identity(), head.neutral())[0]
    assert np.allclose(rest.numpy(), arrays["v_template"], atol=1e-6)
    # Linear blend skinning by hand: shape, pose correctives of the jaw, and its rotation about the regressed joint.
    beta = np.zeros(300)
    beta[2] = 2.0
    shaped = arrays["v_template"] + arrays["shapedirs"][..., :300] @ beta
    joint = arrays["J_regressor"] @ shaped
    angle = 0.3
    R = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    corrected = shaped + arrays["posedirs"][..., 9:18] @ (R - np.eye(3)).ravel()
    turned = (corrected - joint[2]) @ R.T + joint[2]
    jaw = arrays["weights"][:, 2:3]
    joints = torch.zeros(1, 5, 3)
    joints[0, JOINTS.index("jaw"), 0] = angle
    ours = head.vertices(Identity(torch.tensor(beta, dtype=torch.float32)), replace(head.neutral(), joints=joints))[0]
    assert np.allclose(ours.numpy(), jaw * turned + (1 - jaw) * corrected, atol=2e-6)
    assert len(head.region_faces("eyeball_left")) == 176


def test_a_head_of_another_kind_is_the_same_after_it_was_copied(tmp_path: Path) -> None:
    np.savez(tmp_path / "flame.npz", **flame_arrays())
    head = load_head(tmp_path / "flame.npz")
    save_head(head, tmp_path / "copy" / "head.npz")
    assert load_head(tmp_path / "copy" / "head.npz").content_hash() == head.content_hash()  # else training refuses what was tracked


def test_flame_keeps_landmarks_and_texture_that_it_brings(tmp_path: Path) -> None:
    extra = {
        "lmk_face_ids": np.arange(51), "lmk_barycentrics": np.full((51, 3), 1 / 3), "vt": np.random.rand(20, 2), "ft": np.zeros((528, 3), int),
    }  # fmt: skip
    np.savez(tmp_path / "flame.npz", **flame_arrays(), **extra)
    head = load_head(tmp_path / "flame.npz")
    assert head.landmarks["ibug68"].valid.tolist() == [False] * 17 + [True] * 51
    assert head.uvs.shape == (20, 2)
    save_head(head, tmp_path / "again.npz")
    assert load_head(tmp_path / "again.npz").pose_basis is not None


def test_flame_with_faults(tmp_path: Path) -> None:
    arrays = flame_arrays()
    (tmp_path / "generic_model.pkl").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(UserError, match="never loaded.*"):
        load_head(tmp_path / "generic_model.pkl")
    for key, value, message in (
        ("weights", arrays["weights"][:, :4], "weights must be"),
        ("posedirs", arrays["posedirs"] * np.nan, "posedirs must be finite"),
        ("shapedirs", arrays["shapedirs"][..., :100], "100 components"),
        ("f", arrays["f"] + 10_000, "f must be triangles"),
    ):
        np.savez(tmp_path / "bad.npz", **(arrays | {key: value}))
        with pytest.raises(UserError, match=message):
            load_head(tmp_path / "bad.npz")
    del arrays["J_regressor"]
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(UserError, match="lacks J_regressor"):
        load_head(tmp_path / "bad.npz")


# ICT-FaceKit


def test_ict_loads_with_arkit_names(test_data: Path) -> None:
    folder = test_data / "heads" / "ict-facekit"
    if not folder.is_dir():
        pytest.skip(f"no ICT-FaceKit at {folder}")
    head = load_head(folder)
    assert head.expression_names == ARKIT and head.I == 100
    rest = head.vertices(head.mean_identity(), head.neutral())[0]
    assert (rest - head.template).abs().max() < 1e-6
    assert torch.allclose(head.skin_weights.sum(1), torch.ones(head.V), atol=1e-5)
    assert head.landmarks["ibug68"].valid.all()
    # At weight 1 jawOpen is the artist's shape; its lower teeth get there by turning.
    with np.load(next(folder.glob("*.npz"))) as file:
        index = [str(n) for n in file["expression_names"]].index("jawOpen")
        target = file["template"][:9409] + file["expression_basis"][index, :9409].astype(np.float32)
    opened = head.vertices(head.mean_identity(), replace(head.neutral(), expression=head.expression(jawOpen=1)))[0]
    assert np.abs(opened[:9409].numpy() - target).max() < 5e-5
    assert all(
        len(head.region_faces(n)) for n in ("lips", "nose", "ears", "scalp", "teeth_upper", "teeth_lower", "iris_left", "pupil_right")
    )


def test_ict_with_faults(tmp_path: Path) -> None:
    np.savez(tmp_path / "ict.npz", part_names=np.array(["face"]), part_vertex_ranges=np.zeros((1, 2)), identity_basis=np.zeros((1, 4, 3)))
    with pytest.raises(UserError, match="lacks template"):
        load_head(tmp_path / "ict.npz")
