"""Geometry of our own for what MakeHuman leaves plain: eyeballs with iris and pupil, teeth, gums.

Numpy, metres, axes of `avatars.head.model`. Every part is made once on the average head and then follows a person by a
map that is linear in that person's shape (an eyeball by centre and radius, a row of teeth by an affine map of its arch),
so that the linear identity model carries it exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

IRIS_RADIUS = 0.0060  # metres; adults' irises measure 11.7 ± 0.4 mm across (Rüfer, Schröder, Erb 2005)
PUPIL_RADIUS = 0.0021

# Crown widths along the arch and heights (mm), from the middle backwards: two incisors, canine, two premolars, two molars.
# Rounded from tables of dental anatomy; third molars are left out.
UPPER_WIDTHS = (8.5, 6.6, 7.6, 7.1, 6.8, 10.0, 9.5)
UPPER_HEIGHTS = (10.2, 8.8, 10.0, 8.4, 7.8, 7.2, 6.8)
LOWER_WIDTHS = (5.4, 5.9, 6.9, 7.0, 7.2, 11.0, 10.4)
LOWER_HEIGHTS = (8.8, 9.0, 10.0, 8.4, 7.8, 7.2, 6.8)
DEPTHS = (6.2, 6.0, 7.4, 8.2, 8.6, 10.4, 10.2)  # from lip to tongue
_EDGE = (0.20, 0.20, 0.28, 0.70, 0.75, 0.86, 0.86)  # share of the depth that the biting edge keeps


@dataclass(frozen=True)
class Part:
    """A piece of surface with its own texture square."""

    vertices: np.ndarray  # [N, 3]
    faces: np.ndarray  # [M, 3] counter-clockwise from outside
    uvs: np.ndarray  # [N, 2] in 0–1
    regions: np.ndarray  # [M] names


def eyeball(side: str, radius: float, segments: int = 24) -> Part:
    """A sphere of `radius` about the origin that looks along +z, with rings where pupil, iris and white meet."""
    pupil, iris = np.arcsin(PUPIL_RADIUS / radius), np.arcsin(IRIS_RADIUS / radius)
    rings = np.concatenate([
        [pupil * 0.55, pupil], np.linspace(pupil, iris, 5)[1:],
        np.linspace(iris, np.deg2rad(80), 6)[1:], np.linspace(np.deg2rad(80), np.pi, 6)[1:-1],
    ])  # fmt: skip
    angle = np.arange(segments) / segments * 2 * np.pi
    ring, turn = np.meshgrid(rings, angle, indexing="ij")
    unit = np.stack([np.sin(ring) * np.cos(turn), np.sin(ring) * np.sin(turn), np.cos(ring)], -1).reshape(-1, 3)
    unit = np.concatenate([unit, [[0, 0, 1], [0, 0, -1]]])
    front, back, n = len(unit) - 2, len(unit) - 1, len(rings)
    here = np.arange(segments)
    there = (here + 1) % segments
    faces = [np.stack([np.full(segments, front), here, there], 1)]
    kinds = ["pupil"] * segments
    for r in range(n - 1):
        a, b = r * segments + here, r * segments + there
        c, d = a + segments, b + segments
        faces += [np.stack([a, c, d], 1), np.stack([a, d, b], 1)]
        middle = (rings[r] + rings[r + 1]) / 2
        kinds += ["pupil" if middle < pupil else "iris" if middle < iris else "eyeball"] * (2 * segments)
    faces.append(np.stack([np.full(segments, back), (n - 1) * segments + there, (n - 1) * segments + here], 1))
    kinds += ["eyeball"] * segments
    polar = np.arccos(np.clip(unit[:, 2], -1, 1)) / np.pi
    uvs = 0.5 + 0.5 * polar[:, None] * _unit(unit[:, :2])
    return Part(unit * radius, np.concatenate(faces), uvs, np.array([f"{k}_{side}" for k in kinds]))


@dataclass(frozen=True)
class Arch:
    """The outer line of a row of teeth at its biting edge, in a horizontal plane: left half, mirrored to the right."""

    line: np.ndarray  # [P, 3] from the middle (x = 0) to the left end
    up: float  # +1 when the roots lie above the edge (upper row), −1 below

    def at(self, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points [N, 3] and outward horizontal normals [N, 3] at signed arc lengths s [N] from the middle, left positive."""
        flat = self.line * [1, 0, 1]
        length = np.r_[0, np.cumsum(np.linalg.norm(np.diff(flat, axis=0), axis=1))]

        def point(q):
            inside = np.stack([np.interp(np.abs(q), length, self.line[:, k]) for k in range(3)], 1)
            end = self.line[-1] - self.line[-2]
            inside += np.clip(np.abs(q) - length[-1], 0, None)[:, None] * end / np.linalg.norm(end)
            inside[:, 0] *= np.where(q < 0, -1, 1)
            return inside

        h = 0.004  # over the width of a tooth, so that the corners of the line do not show
        tangent = (point(s + h) - point(s - h)) * [1, 0, 1]
        tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
        return point(s), np.stack([-tangent[:, 2], np.zeros(len(s)), tangent[:, 0]], 1)

    @property
    def length(self) -> float:
        """Arc length of the left half."""
        return float(np.linalg.norm(np.diff(self.line * [1, 0, 1], axis=0), axis=1).sum())


def teeth(arch: Arch, widths: tuple[float, ...], heights: tuple[float, ...], region: str) -> Part:
    """Fourteen crowns along the arch, scaled to fill 97 % of it, each a closed shape that tapers to its biting edge."""
    half = np.array(widths) * 1e-3
    scale = 0.97 * arch.length / half.sum()
    half = half * scale
    starts = np.r_[0, np.cumsum(half)[:-1]]
    around, levels = 10, np.array([0.0, 0.12, 0.45, 1.0])  # from the biting edge to the neck of the tooth
    turn = np.arange(around) / around * 2 * np.pi
    vertices, faces, uvs = [], [], []
    for sign in (1, -1):
        for k, (start, width) in enumerate(zip(starts, half, strict=True)):
            s = sign * (start + width / 2)
            origin, out = (x[0] for x in arch.at(np.array([s])))
            along = np.cross([0, 1, 0], out)
            depth, height = DEPTHS[k] * 1e-3 * scale, heights[k] * 1e-3 * scale
            first = sum(len(v) for v in vertices)
            rings = []
            for level in levels:
                across = width / 2 * np.interp(level, [0, 0.12, 0.45, 1], [0.80, 0.95, 0.99, 0.80])
                deep = depth / 2 * np.interp(level, [0, 0.12, 0.6, 1], [_EDGE[k] * 0.7, _EDGE[k], 1, 0.92])
                # Superellipse: a rounded rectangle. The outer face keeps to the arch, slightly bulging.
                c, q = np.cos(turn), np.sin(turn)
                x = across * np.sign(c) * np.abs(c) ** 0.6
                z = deep * np.sign(q) * np.abs(q) ** 0.6
                inset = np.interp(level, [0, 0.12, 0.5, 1], [0.0008, 0.0004, 0.0, 0.0006])
                y = arch.up * height * level
                rings.append(origin + x[:, None] * along + (z - deep - inset)[:, None] * out + [0, y, 0])
            top = rings[0].mean(0) - arch.up * np.array([0, 0.0003, 0])
            vertices.append(np.concatenate([*rings, top[None]]))
            faces.append(_tube(len(levels), around, first, cap=True, flip=arch.up > 0))
            column = (k + 0.5) / 14 * sign + 0.5
            u = column + (np.tile(np.arange(around) / around, len(levels)) - 0.5) / 15
            v = np.repeat(levels, around)
            uvs.append(np.stack([np.r_[u, column], np.r_[v, 0] * 0.98 + 0.01], 1))
    f = np.concatenate(faces)
    return Part(np.concatenate(vertices), f, np.concatenate(uvs), np.full(len(f), region))


def gums(arch: Arch, widths: tuple[float, ...], heights: tuple[float, ...], region: str) -> Part:
    """A closed roll along the arch in which the crowns stand; its edge rises between the teeth."""
    half = np.array(widths) * 0.97 * arch.length / np.sum(widths)
    edges = np.r_[0, np.cumsum(half)]
    stations = np.unique(np.r_[edges, (edges[:-1] + edges[1:]) / 2])
    stations = np.r_[-stations[::-1], stations[1:]]
    depth = np.interp(np.abs(stations), edges[:-1] + half / 2, DEPTHS) * 1e-3
    neck = np.interp(np.abs(stations), edges[:-1] + half / 2, heights) * 1e-3
    between = np.isclose(np.abs(stations)[:, None], edges[None], atol=1e-9).any(1)
    point, out = arch.at(stations)
    # Profile of the roll: across (outward, in half depths) and above the neck (metres).
    profile = np.array([
        [0.35, 0.0], [1.0, 0.0], [1.16, 0.0022], [1.1, 0.005], [0.55, 0.007], [-0.75, 0.007], [-1.3, 0.004], [-1.1, 0.0005],
    ])  # fmt: skip
    rise = np.where(between, 0.0022, 0.0)
    thick = np.interp(np.abs(stations), [0, edges[-1]], [1.0, 0.5])  # low behind, where the cheeks are close
    ring = []
    for k in range(len(stations)):
        across = (profile[:, 0] - 1) * depth[k] / 2
        above = neck[k] * 0.86 + thick[k] * profile[:, 1] - rise[k] * (profile[:, 1] < 0.001)
        ring.append(point[k] + across[:, None] * out[k] + np.stack([0 * above, arch.up * above, 0 * above], 1))
    n = len(profile)
    caps = np.stack([ring[0].mean(0), ring[-1].mean(0)])
    vertices = np.concatenate([*ring, caps])
    faces = _tube(len(stations), n, 0, cap=False, flip=arch.up > 0)
    first, last, here = len(vertices) - 2, len(vertices) - 1, np.arange(n)
    there, base = (here + 1) % n, (len(stations) - 1) * n
    ends = [np.stack([np.full(n, first), here, there], 1), np.stack([np.full(n, last), base + there, base + here], 1)]
    if arch.up < 0:
        ends = [e[:, ::-1] for e in ends]
    f = np.concatenate([faces, *ends])
    u = np.repeat(np.linspace(0.02, 0.98, len(stations)), n)
    v = np.tile(np.linspace(0.02, 0.98, n), len(stations))
    uvs = np.stack([np.r_[u, 0.01, 0.99], np.r_[v, 0.5, 0.5]], 1)
    part = Part(vertices, f, uvs, np.full(len(f), region))
    return part if signed_volume(part) > 0 else Part(vertices, f[:, ::-1], uvs, part.regions)


def affine_map(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The least-squares affine map [4, 3] of source [N, 3] to target [N, 3]."""
    return np.linalg.lstsq(np.c_[source, np.ones(len(source))], target, rcond=None)[0]


def apply_affine(A: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points [N, 3] under an affine map [4, 3]."""
    return points @ A[:3] + A[3]


def signed_volume(part: Part) -> float:
    """Volume enclosed by a closed part, positive when its triangles face outwards."""
    a, b, c = (part.vertices[part.faces[:, k]] - part.vertices.mean(0) for k in range(3))
    return float((a * np.cross(b, c)).sum() / 6)


def _tube(rings: int, around: int, first: int, cap: bool, flip: bool) -> np.ndarray:
    """Triangles between consecutive rings of `around` vertices; `cap` closes ring 0 with the vertex after the last ring."""
    here = np.arange(around)
    there = (here + 1) % around
    faces = []
    for r in range(rings - 1):
        a, b = first + r * around + here, first + r * around + there
        c, d = a + around, b + around
        faces += [np.stack([a, b, d], 1), np.stack([a, d, c], 1)]
    if cap:
        faces.append(np.stack([np.full(around, first + rings * around), there + first, here + first], 1))
    f = np.concatenate(faces)
    return f[:, ::-1] if flip else f


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-12)
