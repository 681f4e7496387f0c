"""The first fit: cameras (of a single video), identity and poses from the detector's landmarks alone.

Identity and poses alternate. In the reference frame, whose face is taken to be at rest, expressions are held at zero, so that the
identity has to explain it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

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
from capture.track.energies import rays
from capture.track.fit import Term, fit_identity, fit_poses
from capture.track.marks import LandmarkRig, Observations, landmark_rig, landmark_term, seen_weights
from capture.track.points import settle
from capture.track.priors import smoothness
from capture.track.reference import calmest_frame
from capture.track.state import Fit, Footage
from capture.track.triangulate import place_head, triangulate


@dataclass(frozen=True)
class Task:
    """What the first fit is given."""

    capture: Capture
    head: HeadModel
    footage: Footage
    config: TrackConfig
    progress: Progress
    reference: int  # the frame in which the face is at rest

    @property
    def rig(self) -> LandmarkRig:
        """The landmarks of the average person."""
        return landmark_rig(settle(self.head, self.head.mean_identity()))


def first_fit(capture: Capture, head: HeadModel, footage: Footage, config: TrackConfig, progress: Progress) -> Fit:
    """Cameras, identity and poses; CaptureError says why the face cannot be placed."""
    reference = calmest_frame(footage, config.reference, alone=len(capture.camera_names) == 1)
    task = Task(capture, head, footage, config, progress, reference)
    return _fit_many(task) if len(capture.camera_names) > 1 else _fit_one(task)


def observe(rig: LandmarkRig, footage: Footage, cameras: Cameras, config: TrackConfig) -> Observations:
    """The detector's points as rays, weighted by how well its passes agreed, relative to the size of the face."""
    ids = rig.ids.numpy()
    points, spread = torch.from_numpy(footage.points[:, :, ids]), torch.from_numpy(footage.spread[:, :, ids])
    seen = torch.isfinite(points[..., 0])
    known = torch.nan_to_num(points)
    face = (torch.where(seen[..., None], points, -torch.inf).amax(2) - torch.where(seen[..., None], points, torch.inf).amin(2)).amax(-1)
    tolerance = (0.015 * face.clamp_min(1.0))[..., None]
    weights = torch.nan_to_num(torch.where(seen, 1 / (1 + (spread / tolerance) ** 2), torch.zeros(())))
    weights[:, [cameras.names.index(n) for n in config.skip_cameras]] = 0
    return Observations(cameras, rays(known, cameras), weights)


def _fit_many(task: Task) -> Fit:
    """Calibrated cameras: the face is triangulated in the reference frame."""
    capture, head, rig, reference = task.capture, task.head, task.rig, task.reference
    assert capture.cameras is not None
    cameras = capture.cameras.to(dtype=torch.float32)
    observations = observe(rig, task.footage, cameras, task.config)
    one = observations[torch.tensor([reference])]
    points, _, trust = triangulate(one.rays, one.weights * rig.reliability, cameras)
    if int((trust[0] > 1).sum()) < 20:
        raise CaptureError(
            f"{capture.path}: in frame {reference} of the timeline, fewer than two cameras agree on where the face is. Either the calibration is wrong "
            "(`avatars check` shows how), or the face is out of the picture: choose another reference frame with --settings.reference SEQUENCE:FRAME."
        )
    scale, R, t = place_head(rig.points.template, points[0], trust[0])
    if not 0.5 < float(scale) < 2.0:
        remedy = (
            f"divide the translations of world_2_cam by {float(scale):.0f}"
            if float(scale) > 1
            else f"multiply them by {1 / float(scale):.0f}"
        )
        raise CaptureError(
            f"{capture.path}: the face is {float(scale):.3g} times as large as a human one. The unit of the calibration is not metres: {remedy}."
        )
    T = len(observations.rays)
    pose = replace(head.neutral(T), rotation=matrix_to_axis_angle(R).expand(T, 3).clone(), translation=t.expand(T, 3).clone())
    identity = Identity(head.mean_identity().coefficients, None, float(scale))
    return _alternate(task, observations, Fit(cameras, identity, pose, reference))


def _fit_one(task: Task) -> Fit:
    """One camera: the head is placed by perspective, with a focal length that is searched for where it is not known."""
    capture, head, footage, config, rig = task.capture, task.head, task.footage, task.config, task.rig
    pixels = torch.nan_to_num(torch.from_numpy(footage.points[:, 0][:, rig.ids.numpy()]))
    trusted = rig.reliability * torch.isfinite(torch.from_numpy(footage.points[:, 0, :1, 0])).float()
    everything, some = torch.arange(len(pixels)), torch.unique(torch.linspace(0, len(pixels) - 1, 16).long())
    still = head.neutral(len(pixels))

    def placed(cameras: Cameras, frames: Tensor) -> HeadPose:
        rotations, positions = single.place_by_perspective(rig.points.template, pixels[frames], trusted[frames], cameras)
        return replace(still[frames], rotation=rotations, translation=positions)

    if capture.cameras is None:
        width, height = capture.image_size
        name = capture.camera_names[0]

        def cost(focal: float) -> float:
            cameras = single.camera_in_front(name, width, height, focal, 0.0)
            return _misfit(task, placed(cameras, some), observe(rig, footage, cameras, config)[some])

        focal = single.best_focal(max(width, height), cost)
        distance = -placed(single.camera_in_front(name, width, height, focal, 0.0), some).translation[:, 2].median()
        cameras = single.camera_in_front(name, width, height, focal, float(distance))
    else:
        cameras = capture.cameras.to(dtype=torch.float32)
    neck, turning = head.joint_names.index("neck"), head.joint_names.index("head")
    pose = single.share_with_neck(placed(cameras, everything), 0.5, neck, turning, task.reference)
    return _alternate(task, observe(rig, footage, cameras, config), Fit(cameras, head.mean_identity(), pose, task.reference))


def _misfit(task: Task, pose: HeadPose, observations: Observations) -> float:
    """How badly some single frames are explained by any identity and poses through this camera."""
    head, config, stage, rig = task.head, task.config, task.config.landmarks, task.rig
    identity, count = head.mean_identity(), len(pose)
    smooth = smoothness(head, config.smooth, task.capture.fps, calibrated=False)
    apart, neutral = [(i, i + 1) for i in range(count)], torch.zeros(count, dtype=torch.bool)
    history = [0.0]
    for _ in range(3):
        weights = seen_weights(rig, identity, pose, observations)
        term = landmark_term(rig, observations, weights, stage.sigma_mm, 0.0, 3 * stage.robust_mm)
        pose, history = fit_poses(head, [term], identity, pose, apart, config.priors, smooth, neutral, 3)
        soft = _softer(rig, observations, weights, stage)
        identity = fit_identity(head, [soft], identity, pose, torch.arange(count), config.priors, neutral, free_scale=False)
    # Errors of meaning are common to all frames and, measured on a real face, prefer a camera that is too close.
    independent = (stage.sigma_mm / stage.identity_sigma_mm) ** 2 / 4
    return independent * history[-1] + 0.5 * float(identity.coefficients.square().sum())


def _softer(rig: LandmarkRig, observations: Observations, weights: Tensor, stage: LandmarkStage) -> Term:
    """The landmarks as the identity sees them: their errors of meaning do not average out over frames."""
    return landmark_term(rig, observations, weights, stage.identity_sigma_mm, 0.0, 2 * stage.robust_mm)


def _alternate(task: Task, observations: Observations, fit: Fit) -> Fit:
    """Poses over the whole timeline and the identity from some frames, in turns."""
    head, config, stage = task.head, task.config, task.config.landmarks
    identity, pose, rig, T = fit.identity, fit.pose, task.rig, len(fit.pose)
    calibrated = len(fit.cameras) > 1
    neutral = torch.arange(T) == task.reference
    smooth = smoothness(head, config.smooth, task.capture.fps, calibrated)
    segments = [(s.start, s.stop) for s in task.footage.segments]
    frames = torch.unique(torch.cat([torch.tensor([task.reference]), torch.linspace(0, T - 1, min(stage.identity_frames, T)).long()]))
    for i in range(stage.rounds):
        task.progress("fitting landmarks", i, stage.rounds, None)
        weights = seen_weights(rig, identity, pose, observations)
        term = landmark_term(rig, observations, weights, stage.sigma_mm, stage.pair_sigma_mm, stage.robust_mm * (3 if i == 0 else 1))
        iterations = stage.iterations if i in (0, stage.rounds - 1) else 2
        pose, _ = fit_poses(head, [term], identity, pose, segments, config.priors, smooth, neutral, iterations)
        if i == stage.rounds - 1:
            break
        for _ in range(2):
            soft = _softer(rig, observations, seen_weights(rig, identity, pose, observations), stage)
            identity = fit_identity(head, [soft], identity, pose, frames, config.priors, neutral, free_scale=calibrated)
            rig = landmark_rig(settle(head, identity))
    task.progress("fitting landmarks", stage.rounds, stage.rounds, None)
    return replace(fit, identity=identity, pose=pose)
