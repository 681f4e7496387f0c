"""Distances from points to a triangle mesh, on the CPU with numpy.

Candidates are the triangles around the nearest vertices, then the distance to each of them is exact (Ericson, Real-Time
Collision Detection 2005, 5.1.5), which is exact for meshes whose triangles are not much longer than their neighbours.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree


def closest_points(points: np.ndarray, vertices: np.ndarray, faces: np.ndarray, neighbours: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """The nearest surface point of each of P points: its distance [P] and its triangle [P].

    points [P, 3], vertices [V, 3], faces [F, 3]. Vertices that belong to no face are ignored.
    """
    used = np.unique(faces)
    incident = _incident(faces, len(vertices))  # [V, M], -1 where there are fewer
    nearest = cKDTree(vertices[used]).query(points, k=min(neighbours, len(used)))[1].reshape(len(points), -1)
    best, face = np.full(len(points), np.inf), np.full(len(points), -1)
    for column in range(nearest.shape[1]):
        candidates = incident[used[nearest[:, column]]]  # [P, M]
        for j in range(candidates.shape[1]):
            ids = np.flatnonzero(candidates[:, j] >= 0)
            triangle = vertices[faces[candidates[ids, j]]]  # [., 3, 3]
            d = np.linalg.norm(points[ids] - _closest_on_triangle(points[ids], triangle), axis=-1)
            better = d < best[ids]
            best[ids[better]], face[ids[better]] = d[better], candidates[ids[better], j]
    return best, face


def _incident(faces: np.ndarray, count: int) -> np.ndarray:
    flat = faces.reshape(-1)
    order = np.argsort(flat, kind="stable")
    per_vertex = np.bincount(flat, minlength=count)
    slot = np.arange(len(flat)) - np.repeat(np.cumsum(per_vertex) - per_vertex, per_vertex)
    table = np.full((count, int(per_vertex.max())), -1)
    table[flat[order], slot] = order // 3
    return table


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
