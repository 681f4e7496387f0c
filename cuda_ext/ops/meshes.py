"""Triangles to images."""

from __future__ import annotations

import torch
from torch import Tensor

from cuda_ext import native, reference
from cuda_ext.ops.checks import check_size, expect, same_device


def rasterize_mesh(
    vertices: Tensor,  # [C, V, 3]
    faces: Tensor,  # [F, 3] int64
    Ks: Tensor,  # [C, 3, 3]
    width: int,
    height: int,
    *,
    near: float = 0.01,
    cull_back: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Nearest triangle at each pixel centre: face_ids [C,H,W] int32 (-1: none), barycentrics [C,H,W,3], depth [C,H,W].

    Vertices are in CAMERA space (OpenCV axes, z forward), one set per camera; triangles may straddle the camera plane.
    Barycentrics are perspective-correct (interpolate any vertex attribute with them); depth is camera z, 0 where nothing is.
    `cull_back` drops triangles whose outward normal (counter-clockwise corners) points away from the camera. No gradients.
    """
    C, V, F = len(vertices), vertices.shape[1], len(faces)
    expect("vertices", vertices, (C, V, 3))
    expect("faces", faces, (F, 3), torch.int64)
    expect("Ks", Ks, (C, 3, 3))
    check_size(width, height)
    same_device(vertices, faces, Ks)
    vertices, Ks = vertices.detach(), Ks.detach()
    if torch.compiler.is_compiling():
        return tuple(torch.ops.avatars.rasterize_mesh(vertices, faces, Ks, width, height, near, cull_back))
    library = native.pick("av_mesh_rasterize", vertices, Ks)
    if library is None:
        return reference.rasterize_mesh(vertices, faces, Ks, width, height, near, cull_back)
    return native.rasterize_mesh(library, vertices, faces, Ks, width, height, near, cull_back)
