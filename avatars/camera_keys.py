"""A camera path through key cameras, as smooth as a person on rails: it passes each key exactly and never jerks.

What is interpolated is what an operator thinks of: the point looked at, the distance from it, the direction, and the
focal length. Each is a cubic Hermite spline with the tangents of Catmull and Rom (1974) for uneven times; directions are
quaternions of one hemisphere, normalised, and distances and focal lengths are logarithms, so that halving takes as long as
doubling. A path between two cameras on opposite sides of the head therefore swings around it and not through it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from avatars.files import atomic_path
from avatars.transforms import matrix_to_quat, quat_to_matrix
from avatars.types import Cameras

NEAREST = 0.05  # metres: no camera looks at a point nearer than this


def through_keys(keys: Cameras, times: Sequence[float], at: Sequence[float], center: Tensor) -> Cameras:
    """K key cameras that are reached at ascending `times` [K], sampled at `at` [T]; before and after they stand still.

    center [3]: the head; each key is taken to look at the point of its axis that is nearest to it. ValueError without keys
    or when the times do not ascend.
    """
    T = torch.as_tensor(list(times), dtype=torch.float64)
    if len(keys) == 0 or len(T) != len(keys) or not bool((T[1:] > T[:-1]).all()):
        raise ValueError(f"{len(keys)} key cameras need as many ascending times, got {T.tolist()}")
    views = keys.viewmats.double().cpu()
    R = views[:, :3, :3]
    eyes = keys.centers.double().cpu()
    forward = R[:, 2]
    distance = ((center.double().cpu() - eyes) * forward).sum(1).clamp_min(NEAREST)
    focal = keys.Ks[:, [0, 1], [0, 1]].double().cpu()
    middle = keys.Ks[:, :2, 2].double().cpu()
    quats = _one_hemisphere(matrix_to_quat(R))
    values = torch.cat([eyes + distance[:, None] * forward, distance.log()[:, None], quats, focal.log(), middle], 1)
    path = _spline(T, values, torch.as_tensor(list(at), dtype=torch.float64).clamp(T[0], T[-1]))
    turned = quat_to_matrix(torch.nn.functional.normalize(path[:, 4:8], dim=1))
    eye = path[:, :3] - path[:, 3:4].exp() * turned[:, 2]
    viewmats = torch.eye(4, dtype=torch.float64).repeat(len(path), 1, 1)
    viewmats[:, :3, :3] = turned
    viewmats[:, :3, 3] = -(turned @ eye[..., None])[..., 0]
    Ks = torch.eye(3, dtype=torch.float64).repeat(len(path), 1, 1)
    Ks[:, 0, 0], Ks[:, 1, 1] = path[:, 8].exp(), path[:, 9].exp()
    Ks[:, :2, 2] = path[:, 10:]
    names = (keys.names[0],) * len(path)
    return Cameras(names, Ks.to(keys.Ks), viewmats.to(keys.viewmats), keys.width, keys.height)


def write_path(path: Path, cameras: Cameras, fps: float) -> None:
    """A camera per frame as JSON that `avatars.camera_path.read_path` and `avatars render --path` read."""
    frames = [
        {"K": [[round(v, 4) for v in row] for row in K], "viewmat": [[round(v, 7) for v in row] for row in view]}
        for K, view in zip(cameras.Ks.tolist(), cameras.viewmats.tolist(), strict=True)
    ]
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps({"fps": fps, "width": cameras.width, "height": cameras.height, "frames": frames}), encoding="utf-8")


def _one_hemisphere(quats: Tensor) -> Tensor:
    """[K, 4] with signs such that each is on the near side of the one before."""
    signs = torch.ones(len(quats), 1, dtype=quats.dtype)
    for k in range(1, len(quats)):
        signs[k] = signs[k - 1] * torch.where((quats[k] * quats[k - 1]).sum() < 0, -1.0, 1.0)
    return quats * signs


def _spline(times: Tensor, values: Tensor, at: Tensor) -> Tensor:
    """Values [K, D] at times [K], interpolated at `at` [T] within them: C¹, exact at the keys, at rest at both ends."""
    if len(times) == 1:
        return values.expand(len(at), -1)
    tangents = torch.zeros_like(values)
    if len(times) > 2:
        tangents[1:-1] = (values[2:] - values[:-2]) / (times[2:] - times[:-2])[:, None]
    k = torch.searchsorted(times, at, right=True).clamp(1, len(times) - 1)
    span = (times[k] - times[k - 1])[:, None]
    u = (at - times[k - 1])[:, None] / span
    first, last = values[k - 1], values[k]
    out, into = tangents[k - 1] * span, tangents[k] * span
    return (
        (2 * u**3 - 3 * u**2 + 1) * first + (u**3 - 2 * u**2 + u) * out + (3 * u**2 - 2 * u**3) * last + (u**3 - u**2) * into
    )  # fmt: skip
