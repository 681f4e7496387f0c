"""ICT-FaceKit (MIT, USC Institute for Creative Technologies) as a head, from an npz that holds its arrays in metres.

Its 57 shapes become the 52 ARKit expressions: pairs that ARKit does not split are added up, tongueOut is empty, pupil
dilation and cheekRaiser are left out. It has no skeleton: the joints come from its jaw hinge and the centres of its
eyeballs, the jaw's skin weights from how far each vertex follows the hinge when the mouth opens. Expression offsets are
what remains after those rotations, so that at weight 1 the shape is the artist's.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from avatars.errors import UserError
from avatars.head import rig
from avatars.head.model import ARKIT, JOINTS, PARENTS, REGIONS, HeadModel, Landmarks
from avatars.head.storage import require

_KEYS = (
    "template", "identity_basis", "expression_basis", "expression_names", "faces", "uv", "uv_faces", "landmark_ids",
    "part_names", "part_vertex_ranges", "jaw_hinge", "jaw_open_deg",
)  # fmt: skip

# Parts that are kept; the films and cards around the eyes are translucent and would hide them.
_PARTS = (
    "face", "head_neck", "mouth_socket", "eye_socket_left", "eye_socket_right", "gums_tongue", "teeth",
    "sclera_left", "iris_left", "sclera_right", "iris_right",
)  # fmt: skip


def recognises(arrays: dict[str, np.ndarray]) -> bool:
    """Whether these are the arrays of an ICT-FaceKit npz."""
    return {"part_names", "part_vertex_ranges", "identity_basis"} <= arrays.keys()


def head_from_arrays(arrays: dict[str, np.ndarray], path: Path) -> HeadModel:
    """The ICT head; UserError names what is missing or inconsistent."""
    require(arrays, _KEYS, path)
    try:
        return _build(arrays)
    except (ValueError, IndexError, KeyError) as error:
        raise UserError(f"The ICT-FaceKit head {path} is inconsistent: {error}.") from None


def _build(arrays: dict[str, np.ndarray]) -> HeadModel:
    ranges = dict(zip((str(n) for n in arrays["part_names"]), arrays["part_vertex_ranges"].tolist(), strict=True))
    total = len(arrays["template"])
    part_of = np.full(total, "", dtype="<U20")
    for part in _PARTS:
        part_of[slice(*ranges[part])] = part
    kept = np.flatnonzero(part_of != "")
    renumber = np.full(total, -1)
    renumber[kept] = np.arange(len(kept))
    whole = (renumber[arrays["faces"]] >= 0).all(1)
    faces = renumber[arrays["faces"][whole]]
    parts = part_of[kept]
    rest = arrays["template"][kept].astype(np.float64)
    landmark_ids = renumber[arrays["landmark_ids"]]
    shapes = {str(n): s[kept].astype(np.float64) for n, s in zip(arrays["expression_names"], arrays["expression_basis"], strict=True)}

    hinge = arrays["jaw_hinge"].astype(np.float64)
    opening = np.array([np.deg2rad(float(arrays["jaw_open_deg"])), 0, 0])
    eyes = {side: np.isin(parts, [f"sclera_{side}", f"iris_{side}"]) for side in ("left", "right")}
    centers = {side: _sphere_center(rest[parts == f"sclera_{side}"]) for side in eyes}
    chin, ear_z = rest[landmark_ids[8]], rest[landmark_ids[[0, 16]], 2].mean()
    head_joint = np.array([0, rest[landmark_ids[2], 1], ear_z - 0.035])
    neck_joint = np.array([0, chin[1] - 0.03, ear_z - 0.055])
    joints = np.stack([neck_joint, head_joint, hinge, centers["left"], centers["right"]])

    weights, lower = _skin_weights(rest, faces, parts, shapes["jawOpen"], opening, hinge, chin, eyes)
    basis = np.zeros((len(ARKIT), len(rest), 3))
    rotations = np.zeros((len(ARKIT), len(joints), 3))
    for e, name in enumerate(ARKIT):
        offsets = _arkit_shape(name, shapes, rest)
        if name == "jawOpen":
            rotations[e, JOINTS.index("jaw")] = opening
        if name.startswith("eyeLook"):
            side = "left" if name.endswith("Left") else "right"
            moved = rest[eyes[side]] + offsets[eyes[side]]
            rotations[e, JOINTS.index(f"eye_{side}")] = rig.rigid_fit(rest[eyes[side]], moved, centers[side])
        basis[e] = rig.inverse_skinning(rest, rest + offsets, weights, rotations[e], joints, PARENTS)
        if name.startswith("eyeLook"):
            basis[e, eyes["left"] | eyes["right"]] = 0  # the linear shape shrinks the ball; the rotation does not

    identity = arrays["identity_basis"][:, kept].astype(np.float32)
    joint_identity = np.stack([
        identity[:, parts == "head_neck"].mean(1),
        identity[:, landmark_ids[[0, 16]]].mean(1),
        identity[:, landmark_ids[[1, 15]]].mean(1),
        identity[:, eyes["left"]].mean(1),
        identity[:, eyes["right"]].mean(1),
    ], 1)  # fmt: skip
    joint_identity[:, :3, 0] = 0

    uv_faces = arrays["uv_faces"][whole]
    used = np.unique(uv_faces)
    order = np.full(len(arrays["uv"]), 0)
    order[used] = np.arange(len(used))
    tensor = torch.from_numpy
    corner = np.eye(3, dtype=np.float32)[_corner(faces, landmark_ids)[1]]
    return HeadModel(
        name="ict-facekit",
        template=tensor(rest.astype(np.float32)),
        faces=tensor(faces.astype(np.int64)),
        uvs=tensor(_atlas(arrays["uv"][used])),
        uv_faces=tensor(order[uv_faces].astype(np.int64)),
        identity_basis=tensor(identity),
        expression_basis=tensor(basis.astype(np.float32)),
        expression_names=ARKIT,
        joint_template=tensor(joints.astype(np.float32)),
        joint_identity_basis=tensor(joint_identity.astype(np.float32)),
        expression_rotations=tensor(rotations.astype(np.float32)),
        skin_weights=tensor(weights.astype(np.float32)),
        region_names=REGIONS,
        face_regions=tensor(_regions(rest, faces, parts, landmark_ids, lower, centers)),
        landmarks={
            "ibug68": Landmarks(
                tensor(_corner(faces, landmark_ids)[0].astype(np.int64)), tensor(corner), torch.ones(len(landmark_ids), dtype=torch.bool)
            )
        },
    )


def _sphere_center(points: np.ndarray) -> np.ndarray:
    """Least-squares centre [3] of a sphere through points [N, 3]."""
    A = np.concatenate([2 * points, np.ones((len(points), 1))], 1)
    return np.linalg.lstsq(A, (points**2).sum(1), rcond=None)[0][:3]


def _arkit_shape(name: str, shapes: dict[str, np.ndarray], rest: np.ndarray) -> np.ndarray:
    """Offsets [V, 3] of an ARKit expression from ICT's shapes, which are split with _L and _R."""
    for ours, theirs in (("Left", "_L"), ("Right", "_R")):
        if name.endswith(ours) and (split := name.removesuffix(ours) + theirs) in shapes:
            return shapes[split]
    if name in shapes:
        return shapes[name]
    if f"{name}_L" in shapes:
        return shapes[f"{name}_L"] + shapes[f"{name}_R"]
    if name == "tongueOut":
        return np.zeros_like(rest)
    raise ValueError(f"no shape for {name}; it has {', '.join(shapes)}")


def _skin_weights(rest, faces, parts, jaw_open, opening, hinge, chin, eyes) -> tuple[np.ndarray, np.ndarray]:
    """Weights [V, 6], and the mask [V] of what belongs to the lower jaw."""
    edges = rig.edges_of(faces)
    follows = rig.follow_ratio(rest, jaw_open, opening, hinge)
    skin = np.isin(parts, ["face", "head_neck", "mouth_socket"])
    follows[~(skin | np.isin(parts, ["gums_tongue", "teeth"]))] = 0
    label = rig.components(faces, len(rest))
    lower = np.zeros(len(rest), bool)
    for component in np.unique(label[parts == "teeth"]):
        lower[label == component] = follows[label == component].mean() > 0.5
    lower |= (parts == "gums_tongue") & (follows > 0.5)
    jaw = np.where(parts == "teeth", lower.astype(float), follows)
    jaw[skin] = rig.smoothed(jaw, edges, 4)[skin]
    nape = np.array([0, chin[1] + 0.02, -0.085])
    neck, head = rig.neck_weights(rest, chin - [0, 0.02, 0.03], nape, 0.09)
    inner = ~np.isin(parts, ["face", "head_neck"])
    neck[inner], head[inner] = 0, 1
    weights = np.zeros((len(rest), len(JOINTS) + 1))
    weights[:, 0], weights[:, 1], weights[:, -1] = neck, head, 1 - neck - head
    weights[:, :] *= (1 - jaw)[:, None]
    weights[:, JOINTS.index("jaw")] = jaw
    for side, mask in eyes.items():
        weights[mask] = 0
        weights[mask, JOINTS.index(f"eye_{side}")] = 1
    return weights / weights.sum(1, keepdims=True), lower


def _regions(rest, faces, parts, landmark_ids, lower, centers) -> np.ndarray:
    """Region index [F] of every triangle."""
    part = parts[faces[:, 0]]
    middle = rest[faces].mean(1)
    names = np.full(len(faces), "face", dtype="<U16")
    skin = np.isin(part, ["face", "head_neck"])
    names[skin] = rig.label_skin(middle[skin], rest[landmark_ids])
    names[np.isin(part, ["mouth_socket"])] = "mouth_bag"
    names[np.isin(part, ["eye_socket_left", "eye_socket_right"])] = "eyelids"
    is_lower = lower[faces[:, 0]]
    names[part == "teeth"] = np.where(is_lower, "teeth_lower", "teeth_upper")[part == "teeth"]
    names[part == "gums_tongue"] = np.where(is_lower, "gums_lower", "gums_upper")[part == "gums_tongue"]
    label = rig.components(faces, len(rest))[faces[:, 0]]
    gums = part == "gums_tongue"
    deepest = [c for c in np.unique(label[gums]) if np.abs(middle[label == c, 0]).max() < 0.024]
    names[gums & np.isin(label, deepest)] = "tongue"
    for side in ("left", "right"):
        ball = np.isin(part, [f"sclera_{side}", f"iris_{side}"])
        names[ball] = f"eyeball_{side}"
        # The sclera's front is a clear cornea over the iris: on an opaque mesh it carries the colours of what lies behind.
        off_axis = np.linalg.norm((middle - centers[side])[:, :2], axis=1)
        front = ball & (middle[:, 2] > centers[side][2])
        names[front & (off_axis < 0.0062)] = f"iris_{side}"
        names[front & (off_axis < 0.0021)] = f"pupil_{side}"
    return np.array([REGIONS.index(n) for n in names], np.uint8)


def _corner(faces: np.ndarray, vertex_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each vertex, a triangle that uses it and which corner it is."""
    where = [np.argwhere(faces == v)[0] for v in vertex_ids]
    return np.array([w[0] for w in where]), np.array([w[1] for w in where])


def _atlas(uv: np.ndarray) -> np.ndarray:
    """UDIM tiles side by side → one unit square, a 4 × 3 grid of tiles."""
    tile = np.clip(np.floor(uv[:, 0]), 0, 11)
    column, row = tile % 4, tile // 4
    local = np.clip(np.stack([uv[:, 0] - tile, uv[:, 1]], 1), 0, 1)
    return ((local + np.stack([column, row], 1)) / np.array([4, 3])).astype(np.float32)
