"""Closing the default head's eyelids and lips exactly, on the template and on every person.

MakeHuman's lids end in rings of vertices around the eye: the first ring outside of the socket is the inner edge of the
margin. The Face Units' blink is made for eyes that are wide open, so on an average face the upper lid would fall several
millimetres below the lower one: here it is shortened so that the margins meet.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from avatars.head import rig

OVERLAP = 0.0005
"""Metres by which the upper margin ends below the lower one, so that no slit shows between their vertices."""

_REACH = 2e-4  # metres: vertices that a blink moves less than this are left alone


@dataclass(frozen=True)
class Margins:
    """The two margins of an eye, each ordered by x."""

    upper: np.ndarray  # [A] vertex ids
    lower: np.ndarray  # [B] vertex ids; the corners belong to both


def margins(template: np.ndarray, edges: np.ndarray, skin: np.ndarray, socket: np.ndarray) -> Margins:
    """The lid margins of the eye whose socket has the vertices `socket`, on the mesh with `edges` [N, 2]."""
    seam = np.intersect1d(skin, socket)
    touching = np.unique(np.concatenate([edges[np.isin(edges[:, 0], seam), 1], edges[np.isin(edges[:, 1], seam), 0]]))
    ring = np.setdiff1d(touching, np.union1d(seam, socket))
    p = template[ring]
    low, high = ring[p[:, 0].argmin()], ring[p[:, 0].argmax()]
    a, b = template[low], template[high]
    line = a[1] + (template[ring, 0] - a[0]) / (b[0] - a[0]) * (b[1] - a[1])
    corner = np.isin(ring, [low, high])
    order = ring[template[ring, 0].argsort()]
    above = set(ring[(template[ring, 1] > line) | corner].tolist())
    below = set(ring[(template[ring, 1] <= line) | corner].tolist())
    return Margins(np.array([v for v in order if v in above]), np.array([v for v in order if v in below]))


def between(x: np.ndarray, line: np.ndarray, template: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where x [N] falls on a line of vertices ordered by x: the two neighbours [N, 2] and their weights [N, 2]."""
    xs = template[line, 0]
    right = np.clip(np.searchsorted(xs, x), 1, len(xs) - 1)
    t = np.clip((x - xs[right - 1]) / np.maximum(xs[right] - xs[right - 1], 1e-9), 0, 1)
    return np.stack([line[right - 1], line[right]], 1), np.stack([1 - t, t], 1)


def blended(values: np.ndarray, ids: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Rows of values [V, 3] blended by pairs: [N, 3]."""
    return (values[ids] * weights[..., None]).sum(1)


def close_lids(template: np.ndarray, blink: np.ndarray, rims: Margins) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Blink offsets [V, 3] whose upper margin ends on the lower one, and the rows of a `Closures` that keep it so.

    Every vertex of the upper lid follows its column of the margin in the proportion in which the artist moved it.
    """
    length = np.linalg.norm(blink, axis=1)
    moving = np.flatnonzero((length > _REACH) & (blink[:, 1] < 0))
    upper, upper_weights = between(template[moving, 0], rims.upper, template)
    lower, lower_weights = between(blended(template, upper, upper_weights)[:, 0], rims.lower, template)
    margin_length = np.linalg.norm(blended(blink, upper, upper_weights), axis=1)
    shares = np.clip(length[moving] / np.maximum(margin_length, 0.001), 0, 1)
    # Beyond the corners of the eye the margin says nothing; fade the correction out there.
    ends = template[rims.upper[[0, -1]], 0]
    outside = np.maximum(np.maximum(ends[0] - template[moving, 0], template[moving, 0] - ends[1]), 0)
    shares *= 1 - rig.smoothstep(outside, 0.0, 0.008)
    target = blended(template + blink, lower, lower_weights) - [0, OVERLAP, 0]
    reached = blended(template + blink, upper, upper_weights)
    closed = blink.copy()
    closed[moving] += shares[:, None] * (target - reached)
    rows = {
        "vertices": moving, "shares": shares, "moving": upper, "moving_weights": upper_weights,
        "resting": lower, "resting_weights": lower_weights,
    }  # fmt: skip
    return closed, rows


def close_lips(template: np.ndarray, lip_skin: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """Offsets [V, 3] that bring the lips together at rest: MakeHuman's stay a millimetre apart beside the middle.

    lip_skin: vertex ids around the mouth, outside and just inside; lower [V]: how much each belongs to the lower jaw.
    """
    p = template[lip_skin]
    is_lower = lower[lip_skin] > 0.5
    half = np.abs(p[:, 0]).max()
    xs = np.linspace(-half, half, 41)
    width = xs[1] - xs[0]
    top, bottom = np.full(len(xs), np.nan), np.full(len(xs), np.nan)
    for k, x in enumerate(xs):
        near = np.abs(p[:, 0] - x) < 1.2 * width
        if (near & ~is_lower).any() and (near & is_lower).any():
            top[k], bottom[k] = p[near & ~is_lower, 1].min(), p[near & is_lower, 1].max()
    known = np.isfinite(top)
    gap = np.where(known, top - bottom, 0.0).clip(0) + 0.0003
    middle = np.interp(xs, xs[known], ((top + bottom) / 2)[known])
    gap = np.convolve(np.pad(gap, 1, mode="edge"), np.ones(3) / 3, "valid")
    result = np.zeros_like(template)
    around = np.flatnonzero((np.abs(template[:, 0]) < half + 0.004) & (np.abs(template[:, 1] - middle.mean()) < 0.02))
    q = template[around]
    here, line = np.interp(q[:, 0], xs, gap), np.interp(q[:, 0], xs, middle)
    fade = 1 - rig.smoothstep(np.abs(q[:, 1] - line), 0.002, 0.011)
    fade *= 1 - rig.smoothstep(np.abs(q[:, 0]), half, half + 0.004)
    fade *= rig.smoothstep(q[:, 2], p[:, 2].min() - 0.012, p[:, 2].min() - 0.004)
    side = np.where(lower[around] > 0.5, 1.0, -1.0)
    result[around, 1] = side * fade * here / 2
    return result
