"""Poses and expressions refined by dense correspondence over time.

Every picture is compared with the reference picture of the same camera (the frame in which the face is at rest), carried
along by the tracked mesh: the optical flow that is left says, for every visible point of the skin, by how much the mesh
misses it, to a fraction of a pixel and without drift, since nothing is chained from frame to frame. The same
camera sees both pictures, so neither calibration nor colour differences enter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from avatars.head import HeadModel
from avatars.types import Cameras, HeadPose, Identity
from capture.track.energies import rays
from capture.track.warp import Flow, SeenMesh, even_out, sample, see_mesh, warp
from capture.workers import crew

Picture = Callable[[int, int], np.ndarray]
"""Greyscale uint8 [H, W] of (frame, camera)."""


@dataclass(frozen=True)
class Correspondences:
    """Where the pictures show P vertices of the head."""

    vertex_ids: Tensor  # [P]
    rays: Tensor  # [T, C, P, 2]
    weights: Tensor  # [T, C, P] 0–1


CELL_MM = {"lips": 2.0, "eyelids": 2.0, "nose": 3.5, "brows": 3.0, "face": 4.5, "ears": 6.0, "neck": 9.0, "scalp": 10.0, "torso": 16.0}
"""Size of the cells of which one vertex each is followed, by region."""


def followed_vertices(head: HeadModel, shape: Tensor, most: int = 1600) -> Tensor:
    """Ids [P ≤ about `most`] of vertices spread over the skin (and the clothes) of `shape` [V, 3], denser where more happens."""
    factor = 1.0
    while len(ids := _one_per_cell(head, shape, factor)) > most * 1.1:
        factor *= (len(ids) / most) ** 0.5
    return ids


def _one_per_cell(head: HeadModel, shape: Tensor, factor: float) -> Tensor:
    chosen: list[Tensor] = []
    for name, size in CELL_MM.items():
        ids = head.region_vertices(name)
        if not len(ids):
            continue
        cells = torch.floor(shape[ids] / (size * 1e-3 * factor)).long()
        keys = (cells[:, 0] * 4096 + cells[:, 1]) * 4096 + cells[:, 2]
        _, inverse = torch.unique(keys, return_inverse=True)
        center = (cells + 0.5) * size * 1e-3 * factor
        order = torch.argsort((shape[ids] - center).norm(dim=-1), descending=True)
        first = torch.full((int(inverse.max()) + 1,), -1, dtype=torch.int64)
        first[inverse[order]] = order  # the last written, the one nearest to the middle of its cell, stays
        chosen.append(ids[first])
    return torch.unique(torch.cat(chosen))


def correspond(
    head: HeadModel, identity: Identity, pose: HeadPose, reference: int, cameras: Cameras, picture: Picture, vertex_ids: Tensor,
    sigma: float, *, fine: bool = True, workers: int = 2, tick: Callable[[], None] = lambda: None,
) -> Correspondences:  # fmt: skip
    """Follow vertices [P] from the `reference` frame into all T frames of `pose`, in every camera; sigma: see `even_out`, fine: see `Flow`."""
    shaped = head.shape(identity)
    T, C = len(pose), len(cameras)
    triangles = head.faces.numpy()
    Ks, views = cameras.Ks.numpy(), cameras.viewmats.numpy()
    at_rest = see_mesh(head.vertices(shaped, pose[reference])[0], head.faces, cameras)
    originals = [even_out(picture(reference, c), sigma) for c in range(C)]
    ids = vertex_ids.numpy()
    pixels = np.zeros((T, C, len(ids), 2), np.float32)
    weights = np.zeros((T, C, len(ids)), np.float32)

    def follow(t: int) -> None:
        flow = Flow(fine)
        seen: list[SeenMesh] = see_mesh(head.vertices(shaped, pose[t])[0], head.faces, cameras)
        for c in range(C):
            carried, valid = warp(originals[c], at_rest[c], (Ks[c], views[c]), seen[c], triangles)
            moved, trust = flow(carried, valid, even_out(picture(t, c), sigma))
            at = seen[c].pixels[ids]
            pixels[t, c] = at + sample(moved, at)
            weights[t, c] = sample(trust, at) * seen[c].visible[ids] * at_rest[c].visible[ids]
        tick()

    with crew(workers) as pool:
        for done in [pool.submit(follow, t) for t in range(T)]:
            done.result()
    return Correspondences(vertex_ids, rays(torch.from_numpy(pixels), cameras), torch.from_numpy(weights))
