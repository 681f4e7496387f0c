"""A picture sheet of a tracking: the mesh over frames of several cameras, and the mouth and the eyes larger."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

from avatars.files import atomic_path
from avatars.head import HeadModel
from avatars.render.mesh import head_colors, render_mesh
from avatars.sequence import TrackedSequence
from avatars.transforms import project_points
from avatars.types import Mesh

_COLUMNS, _TILE = 4, 320


def write_sheet(tracked: TrackedSequence, head: HeadModel, path: str | Path, rows: int = 5) -> None:
    """Write `path` (JPEG): for `rows` frames, the picture with the mesh's edges and shading in several cameras, then close-ups."""
    strips = [frame_strip(tracked, head, t) for t in telling_frames(tracked, rows)]
    width = max(s.shape[1] for s in strips)
    sheet = np.concatenate([np.pad(s, ((0, 6), (0, width - s.shape[1]), (0, 0))) for s in strips])
    ok, encoded = cv2.imencode(".jpg", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])
    if not ok:
        raise ValueError(f"write_sheet: OpenCV cannot encode a picture of {sheet.shape}")
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded.tobytes())


def telling_frames(tracked: TrackedSequence, count: int) -> list[int]:
    """The reference frame, then frames whose expressions differ most from all chosen before."""
    expression = tracked.codes.expression
    chosen = [int(tracked.provenance.get("reference", 0))]
    while len(chosen) < min(count, tracked.frame_count):
        distance = torch.cdist(expression, expression[chosen]).amin(1)
        distance[chosen] = -1
        chosen.append(int(distance.argmax()))
    return chosen


def frame_strip(tracked: TrackedSequence, head: HeadModel, t: int) -> np.ndarray:
    """uint8 [320, W, 3]: frame `t` in up to four cameras, then the mouth and the eyes from the most frontal one, without and with the mesh."""
    vertices = head.vertices(tracked.identity, tracked.codes[t])
    cameras = tracked.cameras
    center = vertices[0].mean(0)
    order = (torch.nn.functional.normalize(cameras.centers - center, dim=-1) @ torch.tensor([0.0, 0.0, 1.0])).argsort(descending=True)
    spread = [int(order[int(i)]) for i in np.unique(np.linspace(0, len(order) - 1, min(_COLUMNS, len(order))).round())]
    tiles = []
    for c in spread:
        drawn = overlay(tracked, head, vertices, t, c)
        tiles.append(cv2.resize(drawn, (round(_TILE * drawn.shape[1] / drawn.shape[0]), _TILE), interpolation=cv2.INTER_AREA))
    segment, local = tracked.locate(t)
    cv2.putText(tiles[0], f"{segment.name}:{local}", (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 0), 1, cv2.LINE_AA)
    front = spread[0]
    pictures = tracked.image(t, front), overlay(tracked, head, vertices, t, front)
    for regions in (("eyelids", "brows"), ("lips",)):
        points = project_points(vertices[0, head.region_vertices(*regions)], cameras.viewmats[front], cameras.Ks[front])[0].numpy()
        stack = [_close_up(p, points) for p in pictures]
        tiles.append(np.concatenate(stack))
    return np.concatenate(tiles, 1)


def overlay(tracked: TrackedSequence, head: HeadModel, vertices: torch.Tensor, t: int, camera: int) -> np.ndarray:
    """uint8 [H, W, 3]: the picture, the shaded mesh half over it, the borders of regions (lids, lips) as lines."""
    picture = tracked.image(t, camera)
    image = render_mesh(Mesh(vertices, head.faces), tracked.cameras[camera], head_colors(head))
    drawn, alpha = image.color[0].numpy() * 255, image.alpha[0].numpy() * 0.45
    mixed = picture * (1 - alpha) + drawn * alpha
    flat = render_mesh(Mesh(vertices, head.faces), tracked.cameras[camera], head_colors(head), shaded=False).color[0].numpy()
    edge = (np.abs(np.diff(flat, axis=0, append=flat[-1:])).sum(-1) + np.abs(np.diff(flat, axis=1, append=flat[:, -1:])).sum(-1)) > 0.05
    mixed[edge] = 0.4 * mixed[edge] + 0.6 * np.array([40, 255, 90])
    return np.clip(mixed, 0, 255).astype(np.uint8)


def _close_up(picture: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The part of a picture around points [N, 2], twice as wide as high, 320 × 160."""
    low, high = points.min(0), points.max(0)
    center, half = (low + high) / 2, max((high[0] - low[0]) * 0.62, (high[1] - low[1]) * 1.3, 4.0)
    scale = _TILE / (2 * half)
    matrix = np.array([[scale, 0, _TILE / 2 - scale * center[0]], [0, scale, _TILE / 4 - scale * center[1]]])
    return cv2.warpAffine(picture, matrix, (_TILE, _TILE // 2), flags=cv2.INTER_CUBIC)
