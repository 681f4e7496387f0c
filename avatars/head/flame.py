"""FLAME 2020/2023 (Li et al. 2017; licence-gated, so the user brings the file) as a head, from an npz of its arrays.

Its pickled originals are never unpickled here, since a pickle may run any program: `how_to_convert` says how to make the
npz once. Keys: v_template [V, 3], f [F, 3], shapedirs [V, 3, S + X] (S shape modes, 300 in the releases, then X
expressions), posedirs [V, 3, 36], J_regressor [5, V], weights [V, 5], kintree_table; optional: vt, ft (texture),
lmk_face_ids, lmk_barycentrics (68 or 51 landmarks).

FLAME's five joints are a global root, neck, jaw and two eyes. Its neck turns the whole head: it becomes our head joint;
its root lies lower in the neck and becomes our neck joint, which owns no vertices of its own but carries the head. Its
expressions are principal components without names: they are called flame000, flame001, … and carry no joint rotations.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from avatars.errors import UserError
from avatars.head import rig
from avatars.head.model import JOINTS, REGIONS, HeadModel, Landmarks
from avatars.head.storage import require

_KEYS = ("v_template", "f", "shapedirs", "posedirs", "J_regressor", "weights")
_SHAPE_MODES = 300
_OURS = (JOINTS.index("head"), JOINTS.index("jaw"), JOINTS.index("eye_left"), JOINTS.index("eye_right"))  # of joints 1–4

_EYE_LEFT, _EYE_RIGHT = 3, 4  # FLAME's joint numbers


def recognises(arrays: dict[str, np.ndarray]) -> bool:
    """Whether these are the arrays of a FLAME npz."""
    return {"v_template", "shapedirs"} <= arrays.keys()


def how_to_convert(path: Path) -> str:
    """What to do with a pickled model."""
    return (
        f"{path} is a pickle, which could run any program when opened, so it is never loaded. Convert FLAME once, in an "
        "environment that you trust with it (numpy < 1.24, scipy, chumpy):\n"
        "  import pickle, numpy as np\n"
        f"  m = pickle.load(open({str(path)!r}, 'rb'), encoding='latin1')\n"
        "  J = m['J_regressor']; J = J.toarray() if hasattr(J, 'toarray') else J\n"
        "  keys = ('v_template', 'f', 'shapedirs', 'posedirs', 'weights', 'kintree_table')\n"
        "  np.savez_compressed('flame.npz', J_regressor=np.array(J), **{k: np.array(m[k]) for k in keys})\n"
        "and give the path of flame.npz."
    )


def head_from_arrays(arrays: dict[str, np.ndarray], path: Path) -> HeadModel:
    """The FLAME head; UserError names what is missing or of the wrong shape."""
    require(arrays, _KEYS, path)
    V = len(arrays["v_template"])
    modes = arrays["shapedirs"].shape[-1]
    for key, shape in {
        "v_template": (V, 3), "shapedirs": (V, 3, modes), "posedirs": (V, 3, 36), "J_regressor": (5, V), "weights": (V, 5),
    }.items():  # fmt: skip
        if arrays[key].shape != shape or not np.isfinite(arrays[key].astype(np.float64)).all():
            raise UserError(f"The FLAME head {path}: {key} must be finite and {list(shape)}, got {list(arrays[key].shape)}.")
    if modes <= _SHAPE_MODES:
        raise UserError(
            f"The FLAME head {path}: shapedirs has {modes} components; FLAME 2020 and 2023 have {_SHAPE_MODES} of shape and then "
            "those of expression. Convert the full model (generic_model.pkl or flame2023.pkl)."
        )
    faces = arrays["f"].astype(np.int64)
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.min() < 0 or faces.max() >= V:
        raise UserError(f"The FLAME head {path}: f must be triangles of vertices 0–{V - 1}, got {list(faces.shape)}.")
    try:
        return _build(arrays, faces)
    except (ValueError, IndexError) as error:
        raise UserError(f"The FLAME head {path} is inconsistent: {error}.") from None


def _build(arrays: dict[str, np.ndarray], faces: np.ndarray) -> HeadModel:
    template = arrays["v_template"].astype(np.float64)
    regressor = arrays["J_regressor"].astype(np.float64)
    directions = np.moveaxis(arrays["shapedirs"].astype(np.float64), -1, 0)  # [S + X, V, 3]
    shape, expression = directions[:_SHAPE_MODES], directions[_SHAPE_MODES:]
    order = [0, 1, 2, 3, 4]  # root → neck, neck → head, jaw, eyes: our order of joints is theirs
    joints = (regressor @ template)[order]
    joint_basis = np.einsum("jv,svc->sjc", regressor, shape)[:, order]

    weights = np.zeros((len(template), len(JOINTS) + 1))
    theirs = np.clip(arrays["weights"].astype(np.float64), 0, None)
    weights[:, -1] = theirs[:, 0]
    for j, ours in enumerate(_OURS, start=1):
        weights[:, ours] = theirs[:, j]
    weights /= weights.sum(1, keepdims=True)

    # posedirs are linear in the rows of (R − 1) of joints 1–4, nine each.
    pose_basis = np.zeros((9 * len(JOINTS), len(template), 3))
    posedirs = np.moveaxis(arrays["posedirs"].astype(np.float64), -1, 0)
    for j, ours in enumerate(_OURS):
        pose_basis[9 * ours : 9 * ours + 9] = posedirs[9 * j : 9 * j + 9]

    def tensor(x: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(x, np.float32))

    landmarks = _landmarks(arrays)
    uvs, uv_faces = _texture(arrays, template, faces)
    return HeadModel(
        name="flame",
        template=tensor(template),
        faces=torch.from_numpy(faces),
        uvs=tensor(uvs),
        uv_faces=torch.from_numpy(uv_faces.astype(np.int64)),
        identity_basis=tensor(shape),
        expression_basis=tensor(expression),
        expression_names=tuple(f"flame{k:03d}" for k in range(len(expression))),
        joint_template=tensor(joints),
        joint_identity_basis=tensor(joint_basis),
        expression_rotations=torch.zeros(len(expression), len(JOINTS), 3),
        skin_weights=tensor(weights),
        region_names=REGIONS,
        face_regions=torch.from_numpy(_regions(template, faces, theirs, landmarks)),
        landmarks=landmarks,
        pose_basis=tensor(pose_basis),
    )


def _landmarks(arrays: dict[str, np.ndarray]) -> dict[str, Landmarks]:
    """The usual 68, when the file brings them; 51 are those without the jaw line."""
    if "lmk_face_ids" not in arrays or "lmk_barycentrics" not in arrays:
        return {}
    ids, bary = arrays["lmk_face_ids"].astype(np.int64), arrays["lmk_barycentrics"].astype(np.float32)
    missing = 68 - len(ids)
    if missing not in (0, 17) or bary.shape != (len(ids), 3):
        raise ValueError(f"landmarks must be 68 or 51, got {list(ids.shape)} with barycentrics {list(bary.shape)}")
    ids = np.concatenate([np.zeros(missing, np.int64), ids])
    bary = np.concatenate([np.tile(np.eye(3, dtype=np.float32)[:1], (missing, 1)), bary])
    return {"ibug68": Landmarks(torch.from_numpy(ids), torch.from_numpy(bary), torch.arange(68) >= missing)}


def _texture(arrays: dict[str, np.ndarray], template: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The file's texture layout, or a cylinder around the head."""
    if "vt" in arrays and "ft" in arrays:
        return arrays["vt"][:, :2].astype(np.float64), arrays["ft"]
    p = template - template.mean(0)
    low, high = template[:, 1].min(), template[:, 1].max()
    u = 0.5 + np.arctan2(p[:, 0], p[:, 2]) / (2 * np.pi)
    return np.stack([u, (template[:, 1] - low) / max(high - low, 1e-9)], 1), faces


def _regions(template: np.ndarray, faces: np.ndarray, weights: np.ndarray, landmarks: dict[str, Landmarks]) -> np.ndarray:
    """Eyeballs are what only an eye joint moves; the skin is labelled where the file brings all 68 landmarks."""
    names: np.ndarray = np.full(len(faces), "face", dtype="<U16")
    if "ibug68" in landmarks and bool(landmarks["ibug68"].valid.all()):
        points = landmarks["ibug68"]
        corners = template[faces[points.face_ids.numpy()]]
        names = rig.label_skin(template[faces].mean(1), (corners * points.barycentrics.numpy()[..., None]).sum(1)).astype("<U16")
    for joint, side in ((_EYE_LEFT, "left"), (_EYE_RIGHT, "right")):
        names[np.all(weights[faces, joint] > 0.99, axis=1)] = f"eyeball_{side}"
    return np.array([REGIONS.index(n) for n in names], np.uint8)
