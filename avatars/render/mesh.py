"""Shaded pictures of a mesh: contact sheets, overlays on photographs, label maps. Not differentiable.

Light comes from the camera's side, a little from above; surfaces seen from behind are drawn in a dark magenta, so that
holes and inverted triangles show.
"""

from __future__ import annotations

import torch
from torch import Tensor

from avatars.head.model import HeadModel
from avatars.transforms import transform
from avatars.types import Cameras, Image, Mesh
from cuda_ext.ops import rasterize_mesh

REGION_COLORS = {
    "face": (0.82, 0.64, 0.54), "lips": (0.72, 0.40, 0.38), "eyelids": (0.76, 0.57, 0.49), "nose": (0.83, 0.63, 0.53),
    "brows": (0.36, 0.25, 0.19), "ears": (0.80, 0.60, 0.51), "scalp": (0.30, 0.22, 0.17), "neck": (0.79, 0.62, 0.52),
    "torso": (0.33, 0.38, 0.45), "mouth_bag": (0.45, 0.19, 0.18), "tongue": (0.72, 0.36, 0.36),
    "teeth_upper": (0.93, 0.90, 0.82), "teeth_lower": (0.92, 0.89, 0.81), "gums_upper": (0.72, 0.40, 0.40),
    "gums_lower": (0.72, 0.40, 0.40), "eyeball_left": (0.94, 0.93, 0.91), "eyeball_right": (0.94, 0.93, 0.91),
    "iris_left": (0.33, 0.27, 0.19), "iris_right": (0.33, 0.27, 0.19), "pupil_left": (0.03, 0.03, 0.03),
    "pupil_right": (0.03, 0.03, 0.03),
}  # fmt: skip
"""A plausible default colour for each region of a head, RGB in 0–1."""

BACK = (0.35, 0.05, 0.35)


def head_colors(head: HeadModel, colors: dict[str, tuple[float, float, float]] | None = None) -> Tensor:
    """[F, 3] default colours of a head's triangles, some of them replaced by `colors` (by region name)."""
    table = {**REGION_COLORS, **(colors or {})}
    rows = [table.get(name, (0.7, 0.7, 0.7)) for name in head.region_names]
    return torch.tensor(rows, dtype=head.template.dtype, device=head.template.device)[head.face_regions.long()]


def render_mesh(
    mesh: Mesh,
    cameras: Cameras,
    colors: Tensor | None = None,
    background: tuple[float, float, float] = (1.0, 1.0, 1.0),
    *,
    shaded: bool = True,
    smooth: bool = True,
    backfaces: bool = True,
    supersample: int = 1,
) -> Image:
    """Draw a mesh through every camera.

    mesh.vertices [1, V, 3] (seen by all cameras) or [C, V, 3] (one pose per camera); colors [F, 3] per triangle or
    [V, 3] per vertex (told apart by length; triangles win), default grey. `smooth` shades with vertex normals;
    `backfaces=False` shades surfaces that face away like any other. Returns colour, alpha (1 where the mesh is) and depth.
    """
    C = len(cameras)
    vertices = mesh.vertices.detach()
    if vertices.ndim != 3 or vertices.shape[0] not in (1, C) or vertices.shape[2] != 3:
        raise ValueError(f"render_mesh: vertices must be [1,V,3] or [{C},V,3], got {list(vertices.shape)}")
    faces = mesh.faces
    grey = torch.full((len(faces), 3), 0.7, dtype=vertices.dtype, device=vertices.device)
    paint: Tensor = grey if colors is None else colors
    if paint.ndim != 2 or paint.shape[0] not in (len(faces), vertices.shape[1]) or paint.shape[1] != 3:
        raise ValueError(f"render_mesh: colors must be [{len(faces)},3] or [{vertices.shape[1]},3], got {list(paint.shape)}")
    s = supersample
    width, height = cameras.width * s, cameras.height * s
    Ks = cameras.resized(width, height).Ks
    points = transform(cameras.viewmats, vertices.expand(C, -1, -1))
    face_ids, barycentrics, depth = rasterize_mesh(points.contiguous(), faces, Ks, width, height)
    hit = face_ids >= 0
    color = torch.tensor(background, dtype=points.dtype, device=points.device).expand(C, height, width, 3).clone()
    for c in range(C):
        ids = face_ids[c][hit[c]].long()
        bary = barycentrics[c][hit[c]]
        color[c][hit[c]] = _shade(points[c], faces, ids, bary, paint, shaded, smooth, backfaces)
    alpha = hit[..., None].to(points.dtype)
    depth = depth[..., None]
    if s > 1:
        color, alpha, depth = (_shrink(x, s) for x in (color, alpha, depth))
    return Image(color, alpha, depth)


def _shade(points: Tensor, faces: Tensor, ids: Tensor, bary: Tensor, colors: Tensor, shaded: bool, smooth: bool, backfaces: bool) -> Tensor:
    corners = points[faces]  # [F, 3, 3]
    flat = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    base = colors[ids] if len(colors) == len(faces) else (colors[faces[ids]] * bary[..., None]).sum(1)
    if not shaded:
        return base
    view = torch.nn.functional.normalize((corners[ids] * bary[..., None]).sum(1), dim=-1)
    away = (flat[ids] * view).sum(-1) > 0
    normal = flat[ids]
    if smooth:
        at_vertices = torch.zeros_like(points)
        for k in range(3):
            at_vertices.index_add_(0, faces[:, k], flat)
        normal = (torch.nn.functional.normalize(at_vertices, dim=-1)[faces[ids]] * bary[..., None]).sum(1)
    normal = torch.nn.functional.normalize(normal, dim=-1)
    key = torch.tensor([0.35, -0.55, -0.76], dtype=points.dtype, device=points.device)  # from above, to the camera's right
    light = 0.30 + 0.45 * (normal @ key).clamp_min(0) + 0.30 * (-(normal * view).sum(-1)).clamp_min(0)
    lit = (base * light[:, None]).clamp(0, 1)
    if backfaces:
        lit = torch.where(away[:, None], torch.tensor(BACK, dtype=points.dtype, device=points.device), lit)
    return lit


def _shrink(x: Tensor, s: int) -> Tensor:
    C, H, W, K = x.shape
    return x.reshape(C, H // s, s, W // s, s, K).mean((2, 4))
