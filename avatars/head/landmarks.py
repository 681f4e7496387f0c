"""Where a landmark detector's points lie on a head, found by showing it pictures of the head.

The head is drawn in plausible colours as several people from several sides; every detected point is cast back onto the
triangle under it; the median over the pictures, laid on the template, is the correspondence. The detector comes in as a
function, so that this package needs none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from avatars.head.model import SKIN, HeadModel, Landmarks
from avatars.progress import Progress, silent
from avatars.render.mesh import head_colors, render_mesh
from avatars.transforms import look_at, transform
from avatars.types import Cameras, Identity, Mesh
from cuda_ext.ops import rasterize_mesh

Detector = Callable[[Iterable[np.ndarray]], np.ndarray]
"""A stream of N pictures, uint8 RGB [H, W, 3] → pixel positions [N, L, 2], NaN where it sees no face."""

VIEWS = ((0, 0), (-12, 0), (12, 0), (-26, 0), (26, 0), (0, 10), (0, -12), (-40, 0), (40, 0))
"""Yaw and pitch of the pictures, degrees."""

IRISES = (range(468, 473), range(473, 478))
"""MediaPipe's iris points: the subject's right eye, then the left; the first of each is the centre."""


@dataclass(frozen=True)
class Hits:
    """What one landmark met: template positions [N, 3] and the cosine at which each was seen [N]."""

    points: np.ndarray
    facing: np.ndarray


def find_correspondences(
    head: HeadModel, detect: Detector, people: int = 5, size: int = 400, spread: float = 0.6, progress: Progress = silent
) -> Landmarks:
    """Show `people` random identities (and the mean) to `detect` from all VIEWS and settle where its points lie.

    A point is valid when it was found on the head in a third of the pictures and its positions agree: half of them within
    6 mm of their median. ValueError when the detector never sees a face.
    """
    shots = [(identity, view) for identity in _identities(head, people, spread) for view in VIEWS]

    def pictures() -> Iterator[np.ndarray]:
        for n, (identity, view) in enumerate(shots):
            progress("looking for landmarks", n, len(shots))
            vertices = head.vertices(identity, head.neutral())
            picture = render_mesh(Mesh(vertices, head.faces), _camera(head, *view, size), head_colors(head), (0.72, 0.74, 0.76))
            yield (picture.color[0].numpy() * 255 + 0.5).clip(0, 255).astype(np.uint8)

    found = detect(pictures())
    seen = [_cast(head, *shot, size, pixels) for shot, pixels in zip(shots, found, strict=True) if np.isfinite(pixels).all()]
    progress("looking for landmarks", len(shots), len(shots), {"faces seen": f"{len(seen)}/{len(shots)}"})
    if not seen:
        raise ValueError(f"the detector saw no face in any picture of head {head.name}")
    points = np.stack([s[0] for s in seen])  # [N, L, 3], NaN where nothing was met
    facing = np.stack([s[1] for s in seen])
    skin = head.region_faces(*SKIN).numpy()
    face_ids, barycentrics, valid = [], [], []
    for k in range(points.shape[1]):
        hits = Hits(points[:, k], facing[:, k])
        eye = next((("right", "left")[e] for e, ids in enumerate(IRISES) if k in ids and points.shape[1] == 478), None)
        allowed = head.region_faces(f"eyeball_{eye}", f"iris_{eye}", f"pupil_{eye}").numpy() if eye else skin
        face, bary, good = _settle(head, hits, allowed)
        face_ids.append(face)
        barycentrics.append(bary)
        valid.append(good)
    return Landmarks(torch.tensor(face_ids), torch.tensor(np.array(barycentrics), dtype=torch.float32), torch.tensor(valid))


def subset(landmarks: Landmarks, ids: tuple[int, ...]) -> Landmarks:
    """The landmarks `ids`, in that order."""
    index = torch.tensor(ids, device=landmarks.face_ids.device)
    return Landmarks(landmarks.face_ids[index], landmarks.barycentrics[index], landmarks.valid[index])


def with_landmarks(head: HeadModel, **kinds: Landmarks) -> HeadModel:
    """The head with these landmarks added or replaced."""
    return replace(head, landmarks={**head.landmarks, **kinds})


def _identities(head: HeadModel, people: int, spread: float) -> Iterator[Identity]:
    yield head.mean_identity()
    rng = torch.Generator().manual_seed(1)
    for _ in range(people):
        yield Identity(torch.randn(head.I, generator=rng).to(head.template) * spread)


def _camera(head: HeadModel, yaw: float, pitch: float, size: int) -> Cameras:
    """A portrait camera that looks at the middle of the face from 0.8 m."""
    eyes = head.joint_template[3:5].mean(0)
    target = eyes + eyes.new_tensor([0.0, -0.03, 0.01])
    a, b = np.deg2rad(yaw), np.deg2rad(pitch)
    offset = eyes.new_tensor([np.sin(a) * np.cos(b), np.sin(b), np.cos(a) * np.cos(b)])
    viewmat = look_at(target + 0.8 * offset, target, eyes.new_tensor([0.0, 1.0, 0.0]))
    K = eyes.new_tensor([[2.4 * size, 0, size / 2], [0, 2.4 * size, size / 2], [0, 0, 1]])
    return Cameras(("portrait",), K[None], viewmat[None], size, size)


def _cast(head: HeadModel, identity: Identity, view: tuple[float, float], size: int, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Template positions [L, 3] under the detected pixels [L, 2] (NaN where there is none) and cosines [L]."""
    camera = _camera(head, *view, size)
    points = transform(camera.viewmats, head.vertices(identity, head.neutral()))
    ids, bary, _ = rasterize_mesh(points, head.faces, camera.Ks, size, size)
    x, y = (np.clip(np.floor(pixels[:, k]).astype(int), 0, size - 1) for k in (0, 1))
    met = (ids[0, y, x] >= 0).numpy()
    face = ids[0, y, x].long().clamp_min(0)
    corners = points[0][head.faces[face]]
    normal = torch.nn.functional.normalize(torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), dim=-1)
    ray = torch.nn.functional.normalize(corners.mean(1), dim=-1)
    on_template = (head.template[head.faces[face]] * bary[0, y, x][..., None]).sum(1).numpy().astype(np.float64)
    on_template[~met] = np.nan
    return on_template, np.where(met, -(normal * ray).sum(-1).numpy(), 0.0)


def _settle(head: HeadModel, hits: Hits, allowed: np.ndarray) -> tuple[int, np.ndarray, bool]:
    """Weighted geometric median of the hits, laid on the allowed triangles: face, barycentrics, whether the hits agree."""
    good = np.isfinite(hits.points[:, 0]) & (hits.facing > 0.05)
    if good.sum() < 3:
        return int(allowed[0]), np.array([1.0, 0, 0]), False
    points, weights = hits.points[good], hits.facing[good] ** 2
    center = np.median(points, 0)
    for _ in range(50):  # Weiszfeld 1937
        w = weights / np.maximum(np.linalg.norm(points - center, axis=1), 1e-4)
        center = (w[:, None] * points).sum(0) / w.sum()
    spread = np.median(np.linalg.norm(points - center, axis=1))
    corners = head.template[head.faces[torch.from_numpy(allowed)]].numpy().astype(np.float64)
    face, bary, distance = closest_on_triangles(center[None], corners)
    valid = good.mean() > 1 / 3 and spread < 0.006 and distance[0] < 0.006
    return int(allowed[face[0]]), bary[0], bool(valid)


def closest_on_triangles(points: np.ndarray, corners: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For points [P, 3] the nearest of triangles [F, 3, 3]: index [P], barycentrics [P, 3], distance [P] (Ericson 2005, 5.1.5)."""
    index, weights, distance = [], [], []
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    for p in points:
        bary = _closest_barycentrics(p, a, b, c)
        near = (corners * bary[..., None]).sum(1)
        d = np.linalg.norm(near - p, axis=1)
        best = int(d.argmin())
        index.append(best)
        weights.append(bary[best])
        distance.append(d[best])
    return np.array(index), np.array(weights), np.array(distance)


def _closest_barycentrics(p: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Barycentrics [F, 3] of the point of each triangle that is nearest to p: the inside, else the best of three edges."""
    ab, ac, ap = b - a, c - a, p - a
    d00, d01, d11 = (ab * ab).sum(1), (ab * ac).sum(1), (ac * ac).sum(1)
    d20, d21 = (ap * ab).sum(1), (ap * ac).sum(1)
    determinant = np.maximum(d00 * d11 - d01 * d01, 1e-30)
    v, w = (d11 * d20 - d01 * d21) / determinant, (d00 * d21 - d01 * d20) / determinant
    inside = np.stack([1 - v - w, v, w], 1)
    best, bary = np.full(len(a), np.inf), inside.copy()
    is_inside = (inside >= 0).all(1)
    for i, (s, e) in enumerate(((a, b), (b, c), (c, a))):
        t = np.clip(((p - s) * (e - s)).sum(1) / np.maximum(((e - s) ** 2).sum(1), 1e-30), 0, 1)
        d = ((s + t[:, None] * (e - s) - p) ** 2).sum(1)
        edge = np.zeros_like(bary)
        edge[:, i], edge[:, (i + 1) % 3] = 1 - t, t
        closer = (d < best) & ~is_inside
        bary[closer], best = edge[closer], np.minimum(best, d)
    return bary
