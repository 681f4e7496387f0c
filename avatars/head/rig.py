"""Deriving what a face model does not bring: skin weights, joint rotations and region labels, from its geometry alone.

Numpy, metres, axes of `avatars.head.model`. Used when a head is built or read, never per frame.
"""

from __future__ import annotations

import numpy as np


def smoothstep(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below `low`, 1 above `high`, cubic between."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def rotation(axis_angle: np.ndarray) -> np.ndarray:
    """Rodrigues' formula for one axis-angle [3] → [3, 3]."""
    angle = float(np.linalg.norm(axis_angle))
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = axis_angle / angle
    K = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * K + (1 - np.cos(angle)) * K @ K


def rigid_fit(source: np.ndarray, target: np.ndarray, center: np.ndarray) -> np.ndarray:
    """Axis-angle [3] of the rotation about `center` that best maps source [N, 3] to target [N, 3] (Kabsch 1976)."""
    a, b = source - center, target - center
    U, _, Vt = np.linalg.svd(b.T @ a)
    D = np.diag([1, 1, np.sign(np.linalg.det(U @ Vt))])
    R = U @ D @ Vt
    sine = np.array([R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1]]) / 2
    length = float(np.linalg.norm(sine))
    return sine if length < 1e-12 else sine / length * np.arctan2(length, (np.trace(R) - 1) / 2)


def edges_of(faces: np.ndarray) -> np.ndarray:
    """Undirected edges [N, 2] of triangles or quads [F, K], each once."""
    pairs = np.concatenate([np.stack([faces[:, k], np.roll(faces, -1, 1)[:, k]], 1) for k in range(faces.shape[1])])
    return np.unique(np.sort(pairs, 1), axis=0)


def smoothed(values: np.ndarray, edges: np.ndarray, rounds: int, amount: float = 0.5) -> np.ndarray:
    """Average values [V] or [V, K] with their neighbours along edges [N, 2], `rounds` times."""
    shape = values.shape
    values = values.reshape(len(values), -1).astype(np.float64)
    degree = np.bincount(edges.ravel(), minlength=len(values)).astype(np.float64)[:, None]
    for _ in range(rounds):
        total = np.zeros_like(values)
        for k in range(values.shape[1]):
            total[:, k] = np.bincount(edges[:, 0], values[edges[:, 1], k], len(values)) + np.bincount(
                edges[:, 1], values[edges[:, 0], k], len(values)
            )
        values = np.where(degree > 0, (1 - amount) * values + amount * total / np.maximum(degree, 1), values)
    return values.reshape(shape)


def components(faces: np.ndarray, count: int) -> np.ndarray:
    """Label [V] of the connected component of each vertex (its smallest vertex id)."""
    label = np.arange(count)
    edges = edges_of(faces)
    while True:
        low = np.minimum(label[edges[:, 0]], label[edges[:, 1]])
        new = label.copy()
        np.minimum.at(new, edges[:, 0], low)
        np.minimum.at(new, edges[:, 1], low)
        new = new[new]
        if np.array_equal(new, label):
            return label
        label = new


def follow_ratio(rest: np.ndarray, offsets: np.ndarray, axis_angle: np.ndarray, pivot: np.ndarray) -> np.ndarray:
    """How far each vertex [V, 3] with `offsets` [V, 3] follows a rotation about `pivot`, in 0–1: a jaw's skin weights.

    Damped by 2 mm, so that points close to the axis, which hardly move, do not follow.
    """
    rigid = (rest - pivot) @ rotation(axis_angle).T + pivot - rest
    return np.clip((offsets * rigid).sum(-1) / ((rigid**2).sum(-1) + 0.002**2), 0, 1)


def neck_weights(rest: np.ndarray, chin: np.ndarray, nape: np.ndarray, base: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights ([V] neck, [V] head) that change smoothly from the shoulders (root) over the neck to the head.

    The head begins above the slanted plane through `chin` and `nape` (points [3]); the neck ends `base` metres below
    that plane, where the shoulders begin.
    """
    direction = (chin - nape)[[1, 2]]
    normal = np.array([direction[1], -direction[0]])
    normal = normal / np.linalg.norm(normal) * np.sign(direction[1])
    height = (rest[:, [1, 2]] - nape[[1, 2]]) @ normal
    head = smoothstep(height, -0.55 * base, 0.1 * base)
    below = smoothstep(height, -1.05 * base, -0.35 * base)
    return below * (1 - head), head


def inverse_skinning(
    rest: np.ndarray, target: np.ndarray, weights: np.ndarray, rotations: np.ndarray, joints: np.ndarray, parents: tuple[int, ...]
) -> np.ndarray:
    """Offsets [V, 3] for which skinning `rest + offsets` with axis-angles [J, 3] about joints [J, 3] gives `target`."""
    A = np.zeros((len(joints) + 1, 3, 4))
    A[-1, :, :3] = np.eye(3)
    for j, parent in enumerate(parents):
        R = rotation(rotations[j])
        t = joints[j] - R @ joints[j]
        up = A[parent] if parent >= 0 else A[-1]
        A[j, :, :3] = up[:, :3] @ R
        A[j, :, 3] = up[:, :3] @ t + up[:, 3]
    blended = np.einsum("vj,jab->vab", weights, A)
    return np.linalg.solve(blended[:, :, :3], (target - blended[:, :, 3])[..., None])[..., 0] - rest


def _inside(points: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    """Even-odd test of points [N, 2] in a polygon [K, 2]."""
    x, y = points[:, :1], points[:, 1:]
    a, b = polygon, np.roll(polygon, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        crosses = ((a[:, 1] > y) != (b[:, 1] > y)) & (x < (b[:, 0] - a[:, 0]) * (y - a[:, 1]) / (b[:, 1] - a[:, 1]) + a[:, 0])
    return crosses.sum(1) % 2 == 1


def _grown(polygon: np.ndarray, by: float) -> np.ndarray:
    """A star-shaped polygon pushed `by` metres away from its centre."""
    center = polygon.mean(0)
    rays = polygon - center
    return polygon + by * rays / np.linalg.norm(rays, axis=1, keepdims=True)


def label_skin(centers: np.ndarray, ibug68: np.ndarray) -> np.ndarray:
    """Region name [F] of skin triangles at `centers` [F, 3], from the 68 landmark positions [68, 3] of the same head.

    Lips, lids, nose and brows are polygons seen from the front; the hairline lies as far above the brows as the chin
    lies below the nose (the thirds of the face); ears are boxes around the widest points; the neck is below the jaw line.
    """
    p, c = ibug68[:, :2], centers[:, :2]
    front = centers[:, 2] > ibug68[[36, 45], 2].mean() - 0.012
    labels = np.full(len(centers), "face", dtype="<U12")
    brow_y, chin, nose_base = p[17:27, 1].mean(), ibug68[8], p[33, 1]
    hairline = brow_y + 1.02 * (nose_base - chin[1])
    eyes, widest = ibug68[36:48].mean(0), np.abs(centers[:, 0])

    side = (centers[:, 1] > p[51, 1]) & (centers[:, 1] < brow_y + 0.01) & (centers[:, 2] < ibug68[[0, 16], 2].mean() + 0.01)
    ear_x = widest[side].max()
    ear = centers[side & (widest > ear_x - 0.006)].copy()
    ear[:, 0] = 0
    ear_center = (ear.min(0) + ear.max(0)) / 2
    # The nape and the underside of the jaw: from the chin backwards and up to below the ears.
    jaw_slope = (ear_center[1] - 0.045 - (chin[1] - 0.002)) / (ear_center[2] - (chin[2] - 0.012))
    jaw_line = chin[1] - 0.002 + jaw_slope * (centers[:, 2] - (chin[2] - 0.012))
    behind = centers[:, 2] < ear_center[2]
    below = np.where(behind, centers[:, 1] < ear_center[1] - 0.045, centers[:, 1] < np.minimum(jaw_line, ear_center[1]))
    slant = hairline - 0.35 * np.clip(ibug68[27, 2] - 0.015 - centers[:, 2], 0, None)
    temple = centers[:, 2] < ear_center[2] + 0.022
    labels[(centers[:, 1] > slant) | (temple & (centers[:, 1] > ear_center[1] + 0.012)) | behind] = "scalp"
    labels[below] = "neck"
    rel = np.abs(centers - np.array([0, ear_center[1], ear_center[2]]))
    labels[(rel[:, 1] < 0.038) & (rel[:, 2] < 0.026) & (widest > ear_x - 0.017)] = "ears"
    labels[(np.abs(c[:, 0] - p[27, 0]) < 0.02) & front & _inside(c, _nose(p))] = "nose"
    for outer in (p[17:22], p[22:27]):
        y = np.interp(c[:, 0], outer[:, 0], outer[:, 1])
        inside = (np.abs(c[:, 0]) > np.abs(outer[:, 0]).min() - 0.002) & (np.abs(c[:, 0]) < np.abs(outer[:, 0]).max() - 0.003)
        inside &= c[:, 0] * outer[:, 0].mean() > 0
        labels[inside & (c[:, 1] > y - 0.0075) & (c[:, 1] < y + 0.0015) & front] = "brows"  # the points lie on its upper edge
    for lids in (p[36:42], p[42:48]):
        labels[_inside(c, _grown(lids, 0.0065)) & front & (centers[:, 2] > eyes[2] - 0.02)] = "eyelids"
    labels[_inside(c, _grown(p[48:60], 0.001)) & front] = "lips"
    return labels


def _nose(p: np.ndarray) -> np.ndarray:
    """Outline [K, 2] of the nose seen from the front: the bridge between the eyes, the wings, the base."""
    bridge = 0.006
    wing = 0.006
    return np.array([
        [p[27, 0] + bridge, p[27, 1]], [p[28, 0] + bridge + 0.003, p[28, 1]], [p[35, 0] + wing, p[30, 1]],
        [p[35, 0] + wing, p[33, 1] - 0.001], [p[33, 0], p[33, 1] - 0.003], [p[31, 0] - wing, p[33, 1] - 0.001],
        [p[31, 0] - wing, p[30, 1]], [p[28, 0] - bridge - 0.003, p[28, 1]], [p[27, 0] - bridge, p[27, 1]],
    ])  # fmt: skip
