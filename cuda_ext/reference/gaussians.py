"""Projection and compositing of Gaussians in plain torch: what include/semantics.h says, line by line."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Mirrors of include/semantics.h; tests/cuda_ext/test_interface.py compares them.
ALPHA_MAX = 0.999
ALPHA_MIN = 1.0 / 255.0
TRANSMITTANCE_MIN = 4e-6
DET_MIN = 1e-20
FRUSTUM_MARGIN = 0.15
DEPTH_ALPHA_MIN = 1e-10
COORD_MAX = 1e6
COLOR_MAX = 1e30

_TILE = 32  # pixels per side of the squares in which `rasterize` works; has no influence on the result


def quats_to_matrices(quats: Tensor) -> Tensor:
    """Quaternions wxyz of any length [..., 4] → rotations [..., 3, 3]."""
    w, x, y, z = F.normalize(quats, dim=-1, eps=0.0 if quats.dtype == torch.float64 else 1e-30).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def sh_basis(directions: Tensor, degree: int) -> Tensor:
    """Real spherical harmonics of unit vectors [..., 3] → [..., (degree+1)²], in the order and signs of 3DGS."""
    x, y, z = directions.unbind(-1)
    one = torch.ones_like(x)
    basis = [0.28209479177387814 * one]
    if degree >= 1:
        c = 0.4886025119029199
        basis += [-c * y, c * z, -c * x]
    if degree >= 2:
        basis += [
            1.0925484305920792 * x * y,
            -1.0925484305920792 * y * z,
            0.31539156525252005 * (2 * z * z - x * x - y * y),
            -1.0925484305920792 * x * z,
            0.5462742152960396 * (x * x - y * y),
        ]
    if degree >= 3:
        basis += [
            -0.5900435899266435 * y * (3 * x * x - y * y),
            2.890611442640554 * x * y * z,
            -0.4570457994644658 * y * (4 * z * z - x * x - y * y),
            0.3731763325901154 * z * (2 * z * z - 3 * x * x - 3 * y * y),
            -0.4570457994644658 * x * (4 * z * z - x * x - y * y),
            1.445305721320277 * z * (x * x - y * y),
            -0.5900435899266435 * x * (x * x - 3 * y * y),
        ]
    return torch.stack(basis, -1)


def project(
    means: Tensor,  # [N, 3]
    quats: Tensor,  # [N, 4]
    scales: Tensor,  # [N, 3]
    opacities: Tensor,  # [N]
    sh: Tensor,  # [N, K, 3]
    viewmats: Tensor,  # [C, 4, 4]
    Ks: Tensor,  # [C, 3, 3]
    width: int,
    height: int,
    near: float = 0.01,
    eps2d: float = 0.3,
    antialiased: bool = False,
    sh_degree: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """EWA projection; returns means2d [C,N,2], conics [C,N,3], depths [C,N], colors [C,N,3], opacities [C,N], radii [C,N,2]."""
    degree = math.isqrt(sh.shape[1]) - 1 if sh_degree is None else sh_degree
    finite = torch.ones(means.shape[0], dtype=torch.bool, device=means.device)
    for tensor in (means, quats, scales, opacities, sh):
        finite &= tensor.isfinite().flatten(1).all(1) if tensor.dim() > 1 else tensor.isfinite()
    finite &= (quats * quats).sum(-1) > 1e-30
    # Culled Gaussians are replaced by harmless ones before any arithmetic, so that no NaN reaches a gradient.
    unit = torch.zeros_like(quats)
    unit[:, 0] = 1
    means = torch.where(finite[:, None], means, 0)
    quats = torch.where(finite[:, None], quats, unit)
    scales = torch.where(finite[:, None], scales, 1)
    opacities = torch.where(finite, opacities, 0)
    sh = torch.where(finite[:, None, None], sh, 0)

    R, t = viewmats[:, :3, :3], viewmats[:, :3, 3]
    points = torch.einsum("cij,nj->cni", R, means) + t[:, None]
    visible = finite & (points[..., 2] >= near) & points.isfinite().all(-1)
    points = torch.where(visible[..., None], points, torch.tensor([0.0, 0.0, 1.0], dtype=means.dtype, device=means.device))
    x, y, z = points.unbind(-1)
    fx, skew, cx, fy, cy = (Ks[:, i, j, None] for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2)))
    u = (fx * x + skew * y) / z + cx
    v = fy * y / z + cy

    margin_x, margin_y = FRUSTUM_MARGIN * width, FRUSTUM_MARGIN * height
    tx = torch.minimum(torch.maximum(x / z, -(cx + margin_x) / fx), (width - cx + margin_x) / fx)
    ty = torch.minimum(torch.maximum(y / z, -(cy + margin_y) / fy), (height - cy + margin_y) / fy)
    zero = torch.zeros_like(z)
    J = torch.stack([fx / z, skew / z, -(fx * tx + skew * ty) / z, zero, fy / z, -fy * ty / z], -1).unflatten(-1, (2, 3))
    M = quats_to_matrices(quats) * scales[:, None, :]
    A = J @ R[:, None] @ M  # [C, N, 2, 3]
    cov = A @ A.transpose(-1, -2)
    a0, b, c0 = cov[..., 0, 0], cov[..., 0, 1], cov[..., 1, 1]
    a, c = a0 + eps2d, c0 + eps2d
    det = a * c - b * b
    visible = visible & (det > DET_MIN) & det.isfinite() & (u.abs() < COORD_MAX) & (v.abs() < COORD_MAX)
    det = torch.where(visible, det, 1)

    opacity = opacities.expand(len(viewmats), -1)
    if antialiased:
        ratio = (a0 * c0 - b * b) / det
        opacity = opacity * torch.where(ratio > 0, ratio, 1).sqrt() * (ratio > 0)
    visible = visible & (opacity >= ALPHA_MIN)
    q_max = 2 * (opacity.detach().clamp_min(ALPHA_MIN) / ALPHA_MIN).log()
    extent_x, extent_y = (q_max * a.detach()).sqrt(), (q_max * c.detach()).sqrt()
    touches = (u + extent_x > 0) & (u - extent_x < width) & (v + extent_y > 0) & (v - extent_y < height)
    visible = visible & touches
    radii = torch.stack([extent_x, extent_y], -1).ceil().clamp_max(2**30)
    radii = torch.where(visible[..., None], radii, 0).to(torch.int32)

    centers = -(R.transpose(1, 2) @ t[..., None])[..., 0]
    directions = F.normalize(means[None] - centers[:, None], dim=-1)
    basis = sh_basis(directions, degree)
    colors = torch.einsum("cnk,nkd->cnd", basis, sh[:, : (degree + 1) ** 2]) + 0.5
    sane = (colors.abs() < COLOR_MAX).all(-1)
    visible = visible & sane
    radii = torch.where(sane[..., None], radii, 0)
    colors = torch.where(sane[..., None], colors, 0).clamp_min(0)

    def keep(value: Tensor) -> Tensor:
        return torch.where(visible if value.dim() == 2 else visible[..., None], value, 0)

    conics = torch.stack([c / det, -b / det, a / det], -1)
    return keep(torch.stack([u, v], -1)), keep(conics), keep(z), keep(colors), keep(opacity), radii


def rasterize(
    means2d: Tensor,  # [C, N, 2]
    conics: Tensor,  # [C, N, 3]
    depths: Tensor,  # [C, N]
    colors: Tensor,  # [C, N, 3]
    opacities: Tensor,  # [C, N]
    radii: Tensor,  # [C, N, 2]
    width: int,
    height: int,
    backgrounds: Tensor | None = None,  # [C, 3]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Alpha compositing; returns color [C,H,W,3], alpha [C,H,W,1], depth [C,H,W,1], contributions [N], margin [C,H,W].

    `margin` is the least relative distance of any alpha to the cut-off at that pixel: where it is tiny, rounding
    decides whether a contribution counts, and comparisons should leave the pixel out.
    """
    C, N = depths.shape
    dtype, device = means2d.dtype, means2d.device
    behind = torch.zeros(C, 3, dtype=dtype, device=device) if backgrounds is None else backgrounds
    contributions = torch.zeros(N, dtype=dtype, device=device)
    images, margins = [], []
    for camera in range(C):
        order = torch.argsort(depths[camera].detach().to(torch.float32), stable=True)
        order = order[(radii[camera, order] > 0).all(-1)]
        with torch.no_grad():
            centre, radius = means2d[camera, order], radii[camera, order].to(dtype)
            low, high = centre - radius, centre + radius
        rows, margin_rows = [], []
        for top in range(0, height, _TILE):
            row, margin_row = [], []
            in_row = (high[:, 1] > top) & (low[:, 1] < top + _TILE)
            for left in range(0, width, _TILE):
                h, w = min(_TILE, height - top), min(_TILE, width - left)
                ids = order[in_row & (high[:, 0] > left) & (low[:, 0] < left + _TILE)]
                py, px = torch.meshgrid(
                    torch.arange(top, top + h, dtype=dtype, device=device) + 0.5,
                    torch.arange(left, left + w, dtype=dtype, device=device) + 0.5,
                    indexing="ij",
                )
                dx = px.reshape(1, -1) - means2d[camera, ids, 0, None]
                dy = py.reshape(1, -1) - means2d[camera, ids, 1, None]
                a, b, c = (conics[camera, ids, i, None] for i in range(3))
                power = -0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy
                raw = opacities[camera, ids, None] * power.clamp_max(0).exp()
                alpha = torch.where(raw >= ALPHA_MIN, raw.clamp_max(ALPHA_MAX), 0)
                through = torch.cumprod(torch.cat([torch.ones_like(px.reshape(1, -1)), 1 - alpha]), 0)  # [n + 1, pixels]
                weight = alpha * through[:-1]
                values = torch.cat([colors[camera, ids], depths[camera, ids, None]], -1)
                summed = weight.T @ values  # [pixels, 4]
                remaining = through[-1][:, None]
                color = summed[:, :3] + remaining * behind[camera]
                opaque = 1 - remaining
                depth = summed[:, 3:] / opaque.clamp_min(DEPTH_ALPHA_MIN)
                row.append(torch.cat([color, opaque, depth], -1).reshape(h, w, 5))
                with torch.no_grad():
                    contributions.index_add_(0, ids, weight.sum(1))
                    distance = (raw / ALPHA_MIN - 1).abs()
                    least = distance.min(0).values if len(ids) else torch.full((h * w,), torch.inf, dtype=dtype, device=device)
                    margin_row.append(least.reshape(h, w))
            rows.append(torch.cat(row, 1))
            margin_rows.append(torch.cat(margin_row, 1))
        images.append(torch.cat(rows, 0))
        margins.append(torch.cat(margin_rows, 0))
    if not images:
        nothing = means2d.sum() + conics.sum() + depths.sum() + colors.sum() + opacities.sum()  # keeps the place in the graph
        image = torch.zeros(0, height, width, 5, dtype=dtype, device=device) + nothing
        return image[..., :3], image[..., 3:4], image[..., 4:], contributions, image[..., 0]
    image = torch.stack(images)
    return image[..., :3], image[..., 3:4], image[..., 4:], contributions, torch.stack(margins)
