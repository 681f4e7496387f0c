"""The neutral surface from dense correspondence between calibrated cameras, on top of the fitted identity.

In one frame in which the face is at rest, each camera's picture is carried through the mesh into its neighbours and the optical
flow that remains is measured. A vertex followed from one camera into several others is triangulated; the median over cameras
of its displacement along the normal is evidence of where the surface is. Displacements tangential to the surface are
a matter of meaning, not of shape, and are left to the landmarks. The offsets that fit the evidence best while bending
little (squared Laplacian, Sorkine et al. 2004) are added to the identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import bmat, coo_matrix, csr_matrix, diags, identity
from scipy.sparse.linalg import splu
from torch import Tensor

from avatars.types import Cameras
from capture.track.energies import rays, reprojection
from capture.track.warp import Flow, sample, see_mesh, vertex_normals, warp


@dataclass(frozen=True)
class SurfaceEvidence:
    """How far the true surface lies outside of each vertex."""

    displacement: Tensor  # [V] metres along the normal
    weight: Tensor  # [V] 0 where nothing was measured, about 1 where three cameras agree
    normals: Tensor  # [V, 3]


def neighbours(cameras: Cameras, center: Tensor, count: int = 5, least: float = 6.0, most: float = 50.0) -> list[list[int]]:
    """For each camera, the nearest others by the angle (degrees) at `center` [3]."""
    view = torch.nn.functional.normalize(cameras.centers - center, dim=-1)
    angles = torch.rad2deg(torch.arccos((view @ view.T).clamp(-1, 1)))
    result = []
    for row in angles:
        order = [int(i) for i in row.argsort() if least <= float(row[i]) <= most]
        result.append(order[:count])
    return result


def surface_evidence(
    vertices: Tensor, faces: Tensor, skin: Tensor, cameras: Cameras, pictures: Sequence[np.ndarray], workers: int = 2
) -> SurfaceEvidence:
    """Measure with evened-out greyscale pictures of one moment.

    vertices [V, 3] of the current mesh; faces [F, 3] all triangles (they occlude); skin [S] the vertices to measure.
    """
    seen = see_mesh(vertices, faces, cameras)
    triangles = faces.numpy()
    normals = vertex_normals(vertices, faces)
    Ks, views = cameras.Ks.numpy(), cameras.viewmats.numpy()

    def from_anchor(anchor: int, others: list[int]) -> tuple[Tensor, Tensor]:
        flow = Flow()
        pixels, confidence = [seen[anchor].pixels[skin]], [seen[anchor].visible[skin]]
        for other in others:
            warped, valid = warp(pictures[anchor], seen[anchor], (Ks[anchor], views[anchor]), seen[other], triangles)
            moved, trust = flow(warped, valid, pictures[other])
            at = seen[other].pixels[skin]
            pixels.append(at + sample(moved, at))
            confidence.append(sample(trust, at) * seen[other].visible[skin])
        some = cameras[[anchor, *others]]
        observed = rays(torch.from_numpy(np.stack(pixels)).float(), some)[None]
        weight = torch.from_numpy(np.stack(confidence)).float()[None]
        weight[:, 1:] *= weight[:, :1]
        weight[:, 0] *= 3  # the anchor's own ray is exact
        delta, information = _triangulate_near(vertices[skin], observed, weight, some)
        # What one camera says along its line of sight counts by how well the others pin it down.
        view = torch.nn.functional.normalize(some.centers[0] - vertices[skin], dim=-1)
        along = (information @ view[..., None])[..., 0].mul(view).sum(-1)
        return (delta * normals[skin]).sum(-1), (along * 4).clamp(0, 1) * (weight[0, 1:].sum(0) > 0.5)

    jobs = [(a, others) for a, others in enumerate(neighbours(cameras, vertices[skin].mean(0))) if others]
    with ThreadPoolExecutor(max(1, workers)) as pool:
        estimates = list(pool.map(lambda job: from_anchor(*job), jobs))
    if not estimates:
        raise ValueError(f"surface_evidence: none of the {len(cameras)} cameras has a neighbour within 50°")
    values, w = (torch.stack(part) for part in zip(*estimates, strict=True))
    middle = _weighted_median(values, w)
    agree = (w / (1 + ((values - middle) / 1e-3) ** 2)).sum(0)
    displacement, weight = torch.zeros(len(vertices)), torch.zeros(len(vertices))
    displacement[skin], weight[skin] = middle, (agree / 1.5).clamp(0, 1) * (agree > 0.3)
    return SurfaceEvidence(displacement, weight, normals)


def _triangulate_near(points: Tensor, observed: Tensor, weight: Tensor, cameras: Cameras) -> tuple[Tensor, Tensor]:
    """Displacements [P, 3] that bring points [P, 3] onto their rays [1, C, P, 2], and the information matrices [P, 3, 3] (1/mm²)."""
    current = points[None]
    information = torch.zeros(len(points), 3, 3)
    for robust_mm in (4.0, 1.5, 1.0):
        quadratic, _ = reprojection(current, cameras, observed, weight, robust_mm)
        information = quadratic.A[0] * 1e-6
        weak = 1e-3 * torch.eye(3)  # holds what no second camera sees
        current = current - torch.linalg.solve(information + weak, quadratic.gradient[0, ..., None] * 1e-6)[..., 0]
    return (current - points)[0], information


def _weighted_median(values: Tensor, weights: Tensor) -> Tensor:
    """Median over dim 0 of values [N, P] with weights [N, P]."""
    order = values.argsort(0)
    cumulated = weights.gather(0, order).cumsum(0)
    half = cumulated[-1:] / 2
    index = (cumulated >= half).float().argmax(0, keepdim=True)
    return values.gather(0, order).gather(0, index)[0]


def bend_to(evidence: SurfaceEvidence, faces: Tensor, vertices: Tensor, stiffness: Tensor, limit: float = 0.03) -> Tensor:
    """Displacements [V, 3] that follow the evidence, bend little and are smooth where there is none.

    stiffness [V]: how much bending costs, about 1 on the face; `limit` metres bounds what is believed. Vertices of parts
    (components of the mesh) without evidence do not move.
    """
    V = len(vertices)
    L = laplacian(faces.numpy(), V)
    n = evidence.normals.double().numpy()
    d = evidence.displacement.clamp(-limit, limit).double().numpy()
    w = evidence.weight.double().numpy()
    bend = csr_matrix(diags(stiffness.double().numpy()) @ L)
    bend = bend.T @ bend
    # Unknowns in x, y, z blocks. A displacement along the normal is to be d; one along the surface costs a little, so that
    # vertices move along their normals where nothing else decides.
    outer = n[:, :, None] * n[:, None, :]
    data = w[:, None, None] * (outer + 0.05 * (np.eye(3) - outer))
    rest = bend + 1e-4 * identity(V)
    M = bmat([[diags(data[:, i, j]) + (rest if i == j else 0 * rest) for j in range(3)] for i in range(3)], format="csc")
    b = np.concatenate([w * d * n[:, i] for i in range(3)])
    solution = splu(M).solve(b).reshape(3, V).T
    return torch.from_numpy(solution).float()


def laplacian(faces: np.ndarray, count: int) -> csr_matrix:
    """Umbrella Laplacian [V, V]: a vertex minus the mean of its neighbours."""
    i = np.concatenate([faces[:, k] for k in range(3)] * 2)
    j = np.concatenate([faces[:, (k + 1) % 3] for k in range(3)] + [faces[:, (k + 2) % 3] for k in range(3)])
    A = coo_matrix((np.ones(len(i)), (i, j)), shape=(count, count)).tocsr()
    A.data[:] = 1
    degree = np.maximum(np.asarray(A.sum(1)).ravel(), 1)
    return csr_matrix(diags((np.asarray(A.sum(1)).ravel() > 0).astype(float)) - diags(1 / degree) @ A)
