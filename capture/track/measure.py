"""How good a tracking is: residuals in pixels, and where there is ground truth, millimetres."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from avatars.head import SKIN, HeadModel
from avatars.sequence import TrackedSequence
from avatars.types import Cameras
from capture.track.config import TrackConfig
from capture.track.first import observe
from capture.track.marks import landmark_rig, residuals, seen_weights
from capture.track.points import settle
from capture.track.state import Fit, Footage
from capture.track.surface import closest_points
from capture.track.warp import see_mesh

if TYPE_CHECKING:
    from capture.truth import Truth


def measure(head: HeadModel, fit: Fit, footage: Footage, config: TrackConfig) -> tuple[dict, np.ndarray]:
    """Quality figures, and the median landmark residual of every picture in pixels [T, C] (NaN: no face found).

    landmark_px is the median distance between a landmark that faces the camera (the detector's outline of the face left out) and its
    point on the mesh. It contains what the detector means by a landmark, so it does not go to zero for a perfect mesh.
    """
    rig = landmark_rig(settle(head, fit.identity))
    observations = observe(rig, footage, fit.cameras, config)
    weights = seen_weights(rig, fit.identity, fit.pose, observations) * (rig.reliability > 0.5)
    focal = torch.stack([fit.cameras.Ks[:, 0, 0], fit.cameras.Ks[:, 1, 1]], -1)[:, None]
    pixels = (residuals(rig, fit.identity, fit.pose, observations, weights) * focal).norm(dim=-1).numpy()  # [T, C, P]
    finite = pixels[np.isfinite(pixels)]
    seen = np.isfinite(footage.points[:, :, 0, 0])
    per_picture = np.full(seen.shape, np.nan)
    for t, c in zip(*np.nonzero(np.isfinite(pixels).any(-1)), strict=True):
        per_picture[t, c] = np.nanmedian(pixels[t, c])
    expression = fit.pose.expression
    quality = {
        "landmark_px": float(np.median(finite)) if len(finite) else None,
        "landmark_px_mean": float(finite.mean()) if len(finite) else None,
        "faces_found": float(seen.mean()),
        "frames_without_face": int((~seen.any(1)).sum()),
        "cameras_without_face": [fit.cameras.names[c] for c in np.flatnonzero(~seen.any(0))],
        "expression_range": [float(expression.min()), float(expression.max())],
        "jitter": jitter(fit, footage),
    }
    return quality, per_picture


def jitter(fit: Fit, footage: Footage) -> float:
    """Root mean square of the second difference of expressions within the sequences: how much the codes tremble."""
    parts = [torch.diff(fit.pose.expression[s.start : s.stop], n=2, dim=0) for s in footage.segments if len(s) > 2]
    values = torch.cat(parts) if parts else torch.zeros(1)
    return float(values.square().mean().sqrt())


@dataclass(frozen=True)
class MeshError:
    """Distance of the true visible face to the tracked skin."""

    per_frame: np.ndarray  # [T] millimetres, mean over the visible face
    by_sequence: dict[str, float]

    @property
    def mean_mm(self) -> float:
        """Mean over all frames of all sequences."""
        return float(self.per_frame.mean())


def mesh_error(tracked: TrackedSequence, truth: Truth, head: HeadModel, most: int = 1200) -> MeshError:
    """Mean distance of true vertices of the visible face to the nearest point of the tracked skin, in every frame.

    The visible face: the vertices that the most frontal camera sees unoccluded and not at a grazing angle in a sequence's first frame,
    from the chin to 30 mm above the brows and between the ends of the jaw line (Multi-PIE landmarks 0–26 of the truth); ears, neck
    and scalp are thus left out, lips, lids and nose included. `most` of them, evenly drawn, are measured.
    """
    faces, landmarks = truth.faces, truth.landmark_vertex_ids
    skin = head.faces[head.region_faces(*SKIN)].numpy()
    shaped = head.shape(tracked.identity)
    per_frame = np.zeros(tracked.frame_count)
    by_sequence: dict[str, float] = {}
    ids: np.ndarray | None = None
    for segment in tracked.segments:
        vertices = truth.vertices(segment.name)
        if ids is None:
            ids = visible_face(vertices[0], faces, landmarks, tracked.cameras)
            ids = ids[:: max(1, len(ids) // most)]
        count = min(len(segment), len(vertices))
        for t in range(count):
            mesh = head.vertices(shaped, tracked.codes[segment.start + t])[0].numpy().astype(np.float64)
            per_frame[segment.start + t] = 1e3 * closest_points(vertices[t][ids].astype(np.float64), mesh, skin)[0].mean()
        by_sequence[segment.name] = float(per_frame[segment.start : segment.start + count].mean())
    return MeshError(per_frame, by_sequence)


def visible_face(vertices: np.ndarray, faces: np.ndarray, landmarks: np.ndarray, cameras: Cameras) -> np.ndarray:
    """Ids of the vertices of the visible face (see `mesh_error`) of a true mesh [V, 3]."""
    outline = vertices[landmarks[:27][landmarks[:27] >= 0]]
    chin, brow = outline[:, 1].min(), outline[:, 1].max()
    direction = torch.nn.functional.normalize(cameras.centers - torch.from_numpy(outline.mean(0)).float(), dim=-1)
    front = int(direction[:, 2].argmax())
    seen = see_mesh(torch.from_numpy(vertices).float(), torch.from_numpy(faces.astype(np.int64)), cameras[front].to(dtype=torch.float32))[0]
    inside = (vertices[:, 1] > chin - 0.002) & (vertices[:, 1] < brow + 0.03)
    inside &= (vertices[:, 0] > outline[:, 0].min()) & (vertices[:, 0] < outline[:, 0].max())
    return np.flatnonzero(inside & (seen.visible > 0.2))
