"""A single camera of unknown focal length: where the face is in each frame, and which focal length explains a turning head best.

The world of such a capture is put up here: y up, the camera on the z axis in front of the face and looking along −z, the
origin where the head mostly is, so that all else can treat it like a calibrated one.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np
import torch
from torch import Tensor

from avatars.errors import CaptureError
from avatars.transforms import axis_angle_to_matrix, matrix_to_axis_angle
from avatars.types import Cameras, HeadPose

CANDIDATES = (1.1, 1.5, 2.0, 2.7, 3.6)
"""Focal lengths that are tried, in units of the picture's longer side: from a webcam's wide angle to a portrait lens."""

PRIOR = (math.log(2.0), 0.35)
"""Mean and standard deviation of the logarithm of the same."""

_FLIP = np.diag([1.0, -1.0, -1.0])


def camera_in_front(name: str, width: int, height: int, focal: float, distance: float) -> Cameras:
    """One camera on the z axis, `distance` metres from the origin, principal point in the middle, focal length in pixels."""
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    view = torch.eye(4)
    view[:3, :3] = torch.from_numpy(_FLIP).float()
    view[2, 3] = distance
    return Cameras((name,), K[None], view[None], width, height)


def place_by_perspective(template: Tensor, pixels: Tensor, weights: Tensor, cameras: Cameras) -> tuple[Tensor, Tensor]:
    """Rotation vectors [T, 3] and positions [T, 3] of the head in the world, from the one camera of `cameras`.

    template [P, 3] metres, pixels [T, P, 2], weights [T, P] (0: not seen). Frames without a face repeat their neighbour's.
    """
    K = cameras.Ks[0].double().numpy()
    view = cameras.viewmats[0].double().numpy()
    T = len(pixels)
    rotations, positions, found = np.zeros((T, 3)), np.zeros((T, 3)), np.zeros(T, bool)
    points = template.numpy().astype(np.float64)
    for t in range(T):
        use = weights[t].numpy() > 0.05
        if use.sum() < 12:
            continue
        image = pixels[t].numpy()[use].astype(np.float64)
        ok, rvec, tvec = cv2.solvePnP(points[use], image, K, None, flags=cv2.SOLVEPNP_SQPNP)
        if not ok or tvec[2, 0] <= 0:
            continue
        rvec, tvec = cv2.solvePnPRefineLM(points[use], image, K, None, rvec, tvec)
        R = view[:3, :3].T @ cv2.Rodrigues(rvec)[0]
        rotations[t], found[t] = cv2.Rodrigues(R)[0][:, 0], True
        positions[t] = view[:3, :3].T @ (tvec[:, 0] - view[:3, 3])
    if not found.any():
        raise CaptureError(
            "No face is seen in enough detail in any frame. It must be seen from the front for a part of the video, and be at least 60 pixels wide."
        )
    seen = np.flatnonzero(found)
    nearest = seen[np.abs(np.arange(T)[:, None] - seen[None]).argmin(1)]
    return torch.from_numpy(rotations[nearest]).float(), torch.from_numpy(positions[nearest]).float()


def share_with_neck(pose: HeadPose, share: float, neck: int, head: int, calm: int) -> HeadPose:
    """Give the part `share` of the head's turn to the neck and head joints, half each, relative to frame `calm`'s root."""
    R = axis_angle_to_matrix(pose.rotation)
    relative = matrix_to_axis_angle(R[calm].T @ R)
    joints = pose.joints.clone()
    joints[:, neck], joints[:, head] = relative * share / 2, relative * share / 2
    rest = axis_angle_to_matrix(relative * (1 - share))
    return HeadPose(pose.expression, joints, matrix_to_axis_angle(R[calm] @ rest), pose.translation)


def best_focal(size: int, cost: Callable[[float], float]) -> float:
    """The focal length in pixels with the least cost(focal) plus prior: a parabola through the best candidate and its neighbours."""
    logs = np.log(np.array(CANDIDATES))
    costs = np.array([cost(size * f) + 0.5 * ((math.log(f) - PRIOR[0]) / PRIOR[1]) ** 2 for f in CANDIDATES])
    best = int(costs.argmin())
    i = min(max(best, 1), len(costs) - 2)
    a, b, _ = np.polyfit(logs[i - 1 : i + 2], costs[i - 1 : i + 2], 2)
    if a <= 0:
        return size * CANDIDATES[best]
    return size * math.exp(float(np.clip(-b / (2 * a), logs[i - 1], logs[i + 1])))
