"""Where the pictures show something that the mesh lacks: hair, collar, shoulders. Seeds for Gaussians off the surface.

Candidate points hang on triangles and move with them; a candidate stays when it falls inside the foreground masks of all pictures that
see it, in several poses. With many cameras that is the visual hull (Laurentini 1994); with one camera the turning head
supplies the views.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from avatars.gaussians import CanonicalGaussians, FaceFrames, bind_points, triangle_areas
from avatars.head import HeadModel
from avatars.transforms import project_points, transform
from avatars.types import Cameras
from cuda_ext import ops

HEIGHTS = {"scalp": 0.05, "torso": 0.03, "neck": 0.006, "ears": 0.004, "brows": 0.015, "face": 0.004}
"""How far above each region a candidate may lie, metres. Skin is where the mesh is: 20 mm over the neck filled a loose hull of
eight cameras with a second, fatter neck."""
INTERIOR = {
    "teeth_upper": (0.75, 0.7, 0.64), "teeth_lower": (0.7, 0.65, 0.6), "gums_upper": (0.45, 0.22, 0.2), "gums_lower": (0.4, 0.2, 0.18),
    "mouth_bag": (0.16, 0.07, 0.06), "tongue": (0.5, 0.26, 0.25),
}  # fmt: skip
"""Typical sRGB colours of what lips hide in most frames."""
_DEPTH_MARGIN = 0.004  # metres that a point may lie behind the mesh and still count as seen
RIM = (0.16, 0.08, 0.05)  # metres sideways, down, and to front and back beyond the mesh's open rim: shoulders that the head lacks


@dataclass(frozen=True)
class View:
    """One posed frame: the mesh and what its cameras saw."""

    vertices: Tensor  # [V, 3]
    frames: FaceFrames
    cameras: Cameras
    images: np.ndarray  # [C, H, W, 3] uint8
    masks: np.ndarray  # [C, H, W] uint8


def sample_shell(
    head: HeadModel,
    neutral: Tensor,
    frames: FaceFrames,
    views: list[View],
    count: int,
    generator: torch.Generator,
    degree: int = 1,
    depth: float = 0.012,
) -> CanonicalGaussians:
    """At most `count` Gaussians that fill the hull above the mesh to `depth` metres below the hull's surface.

    neutral [V, 3] and its `frames`: where candidates are drawn. Empty when the masks show nothing beyond the mesh.
    """
    points, face_ids = _candidates(head, neutral, frames, 12 * count, generator)
    template = bind_points(points, face_ids, torch.full_like(points, 1e-3), frames, 0.1, degree)
    inside = torch.ones(len(template), dtype=torch.bool)
    near_edge = torch.zeros_like(inside)
    seen_by: dict[str, Tensor] = {}  # camera → whether any pose showed the point to it
    for view in views:
        posed = posed_points(template, view.frames)
        hit, deep, visible = _inside(posed, view, depth)
        inside &= (hit | ~visible).all(0)
        near_edge |= (hit & ~deep).any(0)
        for name, row in zip(view.cameras.names, visible, strict=True):
            seen_by[name] = seen_by.get(name, torch.zeros_like(row)) | row
    # What few cameras have in their pictures is not bounded by masks: it would hang in the air for others. With a
    # share of 3 cameras of 14, a held-out one saw a cloud over the far shoulder.
    seen = torch.stack(list(seen_by.values())).float().mean(0)
    keep = (inside & near_edge & (seen >= 0.4)).nonzero()[:, 0]
    if len(keep) > count:
        keep = keep[torch.randperm(len(keep), generator=generator)[:count].sort().values]
    if not len(keep):
        return template[keep]
    kept = points[keep]
    # Size from the density that was reached: the distance to the fourth neighbour of a random subset.
    probe = kept[:: max(1, len(kept) // 500)]
    spacing = torch.cdist(probe, kept).topk(min(5, len(kept)), largest=False).values[:, -1].median().clamp(1e-3, 1.5e-2)
    return bind_points(kept, face_ids[keep], (0.5 * spacing).expand(len(kept), 3), frames, 0.3, degree)


def carve(gaussians: CanonicalGaussians, head: HeadModel, views: list[View]) -> CanonicalGaussians:
    """Without the Gaussians that most poses show outside of the masks of two cameras; of one, where fitted heads are loose.

    Scalp, neck and torso hang on few landmarks: they may stick out of the person.
    """
    if not views:
        return gaussians
    loose = torch.isin(gaussians.face_ids, head.region_faces("scalp", "neck", "torso"))
    votes = torch.zeros(len(gaussians))
    for view in views:
        hit, _, visible = _inside(posed_points(gaussians, view.frames), view, 0.0)
        outside = (visible & ~hit).sum(0)
        votes += (outside >= 2) | (outside >= 1) & (loose | (len(view.cameras) == 1))
    return gaussians[votes <= len(views) / 2]


def seed_colors(gaussians: CanonicalGaussians, head: HeadModel, views: list[View], fallback: float = 0.4) -> Tensor:
    """[N, 3] colours that the pictures show at each Gaussian, averaged over the cameras that see it.

    A camera sees it when its triangle faces the camera and no other part of the mesh is in front. What no camera sees takes
    the colour of the nearest that one does, or grey of `fallback`; inside of the mouth, which opens only in some frames, typical colours.
    """
    total = torch.zeros(len(gaussians), 3)
    weight = torch.zeros(len(gaussians), 1)
    for view in views:
        points = posed_points(gaussians, view.frames)
        normals = view.frames.normals[gaussians.face_ids]
        pixels, z = project_points(points, view.cameras.viewmats, view.cameras.Ks)
        height, width = view.masks.shape[1:]
        camera_vertices = transform(view.cameras.viewmats, view.vertices.expand(len(view.cameras), -1, -1)).contiguous()
        depth = ops.rasterize_mesh(camera_vertices, head.faces, view.cameras.Ks.contiguous(), width, height)[2]
        for c, center in enumerate(view.cameras.centers):
            x, y = pixels[c, :, 0].floor().long(), pixels[c, :, 1].floor().long()
            ok = (x >= 0) & (y >= 0) & (x < width) & (y < height) & (z[c] > 0)
            x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)
            front = depth[c, y, x]
            ok &= (front == 0) | (z[c] < front + _DEPTH_MARGIN)
            ray = torch.nn.functional.normalize(center - points, dim=-1)
            facing = (normals * ray).sum(-1).clamp_min(0) ** 3
            x, y = x.numpy(), y.numpy()
            w = (facing * ok * torch.from_numpy(view.masks[c][y, x] > 200))[:, None]
            total += w * torch.from_numpy(view.images[c][y, x]).float() / 255
            weight += w
    known = weight[:, 0] > 1e-3
    colors = torch.where(known[:, None], total / weight.clamp_min(1e-3), fallback)
    if views and bool(known.any()) and not bool(known.all()):
        points = posed_points(gaussians, views[0].frames)
        sources = known.nonzero()[:, 0][:: max(1, int(known.sum()) // 4000)]
        nearest = torch.cat([torch.cdist(block, points[sources]).argmin(1) for block in points[~known].split(2048)])
        colors[~known] = colors[sources[nearest]]
    for name, color in INTERIOR.items():
        if name in head.region_names:
            colors[head.face_regions[gaussians.face_ids] == head.region_names.index(name)] = torch.tensor(color)
    return colors


def posed_points(gaussians: CanonicalGaussians, frames: FaceFrames) -> Tensor:
    """[N, 3] world means of canonical Gaussians on posed triangles."""
    ids = gaussians.face_ids
    return frames.origins[ids] + frames.sizes[ids, None] * (frames.axes[ids] @ gaussians.means[..., None])[..., 0]


def _candidates(head: HeadModel, vertices: Tensor, frames: FaceFrames, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Points [M, 3] above the regions of HEIGHTS, and around the rim where the mesh ends; with their triangles [M]."""
    heights = torch.tensor([HEIGHTS.get(n, 0.0) for n in head.region_names])[head.face_regions.long()]
    weights = triangle_areas(vertices, head.faces) * heights
    face_ids = torch.multinomial(weights.double(), count, replacement=True, generator=generator)
    corners = vertices[head.faces[face_ids]]
    mix = torch.rand(count, 3, generator=generator)
    points = (corners * (mix / mix.sum(1, keepdim=True))[..., None]).sum(1)
    points = points + frames.normals[face_ids] * (torch.rand(count, 1, generator=generator) * heights[face_ids, None])
    rim_faces = _rim(head, vertices)
    if not len(rim_faces):
        return points, face_ids
    centres = frames.origins[rim_faces]
    low, high = centres.min(0).values - torch.tensor(RIM), centres.max(0).values + torch.tensor(RIM)
    high[1] = centres[:, 1].max() + 0.01  # the rim is the lower end
    rim_points = low + (high - low) * torch.rand(count, 3, generator=generator)
    nearest = torch.cat([torch.cdist(block, centres).argmin(1) for block in rim_points.split(4096)])
    return torch.cat([points, rim_points]), torch.cat([face_ids, rim_faces[nearest]])


def _rim(head: HeadModel, vertices: Tensor) -> Tensor:
    """Triangles of neck or torso that lie at an open edge of the mesh, in its lowest fifth."""
    edges = torch.cat([head.faces[:, [0, 1]], head.faces[:, [1, 2]], head.faces[:, [2, 0]]]).sort(1).values
    _, inverse, counts = edges.unique(dim=0, return_inverse=True, return_counts=True)
    open_edge = (counts[inverse] == 1).reshape(3, -1).any(0)
    y = vertices[head.faces].mean(1)[:, 1]
    low = y < y.min() + 0.2 * (y.max() - y.min())
    skin = torch.zeros(head.F, dtype=torch.bool)
    skin[head.region_faces("neck", "torso")] = True
    return (open_edge & low & skin).nonzero()[:, 0]


def _inside(points: Tensor, view: View, depth: float) -> tuple[Tensor, Tensor, Tensor]:
    """[C, N] bools: inside the mask; farther than `depth` metres inside it; within the picture at all."""
    import cv2

    pixels, z = project_points(points, view.cameras.viewmats, view.cameras.Ks)
    height, width = view.masks.shape[1:]
    hits, deeps, visibles = [], [], []
    for c in range(len(view.cameras)):
        # Distance to the outline; the picture's border is no outline.
        padded = cv2.copyMakeBorder((view.masks[c] > 127).astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_REPLICATE)
        distance = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
        x, y = pixels[c, :, 0].floor().long(), pixels[c, :, 1].floor().long()
        visible = (x >= 0) & (y >= 0) & (x < width) & (y < height) & (z[c] > 0)
        d = torch.from_numpy(distance[y.clamp(0, height - 1).numpy(), x.clamp(0, width - 1).numpy()])
        hits.append(d > 0)
        deeps.append(d > depth * view.cameras.Ks[c, 0, 0] / z[c].clamp_min(1e-3))
        visibles.append(visible)
    return torch.stack(hits), torch.stack(deeps), torch.stack(visibles)
