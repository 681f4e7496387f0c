"""The stages of tracking, from landmarks to dense correspondence. Each takes the fit so far and returns a better one."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from avatars.errors import CaptureError
from avatars.head import HeadModel
from avatars.progress import Progress
from avatars.transforms import matrix_to_axis_angle
from avatars.types import Cameras, HeadPose, Identity
from capture.formats import Capture
from capture.track import single
from capture.track.config import LandmarkStage, TrackConfig
from capture.track.energies import Quadratic, Quadratic3, pull_back, rays, reprojection
from capture.track.fit import Term, fit_identity, fit_poses
from capture.track.marks import (
    LIP_PAIRS,
    LandmarkRig,
    Observations,
    landmark_rig,
    landmark_term,
    seen_weights,
    without_bias,
)
from capture.track.motion import Correspondences, correspond, followed_vertices
from capture.track.parts import carry_parts, tuck_teeth
from capture.track.points import Linearised, settle, vertex_head
from capture.track.priors import smoothness
from capture.track.reference import calmest_frame
from capture.track.shape import SurfaceEvidence, bend_to, surface_evidence
from capture.track.silhouette import merged, silhouette_evidence
from capture.track.state import Fit, Footage
from capture.track.triangulate import place_head, triangulate
from capture.track.warp import even_out

_CLOSED = 3e-3  # metres between the inner edges of closed lips, at most
_HOLD = 0.1  # weight with which a vertex that no outline concerns stays
_STIFFNESS = {"scalp": 3.0, "torso": 6.0, "neck": 2.0, "ears": 2.0}


def observe(rig: LandmarkRig, footage: Footage, cameras: Cameras, config: TrackConfig) -> Observations:
    """The detector's points as rays, weighted by how well its passes agreed, relative to the size of the face."""
    ids = rig.ids.numpy()
    points = torch.from_numpy(footage.points[:, :, ids])
    spread = torch.from_numpy(footage.spread[:, :, ids])
    seen = torch.isfinite(points[..., 0])
    face = torch.nan_to_num(points).amax((2, 3)) - torch.where(seen[..., None], points, torch.inf).amin((2, 3))
    tolerance = (0.015 * face.clamp_min(1.0))[..., None]
    weights = torch.where(seen, 1 / (1 + (spread / tolerance) ** 2), torch.zeros(()))
    skipped = [cameras.names.index(n) for n in config.skip_cameras if n in cameras.names]
    weights[:, skipped] = 0
    return Observations(cameras, rays(torch.nan_to_num(points), cameras), torch.nan_to_num(weights))


def first_fit(capture: Capture, head: HeadModel, footage: Footage, config: TrackConfig, progress: Progress) -> Fit:
    """Cameras, identity and poses from the landmarks alone."""
    rig = landmark_rig(settle(head, head.mean_identity()))
    reference = calmest_frame(footage, config.reference, alone=len(capture.camera_names) == 1)
    if len(capture.camera_names) > 1:
        assert capture.cameras is not None
        return _fit_many(head, rig, capture.cameras.to(dtype=torch.float32), capture, footage, config, reference, progress)
    return _fit_one(head, rig, capture, footage, config, reference, progress)


def _fit_many(head, rig: LandmarkRig, cameras: Cameras, capture: Capture, footage: Footage, config: TrackConfig, reference: int, progress: Progress) -> Fit:
    observations = observe(rig, footage, cameras, config)
    T = len(observations.rays)
    near = torch.arange(max(reference - 2, 0), min(reference + 3, T))
    some = observations[near]
    points, _, trust = triangulate(some.rays, some.weights * rig.reliability, cameras)
    at = int((near == reference).nonzero()[0, 0])
    if int((trust[at] > 1).sum()) < 20:
        raise CaptureError(
            f"{capture.path}: in frame {reference} of the timeline, fewer than two cameras agree on where the face is. Either the calibration is wrong "
            "(`avatars check` shows how), or the face is out of the picture: choose another reference frame with --settings.reference SEQUENCE:FRAME."
        )
    scale, R, t = place_head(rig.points.template, points[at], trust[at])
    if not 0.5 < float(scale) < 2.0:
        raise CaptureError(
            f"{capture.path}: the face is {float(scale):.3g} times as large as a human one. The unit of the calibration is not metres: "
            f"divide the translations of world_2_cam by {float(scale):.0f}." if float(scale) > 1 else
            f"{capture.path}: the face is {float(scale):.3g} times as large as a human one. The unit of the calibration is not metres: "
            f"multiply the translations of world_2_cam by {1 / float(scale):.0f}."
        )
    still = head.neutral(T)
    pose = HeadPose(still.expression, still.joints, matrix_to_axis_angle(R).expand(T, 3).clone(), t.expand(T, 3).clone())
    identity = Identity(head.mean_identity().coefficients, None, float(scale))
    identity, pose = _alternate(head, rig, identity, pose, observations, footage, config, reference, capture.fps, True, progress)
    return Fit(cameras, identity, pose, reference)


def _fit_one(head, rig: LandmarkRig, capture: Capture, footage: Footage, config: TrackConfig, reference: int, progress: Progress) -> Fit:
    width, height = capture.image_size
    name = capture.camera_names[0]
    known = None if capture.cameras is None else capture.cameras.to(dtype=torch.float32)
    pixels = torch.nan_to_num(torch.from_numpy(footage.points[:, 0][:, rig.ids.numpy()]))
    seen = torch.isfinite(torch.from_numpy(footage.points[:, 0, :1, 0])).float()
    trusted = rig.reliability * seen
    some = torch.unique(torch.linspace(0, len(pixels) - 1, 16).long())
    identity = head.mean_identity()
    start = head.neutral(len(pixels))

    def placed(cameras: Cameras, frames: Tensor) -> HeadPose:
        rotations, positions = single.place_by_perspective(rig.points.template, pixels[frames], trusted[frames], cameras)
        return replace(start[frames], rotation=rotations, translation=positions)

    if known is None:
        def cost(focal: float) -> float:
            cameras = single.camera_in_front(name, width, height, focal, 0.0)
            pose, shape = placed(cameras, some), identity
            observations = observe(rig, footage, cameras, config)[some]
            for _ in range(3):
                weights = seen_weights(rig, shape, pose, observations)
                term = landmark_term(rig, observations, weights, config.landmarks.sigma_mm, 0.0, 3 * config.landmarks.robust_mm)
                apart = [(i, i + 1) for i in range(len(some))]
                smooth = smoothness(head, config.smooth, capture.fps, False)
                pose, history = fit_poses(head, [term], shape, pose, apart, config.priors, smooth, torch.zeros(len(some), dtype=torch.bool), 3)
                shape = fit_identity(head, [_softer(rig, observations, weights, config.landmarks)], shape, pose, torch.arange(len(some)), config.priors,
                                     torch.zeros(len(some), dtype=torch.bool), free_scale=False)  # fmt: skip
            # Errors of meaning are common to all frames and, measured on a real face, prefer a camera that is too close.
            independent = (config.landmarks.sigma_mm / config.landmarks.identity_sigma_mm) ** 2 / 4
            return independent * history[-1] + 0.5 * float(shape.coefficients.square().sum())

        focal = single.best_focal(max(width, height), cost)
        in_camera = placed(single.camera_in_front(name, width, height, focal, 0.0), some).translation
        cameras = single.camera_in_front(name, width, height, focal, -float(in_camera[:, 2].median()))
    else:
        cameras = known
    pose = placed(cameras, torch.arange(len(pixels)))
    pose = single.share_with_neck(pose, 0.5, head.joint_names.index("neck"), head.joint_names.index("head"), reference)
    observations = observe(rig, footage, cameras, config)
    identity, pose = _alternate(head, rig, identity, pose, observations, footage, config, reference, capture.fps, False, progress)
    return Fit(cameras, identity, pose, reference)


def _softer(rig: LandmarkRig, observations: Observations, weights: Tensor, stage: LandmarkStage) -> Term:
    """The landmarks as the identity sees them: their errors of meaning do not average out over frames."""
    return landmark_term(rig, observations, weights, stage.identity_sigma_mm, 0.0, 2 * stage.robust_mm)


def _alternate(
    head, rig: LandmarkRig, identity: Identity, pose: HeadPose, observations: Observations, footage: Footage, config: TrackConfig,
    reference: int, fps: float, calibrated: bool, progress: Progress,
) -> tuple[Identity, HeadPose]:  # fmt: skip
    stage, T = config.landmarks, len(pose)
    neutral = torch.arange(T) == reference
    smooth = smoothness(head, config.smooth, fps, calibrated)
    segments = [(s.start, s.stop) for s in footage.segments]
    frames = torch.unique(torch.cat([torch.tensor([reference]), torch.linspace(0, T - 1, min(stage.identity_frames, T)).long()]))
    for i in range(stage.rounds):
        progress("fitting landmarks", i, stage.rounds, None)
        weights = seen_weights(rig, identity, pose, observations)
        term = landmark_term(rig, observations, weights, stage.sigma_mm, stage.pair_sigma_mm, stage.robust_mm * (3 if i == 0 else 1))
        iterations = stage.iterations if i in (0, stage.rounds - 1) else 2
        pose, _ = fit_poses(head, [term], identity, pose, segments, config.priors, smooth, neutral, iterations)
        if i < stage.rounds - 1:
            for _ in range(2):
                weights = seen_weights(rig, identity, pose, observations)
                soft = _softer(rig, observations, weights, stage)
                identity = fit_identity(head, [soft], identity, pose, frames, config.priors, neutral, free_scale=calibrated)
                rig = landmark_rig(settle(head, identity))
    progress("fitting landmarks", stage.rounds, stage.rounds, None)
    return identity, pose


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
        blend = linearise_blend(head, identity, pose)
        offsets = torch.linalg.solve(blend, delta[..., None])[..., 0]
        identity = replace(identity, offsets=offsets if identity.offsets is None else identity.offsets + offsets)
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
    offsets = torch.linalg.solve(linearise_blend(head, identity, pose), delta[..., None])[..., 0]
    return replace(identity, offsets=identity.offsets + offsets)


def linearise_blend(head: HeadModel, identity: Identity, pose: HeadPose) -> Tensor:
    """[V, 3, 3] rest offsets → world in the one frame of `pose`."""
    transforms = head.joint_transforms(identity, pose)[0, :, :3, :3].reshape(head.J + 1, 9)
    return (head.skin_weights @ transforms).reshape(-1, 3, 3)


def _identity_to_surface(head, identity: Identity, pose: HeadPose, vertices: Tensor, evidence: SurfaceEvidence, skin: Tensor, config: TrackConfig) -> Identity:
    """A step of the coefficients towards the measured surface, point to plane; the scalp's hair and the clothes are not the identity's."""
    face = head.region_vertices("face", "lips", "eyelids", "nose", "brows", "ears", "neck")
    ids = face[torch.isin(face, skin) & (evidence.weight[face] > 0)]
    points = vertex_head(settle(head, identity), ids)
    normals, weight = evidence.normals[ids], evidence.weight[ids] * (config.shape.sigma_mm * 1e-3) ** -2
    goal = vertices[ids] + normals * evidence.displacement[ids, None]

    def energy(lin: Linearised, frames: Tensor) -> Quadratic:
        distance = ((lin.positions - goal) * normals).sum(-1)  # [1, P]
        robust = weight / (1 + (distance / 4e-3) ** 2)
        A = robust[..., None, None] * normals[:, :, None] * normals[:, None, :]
        quadratic = Quadratic3(A, (robust * distance)[..., None] * normals, (robust * distance**2).sum().double() / 2)
        return pull_back(quadratic, lin.jacobian)

    term = Term(points, lambda i: i if i.offsets is None else replace(i, offsets=i.offsets[ids]), energy)
    still = torch.zeros(1, dtype=torch.bool)
    return fit_identity(head, [term], identity, pose, torch.zeros(1, dtype=torch.int64), config.priors, still, free_pose=False, largest_step=2.0)


def refine_motion(head: HeadModel, fit: Fit, footage: Footage, config: TrackConfig, progress: Progress, fps: float) -> HeadPose:
    """Poses of all frames from dense correspondence with the reference frame, and from what landmarks alone can tell."""
    stage, pose, T = config.motion, fit.pose, len(fit.pose)
    calibrated = len(fit.cameras) > 1
    head = settle(head, fit.identity)
    rig = landmark_rig(head)
    seen_marks = observe(rig, footage, fit.cameras, config)
    observations = without_bias(rig, fit.identity, pose, fit.reference, seen_marks)
    shape = head.vertices(fit.identity, head.neutral())[0]
    # Calibrated: the shoulders stand still, so only a single camera needs to look at them; they are a third of the picture.
    ids = followed_vertices(head, shape, stage.points, torso=not calibrated)
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
        pose, _ = fit_poses(head, terms, fit.identity, pose, segments, config.priors, smooth, neutral, stage.iterations)
    return pose


def flow_term(head: HeadModel, seen: Correspondences, cameras: Cameras, sigma_mm: float, robust_mm: float) -> Term:
    """Followed vertices where the pictures show them."""
    ids = seen.vertex_ids

    def energy(lin: Linearised, frames: Tensor) -> Quadratic:
        quadratic, _ = reprojection(lin.positions, cameras, seen.rays[frames], seen.weights[frames], robust_mm)
        return pull_back(quadratic, lin.jacobian).scaled(sigma_mm**-2)

    return Term(vertex_head(head, ids), lambda i: i if i.offsets is None else replace(i, offsets=i.offsets[ids]), energy)


def _spread(cameras: Cameras, chosen: list[int], count: int) -> list[int]:
    """Some of the cameras, far apart from one another, the frontal one first."""
    if len(chosen) <= count:
        return chosen
    view = torch.nn.functional.normalize(cameras.centers[chosen], dim=-1)
    picked = [int((view @ torch.nn.functional.normalize(view.mean(0), dim=-1)).argmax())]
    while len(picked) < count:
        picked.append(int((view @ view[picked].T).amax(1).argmin()))
    return sorted(chosen[i] for i in picked)

