"""Distances from points to a triangle mesh, on the CPU with numpy.

Candidates are the triangles whose centres are nearest; the distance to each of them is exact (Ericson, Real-Time Collision
Detection 2005, 5.1.5). That is exact for meshes whose neighbouring triangles are of similar size.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import KDTree


def closest_points(points: np.ndarray, vertices: np.ndarray, faces: np.ndarray, candidates: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """The nearest surface point of each of P points: its distance [P] and its triangle [P].

    points [P, 3], vertices [V, 3], faces [F, 3].
    """
    triangles = vertices[faces]  # [F, 3, 3]
    k = min(candidates, len(faces))
    ids = KDTree(triangles.mean(1)).query(points, k=k)[1].reshape(len(points), k)
    repeated = np.repeat(points, k, axis=0)
    nearest = _closest_on_triangle(repeated, triangles[ids.reshape(-1)])
    distance = np.linalg.norm(repeated - nearest, axis=-1).reshape(len(points), k)
    best = distance.argmin(1)
    rows = np.arange(len(points))
    return distance[rows, best], ids[rows, best]


def _closest_on_triangle(p: np.ndarray, triangle: np.ndarray) -> np.ndarray:
    """Nearest points [P, 3] on triangles [P, 3, 3]: inside by barycentrics, else the nearest of the three edges."""
    a, b, c = triangle[:, 0], triangle[:, 1], triangle[:, 2]
    ab, ac, ap = b - a, c - a, p - a
    d00, d01, d11 = (ab * ab).sum(-1), (ab * ac).sum(-1), (ac * ac).sum(-1)
    d20, d21 = (ap * ab).sum(-1), (ap * ac).sum(-1)
    det = np.maximum(d00 * d11 - d01 * d01, 1e-30)
    v, w = (d11 * d20 - d01 * d21) / det, (d00 * d21 - d01 * d20) / det
    best = a + v[:, None] * ab + w[:, None] * ac
    distance = np.where((v >= 0) & (w >= 0) & (v + w <= 1), np.linalg.norm(p - best, axis=-1), np.inf)
    for start, end in ((a, b), (b, c), (c, a)):
        edge = end - start
        s = np.clip(((p - start) * edge).sum(-1) / np.maximum((edge * edge).sum(-1), 1e-30), 0, 1)
        q = start + s[:, None] * edge
        d = np.linalg.norm(p - q, axis=-1)
        closer = d < distance
        best = np.where(closer[:, None], q, best)
        distance = np.where(closer, d, distance)
    return best
