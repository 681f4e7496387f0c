"""The head seen through the detector's landmarks: which of them it has, how far each can be trusted, and their energy."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from avatars.head import HeadModel, ShapedHead
from avatars.types import Cameras, HeadPose, Identity
from capture.landmarks import COUNT, IBUG68
from capture.track.energies import Quadratic, differences, pull_back, reprojection
from capture.track.fit import Term
from capture.track.points import Linearised, point_head, point_identity, vertex_head

FACE_OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
"""The detector's outline of the face: it follows the silhouette, so in each view it is another line on the skin."""

LID_PAIRS = ((159, 145), (158, 153), (160, 144), (157, 154), (161, 163), (386, 374), (385, 380), (387, 373), (384, 381), (388, 390))
"""Upper and lower edge of the lids, right then left eye."""
LIP_PAIRS = ((13, 14), (82, 87), (312, 317), (81, 178), (311, 402), (80, 88), (310, 318))
"""Inner edges of the upper and the lower lip."""


IRISES = 468
"""The detector's first point on an iris."""


@dataclass(frozen=True)
class LandmarkRig:
    """P landmarks on a head."""

    points: HeadModel  # P vertices
    corners: HeadModel  # 3·P vertices: the triangles that the points lie on, for their normals
    surface: tuple[Tensor, Tensor, Tensor]  # faces [F, 3] of the head, face ids [P], barycentrics [P, 3]
    ids: Tensor  # [P] index into the detector's 478
    reliability: Tensor  # [P]
    pairs: Tensor  # [Q, 2] indices into P of opposite points of lids and lips

    def on_points(self, identity: Identity) -> Identity:
        """The identity with the offsets of the points."""
        faces, face_ids, barycentrics = self.surface
        return point_identity(identity, faces[face_ids], barycentrics)

    def on_corners(self, identity: Identity) -> Identity:
        """The identity with the offsets of the corners."""
        if identity.offsets is None:
            return identity
        faces, face_ids, _ = self.surface
        return replace(identity, offsets=identity.offsets[faces[face_ids].reshape(-1)])


def landmark_rig(head: HeadModel) -> LandmarkRig:
    """Prepare a head; ValueError when it has neither the "mediapipe" nor the "ibug68" landmarks."""
    if "mediapipe" in head.landmarks:
        marks, names = head.landmarks["mediapipe"], torch.arange(COUNT)
    elif "ibug68" in head.landmarks:
        marks, names = head.landmarks["ibug68"], torch.tensor(IBUG68)
    else:
        raise ValueError(f"head {head.name} has neither mediapipe nor ibug68 landmarks, so it cannot be tracked")
    keep = marks.valid[: len(names)].nonzero()[:, 0]
    ids = names[keep]
    reliability = torch.where(torch.isin(ids, torch.tensor(FACE_OVAL)), 0.1, 1.0)
    reliability[ids >= IRISES] = 12.0  # ten points alone decide where the eyes look
    position = {int(i): n for n, i in enumerate(ids)}
    pairs = [(position[a], position[b]) for a, b in LID_PAIRS + LIP_PAIRS if a in position and b in position]
    face_ids, barycentrics = marks.face_ids[keep], marks.barycentrics[keep]
    return LandmarkRig(
        points=point_head(head, face_ids, barycentrics),
        corners=vertex_head(head, head.faces[face_ids].reshape(-1)),
        surface=(head.faces, face_ids, barycentrics),
        ids=ids,
        reliability=reliability,
        pairs=torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2),
    )


@dataclass(frozen=True)
class Observations:
    """What the detector saw of the points of a rig."""

    cameras: Cameras  # C
    rays: Tensor  # [T, C, P, 2] (`energies.rays`), anything finite where nothing was seen
    weights: Tensor  # [T, C, P] 0–1
    gaps: Tensor | None = None  # [T, C, Q, 2] first minus second ray of each pair, where it is better known than from `rays`

    def __getitem__(self, frames: Tensor) -> Observations:
        gaps = None if self.gaps is None else self.gaps[frames]
        return replace(self, rays=self.rays[frames], weights=self.weights[frames], gaps=gaps)


def facing(rig: LandmarkRig, shaped: ShapedHead, pose: HeadPose, cameras: Cameras) -> Tensor:
    """[T, C, P] cosine between the normal at each point and the direction to each camera (`shaped` of the corners)."""
    corners = rig.corners.vertices(shaped, pose).reshape(len(pose), -1, 3, 3)
    normals = torch.linalg.cross(corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0])
    normals = torch.nn.functional.normalize(normals, dim=-1)
    view = torch.nn.functional.normalize(cameras.centers[None, :, None] - corners.mean(2)[:, None], dim=-1)
    return (normals[:, None] * view).sum(-1)


def seen_weights(rig: LandmarkRig, identity: Identity, pose: HeadPose, observations: Observations) -> Tensor:
    """[T, C, P] the weights, less those of points that face away: the detector invents the far side of the face."""
    cosine = facing(rig, rig.corners.shape(rig.on_corners(identity)), pose, observations.cameras)
    return observations.weights * rig.reliability * ((cosine - 0.15) / 0.35).clamp(0, 1)


def landmark_term(
    rig: LandmarkRig, observations: Observations, weights: Tensor, sigma_mm: float, pair_sigma_mm: float, robust_mm: float
) -> Term:
    """All landmarks, and the distances of lids and lips as terms of their own: eyes and lips close when they do in the picture."""

    def energy(lin: Linearised, frames: Tensor) -> Quadratic:
        cameras, seen, w = observations.cameras, observations.rays[frames], weights[frames]
        points, _ = reprojection(lin.positions, cameras, seen, w, robust_mm)
        total = pull_back(points, lin.jacobian).scaled(sigma_mm**-2)
        if len(rig.pairs) and pair_sigma_mm > 0:
            first, second = rig.pairs.unbind(1)
            both = torch.minimum(w[:, :, first], w[:, :, second])
            if observations.gaps is not None:  # the pair's middle as seen, its ends as far apart as the gap says
                middle, half = (seen[:, :, first] + seen[:, :, second]) / 2, observations.gaps[frames] / 2
                seen = seen.clone()
                seen[:, :, first], seen[:, :, second] = middle + half, middle - half
            gaps, _ = differences(lin.positions, rig.pairs, cameras, seen, both, robust_mm)
            total = total + pull_back(gaps, lin.jacobian[:, first] - lin.jacobian[:, second]).scaled(pair_sigma_mm**-2)
        return total

    return Term(rig.points, rig.on_points, energy)


def without_bias(rig: LandmarkRig, identity: Identity, pose: HeadPose, reference: int, observations: Observations) -> Observations:
    """Observations less what they miss the settled mesh by in the reference frame: there, the difference is one of meaning.

    Gaps between lids are rescaled instead, such that the reference is as open as the mesh and the most closed moment is
    closed, when the detector's gap falls below half: it never reports quite closed eyes.
    """
    at = torch.tensor([reference])
    one = observations[at]
    weights = seen_weights(rig, identity, pose[reference], one)
    bias = residuals(rig, identity, pose[reference], one, weights)[0]  # [C, P, 2]
    known = torch.isfinite(bias).all(-1)
    bias = torch.nan_to_num(bias)
    first, second = rig.pairs.unbind(1)
    raw = observations.rays[:, :, first] - observations.rays[:, :, second]  # [T, C, Q, 2]
    change = bias[:, first] - bias[:, second]
    gaps = raw + change
    lids = (rig.ids[first, None] == torch.tensor([p[0] for p in LID_PAIRS])).any(1)
    if lids.any():
        length = raw.norm(dim=-1)
        openness = length / length[reference].clamp_min(1e-6)  # [T, C, Q], 1 in the reference
        both = (observations.weights[:, :, first] * observations.weights[:, :, second] > 0) & (known[:, first] & known[:, second])
        for eye in ("right", "left"):
            names = torch.tensor([p[0] for p in (LID_PAIRS[:5] if eye == "right" else LID_PAIRS[5:])])
            of_eye = (rig.ids[first, None] == names).any(1)
            values = torch.where(both[..., of_eye], openness[..., of_eye], torch.nan).flatten(1)
            closed = float(torch.nan_to_num(values.nanmedian(1).values, nan=1.0).quantile(0.01))
            if closed < 0.5:
                scaled = ((openness - closed) / (1 - closed)).clamp_min(0)
                wanted = (raw[reference] + change).norm(dim=-1) * scaled
                direction = torch.nn.functional.normalize(raw, dim=-1)
                gaps = torch.where(of_eye[:, None], direction * wanted[..., None], gaps)
    return replace(observations, rays=observations.rays + bias, weights=observations.weights * known, gaps=gaps)


def residuals(rig: LandmarkRig, identity: Identity, pose: HeadPose, observations: Observations, weights: Tensor) -> Tensor:
    """[T, C, P, 2] predicted minus observed, in ray coordinates (times the focal length: pixels); NaN where the weight is 0."""
    positions = rig.points.vertices(rig.on_points(identity), pose)
    cameras = observations.cameras
    local = torch.einsum("cij,tpj->tcpi", cameras.viewmats[:, :3, :3], positions) + cameras.viewmats[:, None, :3, 3]
    predicted = local[..., :2] / local[..., 2:].clamp_min(1e-3)
    return torch.where((weights > 0)[..., None], predicted - observations.rays, torch.nan)
