"""The stages of tracking that look at pictures: the neutral surface, and the motion of the skin. Each returns a part of a better fit."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from avatars.head import HeadModel
from avatars.progress import Progress
from avatars.types import Cameras, HeadPose, Identity
from capture.track.clothes import clothes_to_outline, still_term
from capture.track.config import TrackConfig
from capture.track.energies import Quadratic, Quadratic3, pull_back, reprojection
from capture.track.first import observe
from capture.track.fit import Term, fit_identity, fit_poses, vertex_term
from capture.track.marks import (
    LIP_PAIRS,
    landmark_rig,
    landmark_term,
    seen_weights,
    without_bias,
)
from capture.track.motion import Correspondences, correspond, followed_vertices
from capture.track.parts import carry_parts, tuck_teeth
from capture.track.points import Linearised, displaced, settle
from capture.track.priors import smoothness
from capture.track.shape import SurfaceEvidence, bend_to, surface_evidence
from capture.track.silhouette import merged, silhouette_evidence
from capture.track.state import Fit, Footage
from capture.track.warp import even_out

_CLOSED = 3e-3  # metres between the inner edges of closed lips, at most
_HOLD = 0.1  # weight with which a vertex that no outline concerns stays
_STIFFNESS = {"scalp": 3.0, "torso": 6.0, "neck": 2.0, "ears": 2.0}


def looked_at(cameras: Cameras, config: TrackConfig) -> list[int]:
    """Indices of the cameras that tracking uses."""
    return [i for i, n in enumerate(cameras.names) if n not in config.skip_cameras]


def refine_shape(head: HeadModel, fit: Fit, footage: Footage, config: TrackConfig, progress: Progress) -> Identity:
    """Identity and offsets from the reference frame: outlines, and with several cameras dense correspondence between them."""
    stage = config.shape
    chosen = looked_at(fit.cameras, config)
    cameras, pose = fit.cameras[chosen], fit.pose[fit.reference]
    sigma = config.motion.evening * cameras.height
    pictures = [even_out(footage.grey(fit.reference, c), sigma) for c in chosen]
    masks = [footage.mask(fit.reference, c) for c in chosen]
    skin = head.region_vertices("face", "lips", "eyelids", "nose", "brows", "ears", "scalp", "neck", "torso")
    stiffness = torch.full((head.V,), stage.stiffness)
    for name, factor in _STIFFNESS.items():
        stiffness[head.region_vertices(name)] = stage.stiffness * factor
    belief = torch.ones(head.V)
    belief[head.region_vertices("torso")] = 0.1  # plain cloth shows compression noise, which agrees with anything
    identity = fit.identity
    dense_too = len(chosen) > 2
    for i in range(stage.rounds if dense_too else 1):
        progress("measuring the neutral surface", i, stage.rounds, None)
        vertices = head.vertices(identity, pose)[0]
        outline = silhouette_evidence(head, vertices, cameras, masks)
        # Alone, the outline bends what is near it; the rest of the surface stays where the landmarks put it.
        evidence = replace(outline, weight=outline.weight.clamp_min(_HOLD))
        if dense_too:
            dense = surface_evidence(vertices, head.faces, skin, cameras, pictures, config.workers)
            evidence = merged(replace(dense, weight=dense.weight * belief), outline, stage.outline_trust)
        if i == 0 and dense_too:
            for _ in range(3):
                identity = _identity_to_surface(head, identity, pose, vertices, evidence, skin, config)
            moved = head.vertices(identity, pose)[0] - vertices
            evidence = replace(evidence, displacement=evidence.displacement - (moved * evidence.normals).sum(-1))
            vertices = vertices + moved
        delta = carry_parts(head, vertices, bend_to(evidence, head.faces, vertices, stiffness))
        identity = displaced(head, identity, pose, delta)
    if dense_too:
        identity = clothes_to_outline(head, identity, pose, cameras, masks, stage.outline_rounds)
    progress("measuring the neutral surface", stage.rounds, stage.rounds, None)
    return _with_teeth_behind_lips(head, identity, pose, cameras)


def _with_teeth_behind_lips(head: HeadModel, identity: Identity, pose: HeadPose, cameras: Cameras) -> Identity:
    """The identity with its teeth out of sight, if the lips are closed in the frame of `pose`."""
    vertices = head.vertices(identity, pose)
    if "mediapipe" not in head.landmarks or identity.offsets is None:
        return identity
    marks = head.landmark_positions(vertices)[0]
    if float((marks[LIP_PAIRS[0][0]] - marks[LIP_PAIRS[0][1]]).norm()) > _CLOSED:
        return identity
    front = head.joint_transforms(identity, pose)[0, head.joint_names.index("head"), :3, 2]
    front = torch.nn.functional.normalize(front, dim=-1)
    towards = torch.nn.functional.normalize(cameras.centers - vertices[0].mean(0), dim=-1)
    frontal = (towards @ front).argsort(descending=True)[:3].tolist()
    delta = tuck_teeth(head, vertices[0], -front, cameras[frontal])
    return displaced(head, identity, pose, delta)


def _identity_to_surface(
    head, identity: Identity, pose: HeadPose, vertices: Tensor, evidence: SurfaceEvidence, skin: Tensor, config: TrackConfig
) -> Identity:
    """A step of the coefficients towards the measured surface, point to plane; the scalp's hair and the clothes are not the identity's."""
    face = head.region_vertices("face", "lips", "eyelids", "nose", "brows", "ears", "neck")
    ids = face[torch.isin(face, skin) & (evidence.weight[face] > 0)]
    normals, weight = evidence.normals[ids], evidence.weight[ids] * (config.shape.sigma_mm * 1e-3) ** -2
    goal = vertices[ids] + normals * evidence.displacement[ids, None]

    def energy(lin: Linearised, frames: Tensor) -> Quadratic:
        distance = ((lin.positions - goal) * normals).sum(-1)  # [1, P]
        robust = weight / (1 + (distance / 4e-3) ** 2)
        A = robust[..., None, None] * normals[:, :, None] * normals[:, None, :]
        quadratic = Quadratic3(A, (robust * distance)[..., None] * normals, (robust * distance**2).sum().double() / 2)
        return pull_back(quadratic, lin.jacobian)

    term = vertex_term(settle(head, identity), ids, energy)
    still = torch.zeros(1, dtype=torch.bool)
    return fit_identity(
        head, [term], identity, pose, torch.zeros(1, dtype=torch.int64), config.priors, still, free_pose=False, largest_step=2.0
    )


def refine_motion(head: HeadModel, fit: Fit, footage: Footage, config: TrackConfig, progress: Progress, fps: float) -> HeadPose:
    """Poses of all frames from dense correspondence with the reference frame, and from what landmarks alone can tell."""
    stage, pose, T = config.motion, fit.pose, len(fit.pose)
    calibrated = len(fit.cameras) > 1
    head = settle(head, fit.identity)
    rig = landmark_rig(head)
    seen_marks = observe(rig, footage, fit.cameras, config)
    observations = without_bias(rig, fit.identity, pose, fit.reference, seen_marks)
    shape = head.vertices(fit.identity, head.neutral())[0]
    ids = followed_vertices(head, shape, stage.points)
    neutral = torch.arange(T) == fit.reference
    smooth = smoothness(head, config.smooth, fps, calibrated)
    segments = [(s.start, s.stop) for s in footage.segments]
    everyone = looked_at(fit.cameras, config)
    for i in range(stage.rounds):
        last = i == stage.rounds - 1
        chosen = _spread(fit.cameras, everyone, stage.fine_cameras if last else stage.coarse_cameras)
        done = 0

        def tick() -> None:
            nonlocal done
            done += 1
            progress(f"following the skin, round {i + 1} of {stage.rounds}", done, T, None)  # noqa: B023 - called within the round

        cameras = fit.cameras[chosen]
        seen = correspond(
            head, fit.identity, pose, fit.reference, cameras, lambda t, c: footage.grey(t, chosen[c]), ids,  # noqa: B023 - called within the round
            stage.evening * cameras.height, fine=last, workers=config.workers, tick=tick,
        )  # fmt: skip
        weights = seen_weights(rig, fit.identity, pose, observations)
        marks = landmark_term(rig, observations, weights, stage.landmark_sigma_mm, stage.pair_sigma_mm, config.landmarks.robust_mm)
        terms = [flow_term(head, seen, cameras, stage.sigma_mm, stage.robust_mm), marks]
        still = still_term(head, fit.identity, pose, fit.reference, stage.still_mm) if calibrated and stage.still_mm > 0 else None
        if still is not None:
            terms.append(still)
        pose, _ = fit_poses(head, terms, fit.identity, pose, segments, config.priors, smooth, neutral, stage.iterations)
    return pose


def flow_term(head: HeadModel, seen: Correspondences, cameras: Cameras, sigma_mm: float, robust_mm: float) -> Term:
    """Followed vertices where the pictures show them."""
    ids = seen.vertex_ids

    def energy(lin: Linearised, frames: Tensor) -> Quadratic:
        quadratic, _ = reprojection(lin.positions, cameras, seen.rays[frames], seen.weights[frames], robust_mm)
        return pull_back(quadratic, lin.jacobian).scaled(sigma_mm**-2)

    return vertex_term(head, ids, energy)


def _spread(cameras: Cameras, chosen: list[int], count: int) -> list[int]:
    """Some of the cameras, far apart from one another, the frontal one first."""
    if len(chosen) <= count:
        return chosen
    view = torch.nn.functional.normalize(cameras.centers[chosen], dim=-1)
    picked = [int((view @ torch.nn.functional.normalize(view.mean(0), dim=-1)).argmax())]
    while len(picked) < count:
        picked.append(int((view @ view[picked].T).amax(1).argmin()))
    return sorted(chosen[i] for i in picked)
