"""Gaussians as what they are: opaque ellipsoids at one standard deviation, lit from the camera. For looking at them; no backend.

Each is an icosahedron stretched by the Gaussian, whose normals are those of the exact ellipsoid at the point of the
sphere that a pixel shows. Triangles that face away are left out before rasterising, which is most of the time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from avatars.transforms import quat_to_matrix, transform
from avatars.types import Cameras, Gaussians, Image
from cuda_ext.ops import rasterize_mesh

FAINT = 0.1  # Gaussians of less opacity are haze and not drawn
REACH = 1.13  # of the icosahedron's corners, so that it covers as much as the ellipsoid
LEAST = 0.02  # thinnest axis relative to the longest: flatter triangles would flicker
_PHI = (1 + 5**0.5) / 2
_CORNERS = (
    (-1, _PHI, 0), (1, _PHI, 0), (-1, -_PHI, 0), (1, -_PHI, 0), (0, -1, _PHI), (0, 1, _PHI), (0, -1, -_PHI), (0, 1, -_PHI),
    (_PHI, 0, -1), (_PHI, 0, 1), (-_PHI, 0, -1), (-_PHI, 0, 1),
)  # fmt: skip
_FACES = (
    (0, 11, 5), (0, 5, 1), (0, 1, 7), (0, 7, 10), (0, 10, 11), (1, 5, 9), (5, 11, 4), (11, 10, 2), (10, 7, 6), (7, 1, 8),
    (3, 9, 4), (3, 4, 2), (3, 2, 6), (3, 6, 8), (3, 8, 9), (4, 9, 5), (2, 4, 11), (6, 2, 10), (8, 6, 7), (9, 8, 1),
)  # fmt: skip


@torch.no_grad()
def render_ellipsoids(gaussians: Gaussians, camera: Cameras, background: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Image:
    """Draw N Gaussians through one camera; colours are those seen from everywhere (degree 0). ValueError for several cameras."""
    if len(camera) != 1:
        raise ValueError(f"render_ellipsoids draws through one camera, got {len(camera)}")
    g = gaussians
    shown = (g.opacities >= FAINT).nonzero()[:, 0]
    like = g.means
    camera = camera.to(like.device, like.dtype)
    corners = REACH * torch.nn.functional.normalize(like.new_tensor(_CORNERS), dim=1)  # [12, 3]
    faces = torch.tensor(_FACES, device=like.device)  # [20, 3]
    R = quat_to_matrix(torch.nn.functional.normalize(g.quats[shown], dim=1))  # [N, 3, 3]
    scales = torch.maximum(g.scales[shown], LEAST * g.scales[shown].amax(1, keepdim=True))
    means = g.means[shown]
    world = means[:, None] + corners * scales[:, None] @ R.transpose(1, 2)  # [N, 12, 3]
    # In the frame where the Gaussian is the unit sphere, a face is in front of those points that lie above its plane.
    eye = ((camera.centers[0] - means)[:, None] @ R)[:, 0] / scales  # [N, 3]
    planes = corners[faces].mean(1)  # [20, 3] normals times the planes' distance from the centre
    front = eye @ planes.T > planes.square().sum(1)
    owner, which = front.nonzero(as_tuple=True)
    points = transform(camera.viewmats, world.reshape(1, -1, 3))
    ids, bary, depth = rasterize_mesh(points.contiguous(), owner[:, None] * 12 + faces[which], camera.Ks, camera.width, camera.height)
    hit = ids[0] >= 0
    triangle = ids[0][hit].long()
    color = like.new_tensor(background).expand(camera.height, camera.width, 3).clone()
    if len(triangle):
        one = owner[triangle]
        sphere = torch.nn.functional.normalize((corners[faces[which[triangle]]] * bary[0][hit][..., None]).sum(1), dim=1)
        normal = torch.nn.functional.normalize((R[one] @ (sphere / scales[one])[..., None])[..., 0], dim=1)
        towards = torch.nn.functional.normalize(camera.centers[0] - means[one], dim=1)
        light = 0.35 + 0.65 * (normal * towards).sum(1).clamp_min(0)
        color[hit] = (base_colors(g)[shown][one] * light[:, None]).clamp(0, 1)
    return Image(color[None], hit[None, ..., None].to(like.dtype), depth[..., None])


def base_colors(gaussians: Gaussians) -> Tensor:
    """[N, 3] colours in 0–1 without what depends on the direction."""
    return (0.5 + 0.28209479177387814 * gaussians.sh[:, 0]).clamp(0, 1)
