"""What the outline of the person says about the surface.

The mesh must project inside the foreground: what sticks out has to go in. Where nothing but skin makes the outline (jaw, neck, ears),
the mesh's own outline has to lie on it. Where hair may cover the head, the outline says nothing more than the first.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from avatars.head import HeadModel
from avatars.types import Cameras
from capture.track.shape import SurfaceEvidence
from capture.track.warp import sample, see_mesh, vertex_normals
from cuda_ext import ops

BARE = ("face", "ears", "neck", "nose", "lips", "torso")
"""Regions whose outline is that of the person: skin, and the clothes, which the torso stands for."""

REACH = {"torso": 0.05}
"""How many metres from the mesh's outline the person's is believed to be its own; elsewhere 0.02 (hair, hands)."""

_CONTOUR_REACH = 0.06  # metres


def silhouette_evidence(head: HeadModel, vertices: Tensor, cameras: Cameras, masks: Sequence[np.ndarray]) -> SurfaceEvidence:
    """Displacements along the normals that bring the mesh to the outlines `masks` (uint8 [H, W], one per camera)."""
    normals = vertex_normals(vertices, head.faces)
    skin = torch.zeros(head.V, dtype=torch.bool)
    skin[head.region_vertices(*BARE, "scalp", "eyelids", "brows")] = True
    bare = torch.zeros(head.V, dtype=torch.bool)
    bare[head.region_vertices(*BARE)] = True
    bare[head.region_vertices("scalp")] = False  # its border may be covered
    brows = head.region_vertices("brows")
    if len(brows):
        bare &= head.template[:, 1] < head.template[brows, 1].min()  # a fringe may hang over the forehead
    reach = torch.full((head.V,), 0.02)
    for name, metres in REACH.items():
        reach[head.region_vertices(name)] = metres
    total, weight = torch.zeros(head.V), torch.zeros(head.V)
    for c, seen in enumerate(see_mesh(vertices, head.faces, cameras)):
        inside = signed_distance(masks[c] > 127)
        height, width = inside.shape
        x, y = seen.pixels[:, 0], seen.pixels[:, 1]
        in_picture = torch.from_numpy((x > 2) & (x < width - 2) & (y > 2) & (y < height - 2))
        local = vertices @ cameras.viewmats[c, :3, :3].T + cameras.viewmats[c, :3, 3]
        metres = torch.from_numpy(sample(inside, seen.pixels)) * local[:, 2] / cameras.Ks[c, 0, 0]
        view = torch.nn.functional.normalize(cameras.centers[c] - vertices, dim=-1)
        sideways = (1 - (view * normals).sum(-1).square()).clamp_min(0).sqrt()  # how much a displacement shows in the picture
        contour = (sideways > 0.97) & torch.from_numpy(_on_outline(seen.face_ids >= 0, seen.pixels))
        outside = (metres < 0) & (sideways > 0.6)
        counts = in_picture & skin & (metres.abs() < reach) & (outside | (contour & bare))
        amount = counts.float()
        total += amount * metres / sideways.clamp_min(0.5)
        weight += amount
    return SurfaceEvidence(torch.where(weight > 0, total / weight.clamp_min(1), 0), (weight / 2).clamp_max(1), normals)


def contour_evidence(head: HeadModel, vertices: Tensor, cameras: Cameras, masks: Sequence[np.ndarray], *regions: str) -> SurfaceEvidence:
    """The same, but measured at every pixel of the mesh's own outline that shows `regions`, and shared out to the triangles' corners.

    Large triangles (clothes: 20 mm) have few vertices on an outline, but many pixels. The open rim of the mesh is no outline of the person.
    """
    normals = vertex_normals(vertices, head.faces)
    wanted = torch.zeros(head.F, dtype=torch.bool)
    wanted[head.region_faces(*regions)] = True
    wanted &= ~_rim_vertices(head)[head.faces].any(1)
    total, weight = torch.zeros(head.V), torch.zeros(head.V)
    for c, seen in enumerate(see_mesh(vertices, head.faces, cameras)):
        edge = _outline_pixels(seen.face_ids >= 0)
        edge[edge] = wanted.numpy()[seen.face_ids[edge]]
        corners = head.faces[torch.from_numpy(seen.face_ids[edge]).long()]  # [P, 3]
        mix = torch.from_numpy(seen.barycentrics[edge])
        normal = torch.nn.functional.normalize((normals[corners] * mix[..., None]).sum(1), dim=-1)
        view = torch.nn.functional.normalize(cameras.centers[c] - (vertices[corners] * mix[..., None]).sum(1), dim=-1)
        sideways = (1 - (view * normal).sum(-1).square()).clamp_min(0).sqrt()
        pixels = torch.from_numpy(signed_distance(masks[c] > 127)[edge]) - 0.5  # the last covered pixel's centre lies half a pixel inside
        metres = pixels * torch.from_numpy(seen.depth[edge]) / cameras.Ks[c, 0, 0]
        # Far from its own outline the mesh meets that of something else: an arm, a chair, hair.
        trust = (metres.abs() < _CONTOUR_REACH) * (sideways > 0.8) / (1 + (metres / (0.5 * _CONTOUR_REACH)) ** 2)
        for k in range(3):
            total.index_add_(0, corners[:, k], mix[:, k] * trust * metres / sideways.clamp_min(0.5))
            weight.index_add_(0, corners[:, k], mix[:, k] * trust)
    return SurfaceEvidence(torch.where(weight > 0, total / weight.clamp_min(1e-6), 0), (weight / 4).clamp_max(1), normals)


def merged(first: SurfaceEvidence, second: SurfaceEvidence, trust: float) -> SurfaceEvidence:
    """Both pieces of evidence about the same mesh, the second one with its weights times `trust`."""
    w = second.weight * trust
    total = first.weight + w
    displacement = (first.displacement * first.weight + second.displacement * w) / total.clamp_min(1e-9)
    return SurfaceEvidence(displacement, total.clamp_max(1), first.normals)


def signed_distance(mask: np.ndarray) -> np.ndarray:
    """[H, W] pixels to the border of a bool mask, positive inside."""
    inside = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    outside = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5)
    return np.where(mask, inside - 0.5, 0.5 - outside).astype(np.float32)


def _outline_pixels(covered: np.ndarray) -> np.ndarray:
    """[H, W] bool: pixels of the mesh that have a neighbour without; the picture's border is no outline."""
    inner = cv2.erode(cv2.copyMakeBorder(covered.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_REPLICATE), np.ones((3, 3), np.uint8))
    edge = covered & (inner[1:-1, 1:-1] == 0)
    edge[:3], edge[-3:], edge[:, :3], edge[:, -3:] = False, False, False, False
    return edge


def _rim_vertices(head: HeadModel) -> Tensor:
    """[V] bool: vertices at an open edge of the mesh."""
    edges = ops.mesh_edges(head.faces)
    rim = torch.zeros(head.V, dtype=torch.bool)
    rim[edges[edges[:, 3] < 0, :2].reshape(-1)] = True
    return rim


def _on_outline(covered: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """[V] bool: whether a vertex projects onto the border of what the mesh covers."""
    return np.abs(sample(signed_distance(covered), pixels)) < 2.0
