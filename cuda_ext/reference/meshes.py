"""The mesh rasteriser in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor


def rasterize_mesh(
    vertices: Tensor,  # [C, V, 3] camera space
    faces: Tensor,  # [F, 3]
    Ks: Tensor,  # [C, 3, 3]
    width: int,
    height: int,
    near: float = 0.01,
    cull_back: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Nearest triangle at pixel centres; returns face_ids [C,H,W] int32, barycentrics [C,H,W,3], depth [C,H,W].

    Homogeneous edge functions (Olano & Greer 1997): for the rows (p0 p1 p2) of a triangle in (x, y, z) pixel-space,
    the barycentrics at a pixel ray r are those that solve b·P ∝ r, so that triangles need no clipping.
    """
    C, dtype, device = len(vertices), vertices.dtype, vertices.device
    face_ids = torch.full((C, height, width), -1, dtype=torch.int32, device=device)
    barycentrics = torch.zeros(C, height, width, 3, dtype=dtype, device=device)
    depth = torch.zeros(C, height, width, dtype=dtype, device=device)
    nearest = torch.full((C, height, width), torch.inf, dtype=dtype, device=device)
    ys, xs = torch.meshgrid(
        torch.arange(height, dtype=dtype, device=device) + 0.5, torch.arange(width, dtype=dtype, device=device) + 0.5, indexing="ij"
    )
    ray = torch.stack([xs, ys, torch.ones_like(xs)], -1)  # [H, W, 3]
    for camera in range(C):
        corners = (vertices[camera] @ Ks[camera].T)[faces]  # [F, 3 corners, 3]: (u z, v z, z)
        for index, P in enumerate(corners):
            det = torch.linalg.det(P)
            if not torch.isfinite(det) or det == 0 or (cull_back and det > 0) or (P[:, 2] < near).all():
                continue
            if (P[:, 2] >= near).all():  # the pixels whose centres the triangle can cover
                uv = P[:, :2] / P[:, 2:]
                left, top = ((uv.min(0).values - 0.5).ceil().clamp_min(0)).long().tolist()
                right, bottom = ((uv.max(0).values + 0.5).floor().clamp_max(max(width, height))).long().tolist()
                box = (slice(top, min(bottom, height)), slice(left, min(right, width)))
            else:
                box = (slice(0, height), slice(0, width))
            edges = ray[box] @ torch.linalg.inv(P)  # [h, w, 3], barycentrics divided by depth
            inverse_depth = edges.sum(-1)
            z = 1 / inverse_depth
            inside = (edges >= 0).all(-1) & (inverse_depth > 0)
            closer = inside & (z >= near) & (z < nearest[camera][box])
            nearest[camera][box][closer] = z[closer]
            face_ids[camera][box][closer] = index
            barycentrics[camera][box][closer] = (edges * z[..., None])[closer]
            depth[camera][box][closer] = z[closer]
    return face_ids, barycentrics, depth
