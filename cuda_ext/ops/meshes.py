"""Triangles to images, with gradients to their vertices inside of them and at their silhouettes."""

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
    A centre on an edge or a corner belongs to exactly one of the triangles around it, on every device the same (include/coverage.h).
    `cull_back` drops triangles whose outward normal (counter-clockwise corners) points away from the camera. Gradients of
    barycentrics and depth to vertices and Ks, for the triangle that is seen; `antialias` has those of being seen.
    """
    C, V, F = len(vertices), vertices.shape[1], len(faces)
    expect("vertices", vertices, (C, V, 3))
    expect("faces", faces, (F, 3), torch.int64)
    expect("Ks", Ks, (C, 3, 3))
    check_size(width, height)
    _check_near(near)
    same_device(vertices, faces, Ks)
    if torch.compiler.is_compiling():
        return tuple(torch.ops.avatars.rasterize_mesh(vertices, faces, Ks, width, height, near, cull_back))
    library = native.pick("av_mesh_rasterize", vertices, Ks)
    if library is None:
        return reference.rasterize_mesh(vertices, faces, Ks, width, height, near, cull_back)
    return native.rasterize_mesh(library, vertices, faces, Ks, width, height, near, cull_back)


def interpolate(
    attributes: Tensor,  # [V, D] for all cameras, or [C, V, D]
    faces: Tensor,  # [F, 3] int64
    face_ids: Tensor,  # [C, H, W] int32
    barycentrics: Tensor,  # [C, H, W, 3]
) -> Tensor:
    """Vertex attributes at the pixels of `rasterize_mesh`: Σ_k barycentric_k · attributes[face_k], [C,H,W,D], 0 where nothing is.

    Gradients to the attributes and to the barycentrics.
    """
    C, height, width = face_ids.shape
    if attributes.dim() not in (2, 3) or attributes.shape[-1] < 1 or (attributes.dim() == 3 and len(attributes) != C):
        raise ValueError(f"attributes must be [V,D] or [{C},V,D] with D > 0, got {list(attributes.shape)}")
    expect("faces", faces, (len(faces), 3), torch.int64)
    expect("face_ids", face_ids, (C, height, width), torch.int32)
    expect("barycentrics", barycentrics, (C, height, width, 3), attributes.dtype)
    check_size(width, height)
    same_device(attributes, faces, face_ids, barycentrics)
    if torch.compiler.is_compiling():
        return torch.ops.avatars.interpolate(attributes, faces, face_ids, barycentrics)[0]
    library = native.pick("av_interpolate_forward", attributes)
    if library is None:
        return reference.interpolate(attributes, faces, face_ids, barycentrics)
    return native.interpolate(library, attributes, faces, face_ids, barycentrics)


def mesh_edges(faces: Tensor) -> Tensor:
    """The edges of triangles [F, 3] for `antialias`, once per topology: [E, 4] int64.

    Both ends, then the third corner of the triangle at either side; the second is -1 where there is one triangle only. Of an edge
    that more than two share, two count.
    """
    if faces.dim() != 2 or faces.shape[1] != 3 or faces.dtype != torch.int64:
        raise ValueError(f"faces must be int64 [F,3], got {faces.dtype} {list(faces.shape)}")
    corners = torch.cat([faces.roll(-shift, 1) for shift in range(3)])  # end, end, third
    corners = corners[corners[:, 0] != corners[:, 1]]
    if not len(corners):
        return faces.new_zeros(0, 4)
    low, high = corners[:, :2].min(1).values, corners[:, :2].max(1).values
    key = low * (int(high.max()) + 1) + high
    order = key.argsort(stable=True)
    counts = torch.unique(key, return_counts=True)[1]
    start = counts.cumsum(0) - counts
    second = corners[order[(start + 1).clamp_max(len(order) - 1)], 2]
    return torch.cat([corners[order[start]], torch.where(counts > 1, second, -1)[:, None]], 1)


def antialias(
    image: Tensor,  # [C, H, W, D]
    depth: Tensor,  # [C, H, W]
    vertices: Tensor,  # [C, V, 3]
    edges: Tensor,  # [E, 4] int64
    Ks: Tensor,  # [C, 3, 3]
    *,
    near: float = 0.01,
    cull_back: bool = False,
) -> Tensor:
    """Blend an image of a mesh across its silhouettes by how much each pixel shows of what lies behind: [C,H,W,D].

    `depth`, `vertices` (camera space), `Ks`, `near` and `cull_back` as in `rasterize_mesh`, `edges` of `mesh_edges`. Where a silhouette
    edge passes between two neighbouring pixel centres, the share of the way that the nearer surface covers becomes a blend of
    the two; see include/mesh.h. Gradients to the image, and through the coverage to vertices and Ks: with an image of ones where
    face_ids ≥ 0, the antialiased mask moves with the outline. Vertices that are doubled along seams look like open borders.
    """
    C, height, width, D = image.shape
    expect("depth", depth, (C, height, width), image.dtype)
    expect("vertices", vertices, (C, vertices.shape[1], 3), image.dtype)
    expect("edges", edges, (len(edges), 4), torch.int64)
    expect("Ks", Ks, (C, 3, 3), image.dtype)
    check_size(width, height)
    _check_near(near)
    if D < 1:
        raise ValueError(f"image must be [C,H,W,D] with D > 0, got {list(image.shape)}")
    same_device(image, depth, vertices, edges, Ks)
    if torch.compiler.is_compiling():
        return torch.ops.avatars.antialias(image, depth, vertices, edges, Ks, near, cull_back)[0]
    library = native.pick("av_antialias_forward", image)
    if library is None:
        return reference.antialias(image, depth, vertices, edges, Ks, near, cull_back)
    return native.antialias(library, image, depth, vertices, edges, Ks, near, cull_back)


def _check_near(near: float) -> None:
    if not near > 0:
        raise ValueError(f"near must be in front of the camera, got {near}")
