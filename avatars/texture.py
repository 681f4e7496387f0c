"""A texture for the head's mesh, baked from its Gaussians: what a renderer of triangles can show of an avatar.

The avatar is drawn in the neutral pose from all around; each texel takes its colour from the views that see it, the
straighter the more. What no view sees (the inside of the mouth) takes the mean colour of the Gaussians bound to its
triangle, or the region's default colour where there are none.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from avatars.avatar import Avatar
from avatars.render import render
from avatars.render.ellipsoids import base_colors
from avatars.render.mesh import head_colors
from avatars.transforms import look_at, project_points, transform
from avatars.types import Cameras, Image
from cuda_ext.ops import rasterize_mesh

LEAST_SIZE, MOST_SIZE = 128, 1024  # texels on a side; as fine as the Gaussians are in between
VIEW = 512  # pixels of a baking view
_DIRECTIONS = (*((yaw, 0) for yaw in range(0, 360, 45)), (0, 40), (120, 45), (240, 45), (0, -35), (40, -25), (-40, -25), (0, 85))  # degrees
_NEAR = 0.004  # metres: how far behind the nearest surface of a view a texel still counts as seen
_SHARPNESS = 6  # power of the cosine between surface and view


@torch.no_grad()
def bake_texture(avatar: Avatar, size: int = 0, backend: str = "auto") -> Tensor:
    """[size, size, 3] colours in 0–1 for the head's uvs (first row: v = 1). `size` 0: four texels per Gaussian along a side."""
    head = avatar.head
    size = size or min(max(4 * math.isqrt(len(avatar.gaussians)), LEAST_SIZE), MOST_SIZE)
    pose = head.neutral()
    vertices = avatar.vertices(pose)[0]
    gaussians = avatar.at(pose)
    flat = _laid_out(head.uvs, head.uv_faces)
    K = torch.diag(vertices.new_tensor([size, size, 1.0]))[None]
    ids, bary, _ = rasterize_mesh(flat[None], torch.arange(3 * head.F, device=flat.device).reshape(-1, 3), K, size, size)
    used = ids[0] >= 0
    triangle, weights = ids[0][used].long(), bary[0][used]
    points = _blend(vertices, head.faces, triangle, weights)  # [P, 3]
    normals = F.normalize(_blend(_normals(vertices, head.faces), head.faces, triangle, weights), dim=1)

    total = vertices.new_zeros(len(points), 3)
    sum_of_weights = vertices.new_zeros(len(points), 1)
    for camera in _cameras_around(vertices):
        picture = render(gaussians, camera, torch.zeros(3), backend)
        surface = rasterize_mesh(
            transform(camera.viewmats, vertices[None]).contiguous(), head.faces, camera.Ks, camera.width, camera.height
        )[2][0]
        pixels, depth = project_points(points, camera.viewmats[0], camera.Ks[0])
        rgba = _sample(torch.cat([picture.color[0], picture.alpha[0]], -1), pixels)
        nearest = _sample(surface[..., None], pixels)[:, 0]
        cosine = (normals * F.normalize(camera.centers[0] - points, dim=1)).sum(1)
        seen = (cosine > 0.1) & (depth < nearest + _NEAR) & (rgba[:, 3] > 0.8)
        weight = torch.where(seen, cosine.clamp_min(0) ** _SHARPNESS, 0)[:, None]
        total += weight * rgba[:, :3] / rgba[:, 3:].clamp_min(0.8)
        sum_of_weights += weight
    hidden = _triangle_colors(avatar)[triangle]
    texels = torch.where(sum_of_weights > 1e-4, total / sum_of_weights.clamp_min(1e-4), hidden)
    texture = vertices.new_zeros(size, size, 3)
    texture[used] = texels.clamp(0, 1)
    return _grown(texture, used, rounds=6)


@torch.no_grad()
def render_textured(avatar: Avatar, vertices: Tensor, texture: Tensor, camera: Cameras, background: tuple[float, float, float]) -> Image:
    """The head's mesh, vertices [V, 3], with a baked texture [S, S, 3], through one camera; not shaded, for light is baked in."""
    head = avatar.head
    ids, bary, depth = rasterize_mesh(
        transform(camera.viewmats.to(vertices), vertices[None]).contiguous(),
        head.faces,
        camera.Ks.to(vertices),
        camera.width,
        camera.height,
    )
    hit = ids[0] >= 0
    uv = _blend(head.uvs, head.uv_faces, ids[0][hit].long(), bary[0][hit])
    color = vertices.new_tensor(background).expand(camera.height, camera.width, 3).clone()
    size = texture.shape[0]
    color[hit] = _sample(texture, torch.stack([uv[:, 0], 1 - uv[:, 1]], 1) * size)
    return Image(color[None], hit[None, ..., None].to(color), depth[..., None])


def _cameras_around(vertices: Tensor) -> list[Cameras]:
    """Cameras far away on a sphere around the upper part of the mesh, each with a narrow view of all of it."""
    low, high = vertices.amin(0), vertices.amax(0)
    centre = (low + high) / 2
    radius = float((vertices - centre).norm(dim=1).max())
    half = math.radians(8)
    distance = radius / math.sin(half)
    focal = VIEW / 2 / math.tan(half)
    K = vertices.new_tensor([[focal, 0, VIEW / 2], [0, focal, VIEW / 2], [0, 0, 1]])
    cameras = []
    for yaw, pitch in _DIRECTIONS:
        a, b = math.radians(yaw), math.radians(pitch)
        direction = vertices.new_tensor([math.sin(a) * math.cos(b), math.sin(b), math.cos(a) * math.cos(b)])
        up = vertices.new_tensor([0.0, 1.0, 0.0])
        viewmat = look_at(centre + distance * direction, centre, up)
        cameras.append(Cameras(("bake",), K[None], viewmat[None].to(vertices), VIEW, VIEW))
    return cameras


def _laid_out(uvs: Tensor, uv_faces: Tensor) -> Tensor:
    """[3 F, 3] corners of the triangles in a camera's space that shows the texture, small ones in front.

    Where triangles overlap, the small ones are meant: the back pole of an eyeball is a fan across all its others.
    """
    corners = uvs[uv_faces]  # [F, 3, 2]
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    order = (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).abs().argsort().argsort()
    z = (1 + order / len(order))[:, None, None].to(uvs).expand(-1, 3, 1)
    return torch.cat([corners[..., :1] * z, (1 - corners[..., 1:]) * z, z], -1).reshape(-1, 3).contiguous()


def _blend(values: Tensor, faces: Tensor, triangle: Tensor, weights: Tensor) -> Tensor:
    return (values[faces[triangle]] * weights[..., None]).sum(1)


def _normals(vertices: Tensor, faces: Tensor) -> Tensor:
    a, b, c = vertices[faces].unbind(1)
    flat = torch.linalg.cross(b - a, c - a)
    normals = torch.zeros_like(vertices)
    for corner in range(3):
        normals.index_add_(0, faces[:, corner], flat)
    return normals


def _sample(picture: Tensor, pixels: Tensor) -> Tensor:
    """[P, K] bilinear values of picture [H, W, K] at pixels [P, 2] (x, y; first centre at 0.5)."""
    H, W, _ = picture.shape
    grid = 2 * pixels / pixels.new_tensor([W, H]) - 1
    return F.grid_sample(picture.permute(2, 0, 1)[None], grid[None, None], mode="bilinear", padding_mode="border", align_corners=False)[
        0, :, 0
    ].T


def _triangle_colors(avatar: Avatar) -> Tensor:
    """[F, 3] mean colour of the Gaussians bound to each triangle, weighted by opacity; the region's own where there are none."""
    g = avatar.gaussians
    colors = base_colors(avatar.at(avatar.head.neutral()))
    weights = g.logit_opacities.sigmoid()[:, None]
    total = colors.new_zeros(avatar.head.F, 3).index_add_(0, g.face_ids, colors * weights)
    count = colors.new_zeros(avatar.head.F, 1).index_add_(0, g.face_ids, weights)
    return torch.where(count > 1e-3, total / count.clamp_min(1e-3), head_colors(avatar.head).to(total))


def _grown(texture: Tensor, used: Tensor, rounds: int) -> Tensor:
    """The islands of the texture grown outwards, so that sampling across a seam finds colour."""
    color, cover = texture.permute(2, 0, 1)[None], used[None, None].to(texture)
    for _ in range(rounds):
        count = F.avg_pool2d(cover, 3, 1, 1)
        mean = F.avg_pool2d(color * cover, 3, 1, 1) / count.clamp_min(1e-6)
        color = torch.where(cover > 0, color, mean)
        cover = (count > 0).to(cover)
    return color[0].permute(1, 2, 0).contiguous()
