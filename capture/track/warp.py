"""Pictures through a mesh: what one camera's picture looks like from another camera or at another time, and the flow that is left.

The mesh explains the large motion between two pictures (a wide baseline, a turned head, an open mouth); optical flow then
only has to find the small remainder, in which it is accurate to a fraction of a pixel and cannot get lost.
Greyscale uint8 [H, W]; pixel coordinates with the corner of the image at (0, 0).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from avatars.transforms import project_points, transform
from avatars.types import Cameras
from cuda_ext import ops


@dataclass(frozen=True)
class SeenMesh:
    """A mesh as one camera sees it."""

    vertices: np.ndarray  # [V, 3] world
    pixels: np.ndarray  # [V, 2]
    face_ids: np.ndarray  # [H, W] int32, -1: none
    barycentrics: np.ndarray  # [H, W, 3]
    depth: np.ndarray  # [H, W] metres, 0: none
    visible: np.ndarray  # [V] 0–1: unoccluded, times how much it faces the camera


def see_mesh(vertices: Tensor, faces: Tensor, cameras: Cameras, slack: float = 2.5e-3) -> list[SeenMesh]:
    """Rasterise vertices [V, 3] in every camera; `slack` metres is how far behind the nearest surface still counts as visible."""
    C = len(cameras)
    local = transform(cameras.viewmats, vertices.expand(C, -1, 3)).contiguous()
    face_ids, barycentrics, depth = ops.rasterize_mesh(local, faces, cameras.Ks, cameras.width, cameras.height)
    pixels, z = project_points(vertices.expand(C, -1, 3), cameras.viewmats, cameras.Ks)
    normals = vertex_normals(vertices, faces)
    view = torch.nn.functional.normalize(cameras.centers[:, None] - vertices, dim=-1)
    facing = (((view * normals).sum(-1) - 0.15) / 0.35).clamp(0, 1).numpy()
    result = []
    for c in range(C):
        nearest = farthest_around(depth[c].numpy())
        at = sample(nearest, pixels[c].numpy(), nearest=True)
        clear = (at > 0) & (z[c].numpy() < at + slack)
        result.append(SeenMesh(
            vertices.numpy(), pixels[c].numpy(), face_ids[c].numpy(), barycentrics[c].numpy(), depth[c].numpy(), facing[c] * clear,
        ))  # fmt: skip
    return result


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Area-weighted unit normals [.., V, 3] of vertices [.., V, 3]."""
    a, b, c = (vertices[..., faces[:, k], :] for k in range(3))
    face = torch.linalg.cross(b - a, c - a)
    normals = torch.zeros_like(vertices)
    for k in range(3):
        normals.index_add_(-2, faces[:, k], face)
    return torch.nn.functional.normalize(normals, dim=-1)


def farthest_around(depth: np.ndarray) -> np.ndarray:
    """Depth where one pixel of silhouette or crease is given the farther side, so that vertices on it are not lost."""
    return cv2.dilate(depth, np.ones((3, 3), np.uint8))


def sample(image: np.ndarray, pixels: np.ndarray, nearest: bool = False) -> np.ndarray:
    """Values of image [H, W] or [H, W, K] at pixels [.., 2]; 0 outside."""
    flat = pixels.reshape(-1, 2).astype(np.float32) - np.float32(0.5)
    width = 1 << 14  # cv2.remap takes maps of at most 32767 columns or rows
    count = len(flat)
    rows = -(-count // width)
    grid = np.full((rows * width, 2), -1e4, np.float32)
    grid[:count] = flat
    mode = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
    values = cv2.remap(image, grid.reshape(rows, width, 2), None, mode, borderMode=cv2.BORDER_CONSTANT)
    return values.reshape(rows * width, *image.shape[2:])[:count].reshape(*pixels.shape[:-1], *image.shape[2:])


def even_out(image: np.ndarray, sigma: float) -> np.ndarray:
    """Remove brightness and contrast that change slowly (light, exposure, a head that turns): uint8 → uint8."""
    deviation = image - _blurred(image.astype(np.float32), sigma)
    contrast = np.sqrt(np.maximum(_blurred(deviation * deviation, sigma), 0))
    return np.clip(128 + 45 * deviation / (contrast + 5.0), 0, 255).astype(np.uint8)


def _blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    """A wide Gaussian blur, worked out on a smaller picture."""
    factor = max(1, int(sigma // 2))
    size = max(1, image.shape[1] // factor), max(1, image.shape[0] // factor)
    small = cv2.GaussianBlur(cv2.resize(image, size, interpolation=cv2.INTER_AREA), (0, 0), sigma / factor)
    return cv2.resize(small, image.shape[::-1], interpolation=cv2.INTER_LINEAR)


def warp(
    source_image: np.ndarray, source: SeenMesh, source_camera: tuple[np.ndarray, np.ndarray], target: SeenMesh, faces: np.ndarray,
    slack: float = 4e-3,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """`source_image` [H, W] as it looks where `target` sees the same surface points: (uint8 [H, W], valid [H, W] bool).

    source_camera: K [3, 3] and viewmat [4, 4]. Points that the source does not
    see (nearest surface more than `slack` metres in front) are not valid.
    """
    K, view = source_camera
    shown = target.face_ids >= 0
    # (u z, v z, z) in the source camera is linear over a triangle: interpolated rather than projected per pixel.
    homogeneous = ((source.vertices @ view[:3, :3].T + view[:3, 3]) @ K.T).astype(np.float32)
    corners = homogeneous[faces].reshape(len(faces), 9)
    at = np.flatnonzero(shown)
    picked = np.take(corners, np.take(target.face_ids.reshape(-1), at), axis=0).reshape(-1, 3, 3)
    image = np.einsum("nk,nkj->nj", np.take(target.barycentrics.reshape(-1, 3), at, axis=0), picked)
    depth = image[:, 2]
    grid = np.full((shown.size, 2), -1e4, np.float32)
    grid[at] = image[:, :2] / np.maximum(depth, 1e-6)[:, None] - np.float32(0.5)
    grid = grid.reshape(*shown.shape, 2)
    warped = cv2.remap(source_image, grid, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    nearest = cv2.remap(source.depth, grid, None, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT).reshape(-1)[at]
    valid = np.zeros(shown.size, bool)
    valid[at] = (nearest > 0) & (depth < nearest + slack)
    return warped, valid.reshape(shown.shape)


class Flow:
    """Dense inverse search (Kroeger et al. 2016, in OpenCV) from a warped picture to the real one, with its reliability."""

    def __init__(self, fine: bool = True) -> None:
        """`fine` goes to full resolution: 55 ms rather than 21 at 400×550, and twice as accurate (0.1 px against 0.2)."""
        preset = cv2.DISOPTICAL_FLOW_PRESET_FAST if fine else cv2.DISOPTICAL_FLOW_PRESET_MEDIUM
        self.search = cv2.DISOpticalFlow_create(preset)
        self.search.setFinestScale(0 if fine else 1)

    def __call__(self, warped: np.ndarray, valid: np.ndarray, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Flow [H, W, 2] with warped(p) = image(p + flow), and reliability [H, W] in 0–1. Where not valid, the two are taken as alike."""
        box = _box(valid, image.shape)
        flow, trust = np.zeros((*image.shape, 2), np.float32), np.zeros(image.shape, np.float32)
        if box is None:
            return flow, trust
        y, x = box
        inside = valid[y, x]
        target = np.ascontiguousarray(image[y, x])
        source = np.where(inside, warped[y, x], target)
        found = self.search.calc(source, target, None)
        h, w = source.shape
        grid = found + np.stack(np.meshgrid(np.arange(w, dtype=np.float32), np.arange(h, dtype=np.float32)), -1)
        moved = cv2.remap(target, grid, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        agree = correlation(source, moved)
        # Windows that reach over the edge of what is valid contain copied pixels.
        whole = cv2.erode(inside.astype(np.uint8), np.ones((3, 3), np.uint8))
        flow[y, x], trust[y, x] = found, np.clip((agree - 0.4) / 0.5, 0, 1) * whole
        return flow, trust


def correlation(a: np.ndarray, b: np.ndarray, size: int = 9) -> np.ndarray:
    """Normalised correlation [H, W] of two pictures in windows around every pixel; near 0 without texture."""
    a, b = a.astype(np.float32), b.astype(np.float32)

    def mean(x):
        return cv2.boxFilter(x, -1, (size, size))

    ma, mb = mean(a), mean(b)
    va, vb = mean(a * a) - ma * ma, mean(b * b) - mb * mb
    return (mean(a * b) - ma * mb) / np.sqrt((va + 8.0) * (vb + 8.0))


def _box(valid: np.ndarray, shape: tuple[int, ...], margin: int = 16) -> tuple[slice, slice] | None:
    rows, columns = np.flatnonzero(valid.any(1)), np.flatnonzero(valid.any(0))
    if len(rows) == 0:
        return None
    y0, y1 = max(rows[0] - margin, 0), min(rows[-1] + margin + 1, shape[0])
    x0, x1 = max(columns[0] - margin, 0), min(columns[-1] + margin + 1, shape[1])
    if y1 - y0 < 32 or x1 - x0 < 32:
        return None  # smaller than the coarsest patches
    return slice(y0, y1), slice(x0, x1)
