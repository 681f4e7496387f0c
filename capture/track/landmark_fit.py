"""The first fit: identity, scale, poses and expressions from the detector's landmarks in all cameras and frames.

Identity and poses alternate. Poses: Gauss–Newton over the whole timeline. Identity: normal equations over frames that
are spread over time, with every one of their pose parameters eliminated jointly (a smile cannot leak into the shape when
both are solved together). One frame is taken as neutral: there expressions are held at zero, so that the identity has
to explain it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from avatars.head import HeadModel
from avatars.types import Cameras, HeadPose, Identity
from capture.landmarks import COUNT, IBUG68
from capture.track.config import LandmarkStage, Priors, Smooth
from capture.track.energies import Quadratic, bounds, differences, gaussian_prior, pull_back, reprojection
from capture.track.points import Linearised, linearise, pack, parameter_count, point_head, step, vertex_head
from capture.track.solve import Smoothness, minimise

FACE_OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
"""The detector's outline of the face: it follows the silhouette, so in each view it is another line on the skin."""

LID_PAIRS = ((159, 145), (158, 153), (160, 144), (157, 154), (161, 163), (386, 374), (385, 380), (387, 373), (384, 381), (388, 390))
"""Upper and lower edge of the lids, right then left eye."""
LIP_PAIRS = ((13, 14), (82, 87), (312, 317), (81, 178), (311, 402), (80, 88), (310, 318))
"""Inner edges of the upper and the lower lip."""


@dataclass(frozen=True)
class LandmarkRig:
    """A head seen through the detector's landmarks: which of them it has, and the lid and lip pairs among these."""

    points: HeadModel  # P vertices
    corners: HeadModel  # 3·P vertices: the triangles that the points lie on, for normals
    ids: Tensor  # [P] index into the detector's 478
    base_weight: Tensor  # [P]
    pairs: Tensor  # [Q, 2] indices into P


def landmark_rig(head: HeadModel) -> LandmarkRig:
    """Prepare a head; ValueError when it has neither the "mediapipe" nor the "ibug68" landmarks."""
    if "mediapipe" in head.landmarks:
        marks, names = head.landmarks["mediapipe"], torch.arange(COUNT)
    elif "ibug68" in head.landmarks:
        marks, names = head.landmarks["ibug68"], torch.tensor(IBUG68)
    else:
        raise ValueError(f"head {head.name} has neither mediapipe nor ibug68 landmarks, so it cannot be tracked")
    keep = marks.valid.nonzero()[:, 0]
    keep = keep[names[keep] < COUNT]
    ids = names[keep]
    weight = torch.ones(len(ids))
    weight[torch.isin(ids, torch.tensor(FACE_OVAL))] = 0.1
    position = {int(i): n for n, i in enumerate(ids)}
    pairs = [(position[a], position[b]) for a, b in LID_PAIRS + LIP_PAIRS if a in position and b in position]
    face_ids, barycentrics = marks.face_ids[keep], marks.barycentrics[keep]
    return LandmarkRig(
        points=point_head(head, face_ids, barycentrics),
        corners=vertex_head(head, head.faces[face_ids].reshape(-1)),
        ids=ids,
        base_weight=weight,
        pairs=torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2),
    )


@dataclass(frozen=True)
class Observations:
    """What the detector saw of the points of a rig."""

    cameras: Cameras  # C
    rays: Tensor  # [T, C, P, 2] (`energies.rays`), zero where nothing was seen
    weights: Tensor  # [T, C, P] 0–1


def facing(rig: LandmarkRig, shaped, pose: HeadPose, cameras: Cameras) -> Tensor:
    """[T, C, P] cosine between the normal at each point and the direction to each camera."""
    corners = rig.corners.vertices(shaped, pose).reshape(len(pose), -1, 3, 3)
    normals = torch.linalg.cross(corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0])
    normals = torch.nn.functional.normalize(normals, dim=-1)
    view = torch.nn.functional.normalize(cameras.centers[None, :, None] - corners.mean(2)[:, None], dim=-1)
    return (normals[:, None] * view).sum(-1)


def visible_weights(rig: LandmarkRig, identity: Identity, pose: HeadPose, observations: Observations) -> Tensor:
    """The weights, less those of points that face away: the detector invents the far side of the face."""
    corner_identity = rig_identity(rig, identity)[1]
    cosine = facing(rig, rig.corners.shape(corner_identity), pose, observations.cameras)
    return observations.weights * rig.base_weight * ((cosine - 0.15) / 0.35).clamp(0, 1)


def rig_identity(rig: LandmarkRig, identity: Identity) -> tuple[Identity, Identity]:
    """The identity without offsets, for the points and for the corners (offsets come after this stage)."""
    plain = replace(identity, offsets=None)
    return plain, plain


def prior_precision(head: HeadModel, priors: Priors) -> Tensor:
    """[D] inverse variances of a frame's parameters about rest; the root is free."""
    precision = torch.zeros(parameter_count(head), dtype=torch.float64)
    precision[: head.E] = priors.expression**-2
    for j, name in enumerate(head.joint_names):
        sigma = {"neck": priors.neck, "head": priors.head, "jaw": priors.jaw}.get(name, priors.eyes)
        precision[head.E + 3 * j : head.E + 3 * j + 3] = sigma**-2
        if name.startswith("eye_"):
            precision[head.E + 3 * j + 2] = 0.01**-2  # eyes do not roll
        if name == "jaw":
            precision[head.E + 3 * j + 1 : head.E + 3 * j + 3] = 0.01**-2
    return precision


def smoothness(head: HeadModel, smooth: Smooth, fps: float) -> Smoothness:
    """Per parameter; at a higher frame rate the same motion has smaller differences."""
    D, E, J = parameter_count(head), head.E, head.J
    ratio = 24.0 / max(fps, 1.0)
    acceleration = torch.zeros(D, dtype=torch.float64)
    acceleration[:E] = (smooth.expression * ratio) ** -2
    acceleration[E : E + 3 * J] = (smooth.joints * ratio) ** -2
    for j, name in enumerate(head.joint_names):
        if name.startswith("eye_"):
            acceleration[E + 3 * j : E + 3 * j + 3] = (smooth.eyes * ratio) ** -2
    acceleration[E + 3 * J :] = (smooth.root * ratio) ** -2
    velocity = torch.zeros(D, dtype=torch.float64)
    velocity[E + 3 * J :] = (smooth.root_drift * ratio) ** -2
    return Smoothness(velocity, acceleration)


def frame_priors(head: HeadModel, pose: HeadPose, priors: Priors, precision: Tensor, neutral: int | None = None) -> Quadratic:
    """Rest, soft bounds of the expressions, and both eyes alike; in the `neutral` frame expressions are held at zero."""
    values = pack(pose)
    every = precision.expand_as(values).clone()
    if neutral is not None:
        every[neutral, : head.E] *= 400
    low = torch.full((values.shape[1],), -torch.inf)
    low[: head.E] = 0
    high = torch.full_like(low, torch.inf)
    high[: head.E] = 1
    return gaussian_prior(values, every) + bounds(values, low, high, priors.bound**-2) + _symmetry(head, values, priors.symmetry**-2)


def _symmetry(head: HeadModel, values: Tensor, precision: float) -> Quadratic:
    rows = []
    for name in ("eyeBlink", "eyeLookUp", "eyeLookDown", "eyeSquint", "eyeWide"):
        if f"{name}Left" in head.expression_names:
            row = torch.zeros(values.shape[1], dtype=torch.float64)
            row[head.expression_index(f"{name}Left")], row[head.expression_index(f"{name}Right")] = 1, -1
            rows.append(row)
    left, right = head.joint_names.index("eye_left"), head.joint_names.index("eye_right")
    for axis in range(2):
        row = torch.zeros(values.shape[1], dtype=torch.float64)
        row[head.E + 3 * left + axis], row[head.E + 3 * right + axis] = 2, -2
        rows.append(row)
    M = torch.stack(rows)
    H = precision * M.T @ M
    g = values.double() @ H
    return Quadratic(H.expand(len(values), -1, -1), g, 0.5 * (g * values.double()).sum())


def landmark_energy(lin: Linearised, rig: LandmarkRig, observations: Observations, weights: Tensor, stage: LandmarkStage) -> tuple[Quadratic, Tensor]:
    """Reprojection of all landmarks and of the lid and lip pairs; also the residuals [T, C, P] in metres."""
    cameras = observations.cameras
    quadratic, residual = reprojection(lin.positions, cameras, observations.rays, weights, stage.robust_mm)
    total = _scaled(pull_back(quadratic, lin.jacobian), stage.sigma_mm**-2)
    if len(rig.pairs):
        first, second = rig.pairs.unbind(1)
        both = torch.minimum(weights[:, :, first], weights[:, :, second])
        quadratic, _ = differences(lin.positions, rig.pairs, cameras, observations.rays, both, stage.robust_mm)
        total = total + _scaled(pull_back(quadratic, lin.jacobian[:, first] - lin.jacobian[:, second]), stage.pair_sigma_mm**-2)
    return total, residual


def _scaled(quadratic: Quadratic, factor: float) -> Quadratic:
    return Quadratic(quadratic.H * factor, quadratic.g * factor, quadratic.cost * factor)


def fit_poses(
    head: HeadModel, rig: LandmarkRig, identity: Identity, pose: HeadPose, observations: Observations, segments: Sequence[tuple[int, int]],
    stage: LandmarkStage, priors: Priors, smooth: Smoothness, neutral: int | None,
) -> tuple[HeadPose, Tensor]:  # fmt: skip
    """Poses and expressions of all frames for a fixed identity; residuals [T, C, P] in metres."""
    shaped = rig.points.shape(rig_identity(rig, identity)[0])
    weights = visible_weights(rig, identity, pose, observations)
    precision = prior_precision(head, priors)

    def energy(candidate: HeadPose) -> Quadratic:
        data, _ = landmark_energy(linearise(rig.points, shaped, candidate), rig, observations, weights, stage)
        return data + frame_priors(head, candidate, priors, precision, neutral)

    pose, _ = minimise(pose, energy, smooth, segments, stage.iterations)
    residual = landmark_energy(linearise(rig.points, shaped, pose), rig, observations, weights, stage)[1]
    return pose, torch.where(weights > 0, residual, torch.nan)


def fit_identity(
    head: HeadModel, rig: LandmarkRig, identity: Identity, pose: HeadPose, observations: Observations, frames: Tensor,
    stage: LandmarkStage, priors: Priors, neutral: int, fixed_scale: bool,
) -> Identity:  # fmt: skip
    """One Gauss–Newton step of identity and scale [I+1], the poses of `frames` eliminated (Schur complement)."""
    some = pose[frames]
    picked = Observations(observations.cameras, observations.rays[frames], observations.weights[frames])
    weights = visible_weights(rig, identity, some, picked)
    lin = linearise(rig.points, rig.points.shape(rig_identity(rig, identity)[0]), some)
    # Columns of the identity: blended offsets; and the scale, which acts about the root.
    shape_part = torch.einsum("tpij,kpj->tpik", lin.blend, rig.points.identity_basis)
    scale_part = (lin.positions - some.translation[:, None])[..., None]
    extended = replace(lin, jacobian=torch.cat([shape_part, scale_part, lin.jacobian], -1))
    K = head.I + 1
    data, _ = landmark_energy(extended, rig, picked, weights, stage)
    where = (frames == neutral).nonzero()[:, 0]
    prior = frame_priors(head, some, priors, prior_precision(head, priors), int(where[0]) if len(where) else None)
    H, g = data.H.clone(), data.g.clone()
    H[:, K:, K:] += prior.H + 1e-6 * torch.diag_embed(torch.diagonal(data.H[:, K:, K:], dim1=1, dim2=2)) + 1e-6 * torch.eye(H.shape[-1] - K)
    g[:, K:] += prior.g
    # Schur complement onto identity and scale
    solved = torch.linalg.solve(H[:, K:, K:], torch.cat([H[:, K:, :K], g[:, K:, None]], -1))
    S = (H[:, :K, :K] - H[:, :K, K:] @ solved[..., :K]).sum(0)
    r = (g[:, :K] - (H[:, :K, K:] @ solved[..., K:])[..., 0]).sum(0)
    precision = torch.ones(K, dtype=torch.float64)
    precision[-1] = 1e12 if fixed_scale else 0.15**-2
    current = torch.cat([identity.coefficients.double(), torch.tensor([float(identity.scale)], dtype=torch.float64).log()])
    delta = -torch.linalg.solve(S + torch.diag(precision), r + precision * current)
    delta[: head.I] = delta[: head.I].clamp(-1.5, 1.5)
    new = current + delta
    return replace(identity, coefficients=new[: head.I].clamp(-4, 4).to(identity.coefficients), scale=float(new[-1].exp()))


__all__ = ["LandmarkRig", "Observations", "fit_identity", "fit_poses", "landmark_rig", "smoothness", "step"]
