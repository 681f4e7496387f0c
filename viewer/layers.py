"""Drawing one avatar in one pose through one camera: in colour, or one of the diagnostic layers. Pictures are float [H, W, 3]."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import torch
from torch import Tensor

from avatars.avatar import Avatar
from avatars.render import render
from avatars.render.ellipsoids import render_ellipsoids
from avatars.render.mesh import head_colors, render_mesh
from avatars.texture import render_textured
from avatars.transforms import project_points, transform
from avatars.types import Cameras, Gaussians, HeadPose, Mesh
from cuda_ext.ops import rasterize_mesh
from viewer.stage import Legend, Place, Request

Colour = tuple[float, float, float]  # RGB in 0–1
LINES = (0.35, 0.95, 0.75)
DOT = 0.0006  # metres: how large a Gaussian is drawn as a point
BARE = (0.16, 0.16, 0.18)  # a triangle without Gaussians
WIRE = (0.20, 0.22, 0.25)  # the surface that hides the lines behind it


def draw_layer(
    layer: str, avatar: Avatar, pose: HeadPose, gaussians: Gaussians, camera: Cameras, background: Colour, place: Place, backend: str,
    texture: Callable[[], Tensor],
) -> np.ndarray:  # fmt: skip
    """`layer` is one of `viewer.stage.LAYERS`; `gaussians` are those of `pose`; `texture()` the avatar's, baked when it is wanted first."""
    if layer == "Colour":
        return draw_color(avatar, gaussians, camera, background, backend)
    if layer == "Points":
        dots = replace(gaussians, scales=torch.full_like(gaussians.scales, DOT), opacities=torch.full_like(gaussians.opacities, 0.95))
        return draw_color(avatar, dots, camera, background, backend)
    if layer == "Ellipsoids":
        return _numpy(render_ellipsoids(gaussians, camera, background).color[0])
    if layer in ("Coverage", "Depth"):
        image = render(gaussians, camera, torch.zeros(3), backend)
        alpha = _numpy(image.alpha[0])
        if layer == "Coverage" or image.depth is None:
            return np.repeat(alpha, 3, 2)
        return depth_colors(_numpy(image.depth[0, ..., 0]), alpha, camera, background, place)
    if layer == "Textured mesh":
        return _numpy(render_textured(avatar, avatar.vertices(pose)[0], texture(), camera, background).color[0])
    mesh = Mesh(avatar.vertices(pose), avatar.head.faces)
    if layer == "Mesh":
        return _numpy(render_mesh(mesh, camera, head_colors(avatar.head), background).color[0])
    if layer == "Normals":
        return _numpy(render_mesh(mesh, camera, normal_colors(mesh), background, shaded=False).color[0])
    if layer == "Splats per triangle":
        return _numpy(render_mesh(mesh, camera, density_colors(avatar), background, shaded=False).color[0])
    if layer == "Wireframe":
        surface = _numpy(
            render_mesh(mesh, camera, mesh.vertices.new_tensor(WIRE).expand(len(mesh.faces), 3), background, shaded=False).color[0]
        )
        return draw_lines(surface, avatar, pose, camera, most=0.9)
    raise ValueError(f"no layer {layer!r}")


def legend_of(request: Request, avatar: Avatar, place: Place) -> Legend | None:
    """What the colours of a request's picture mean."""
    if request.mode == "Error":
        return Legend("Difference, mean of red, green and blue", "0", f"{255 / request.gain:.0f} of 255", _css(cv2.COLORMAP_INFERNO))
    if request.mode != "Render":
        return None
    if request.layer == "Splats per triangle":
        counts = splats_per_triangle(avatar)
        return Legend(
            f"Gaussians per triangle, {int((counts == 0).sum())} of {len(counts)} have none",
            "1",
            str(int(counts.max())),
            _css(cv2.COLORMAP_TURBO),
        )
    if request.layer == "Depth":
        return Legend("Depth, through the head", "near", f"{200 * place.radius:.0f} cm behind", tuple(reversed(_css(cv2.COLORMAP_TURBO))))
    if request.layer == "Coverage":
        return Legend("Coverage (alpha)", "0", "1", ("#000", "#fff"))
    if request.layer == "Normals":
        return Legend("Surface faces …", "the subject's right", "left; green: up, blue: forward", ("#008080", "#808080", "#ff8080"))
    return None


def splats_per_triangle(avatar: Avatar) -> Tensor:
    """[F] number of Gaussians bound to each triangle."""
    return torch.bincount(avatar.gaussians.face_ids, minlength=avatar.head.F)


def density_colors(avatar: Avatar) -> Tensor:
    """[F, 3] from blue (one Gaussian) to red (the most that a triangle has), logarithmic; dark where there is none."""
    counts = splats_per_triangle(avatar).cpu().numpy()
    level = np.log(np.maximum(counts, 1)) / max(np.log(max(counts.max(), 2)), 1e-9)
    colors = cv2.applyColorMap((level * 255).astype(np.uint8)[:, None], cv2.COLORMAP_TURBO)[:, 0, ::-1] / np.float32(255)
    colors[counts == 0] = BARE
    return torch.from_numpy(colors.astype(np.float32)).to(avatar.gaussians.means)


def draw_color(avatar: Avatar, gaussians: Gaussians, camera: Cameras, background: Colour, backend: str) -> np.ndarray:
    """Over the background; in the sensor's colours where the camera is one of the capture's."""
    affine = avatar.colors.get(camera.names[0])
    if affine is None:
        return _numpy(render(gaussians, camera, torch.tensor(background), backend).color[0])
    image = render(gaussians, camera, torch.zeros(3), backend)
    affine, alpha = affine.to(image.color), image.alpha[0]
    # The sensor's offset belongs to the head alone, so it counts as far as the head covers the pixel.
    color = image.color[0] @ affine[:, :3].T + alpha * affine[:, 3] + (1 - alpha) * torch.tensor(background).to(alpha)
    return _numpy(color.clamp(0, 1))


def draw_lines(picture: np.ndarray, avatar: Avatar, pose: HeadPose, camera: Cameras, most: float = 0.45) -> np.ndarray:
    """The edges of the triangles that the camera sees, over a picture [H, W, 3]: how well the mesh lies on the person.

    `most`: how much of a pixel a line covers where triangles are large.
    """
    vertices = avatar.vertices(pose)[0]
    points = transform(camera.viewmats.to(vertices), vertices[None]).contiguous()
    ids = rasterize_mesh(points, avatar.head.faces, camera.Ks.to(vertices), camera.width, camera.height)[0]
    seen = np.zeros(avatar.head.F + 1, bool)
    seen[ids.cpu().numpy().ravel()] = True  # −1, where there is nothing, is the last
    pixels, depth = project_points(vertices, camera.viewmats[0].to(vertices), camera.Ks[0].to(vertices))
    corners = pixels.cpu().numpy()[avatar.head.faces.cpu().numpy()]  # [F, 3, 2]
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    inside = seen[:-1] & (np.abs(corners) < 30_000).all((1, 2)) & (depth[avatar.head.faces] > 0.02).all(1).cpu().numpy()
    front = inside & (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0] < 0)  # outward faces turn clockwise in pixels, whose y points down
    mask = np.zeros(picture.shape[:2], np.uint8)
    shift = 3
    cv2.polylines(mask, list(np.round(corners[front] * (1 << shift)).astype(np.int32)), True, 255, 1, cv2.LINE_AA, shift)
    edges = np.linalg.norm(a[front], axis=1) if front.any() else np.ones(1)
    strength = min(most, most * 0.09 * float(np.median(edges)))  # fine meshes would cover everything
    cover = mask[..., None].astype(np.float32) * np.float32(strength / 255)
    return picture * (1 - cover) + np.asarray(LINES, np.float32) * cover


def depth_colors(depth: np.ndarray, alpha: np.ndarray, camera: Cameras, background: Colour, place: Place) -> np.ndarray:
    """Depth [H, W] from red (near side of the head) to blue (far side), where coverage [H, W, 1] is more than half."""
    view = camera.viewmats[0].double().cpu().numpy()
    middle = float((view[:3, :3] @ np.asarray(place.centre) + view[:3, 3])[2])
    level = np.clip((middle + place.radius - depth) / (2 * place.radius), 0, 1)
    color = cv2.applyColorMap((level * 255).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1] / np.float32(255)
    return np.where(alpha > 0.5, color, np.asarray(background, np.float32)).astype(np.float32)


def normal_colors(mesh: Mesh) -> Tensor:
    """[V, 3] the usual coding of directions as colours."""
    vertices, faces = mesh.vertices[0], mesh.faces
    a, b, c = vertices[faces].unbind(1)
    normals = torch.zeros_like(vertices)
    face_normals = torch.linalg.cross(b - a, c - a)
    for corner in range(3):
        normals.index_add_(0, faces[:, corner], face_normals)
    return torch.nn.functional.normalize(normals, dim=-1) * 0.5 + 0.5


def heat(error: np.ndarray, gain: float) -> np.ndarray:
    """Mean absolute error [H, W] in 0–1, times `gain`, from black to white."""
    level = (np.clip(error * gain, 0, 1) * 255).astype(np.uint8)
    return cv2.applyColorMap(level, cv2.COLORMAP_INFERNO)[..., ::-1].astype(np.float32) / 255


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.float().cpu().numpy()


def _css(colormap: int, steps: int = 9) -> tuple[str, ...]:
    levels = np.linspace(0, 255, steps).astype(np.uint8)[:, None]
    return tuple(f"rgb({r}, {g}, {b})" for b, g, r in cv2.applyColorMap(levels, colormap)[:, 0].tolist())
