"""The public operators: they check shapes and devices, then take one branch: native CPU, native CUDA, or the reference.

float32 tensors on the CPU run the CPU library, on CUDA the CUDA library; float64 tensors, other devices, a missing library and
AVATARS_KERNELS=reference run `cuda_ext.reference`. Conventions, constants and culling rules: include/semantics.h. In short: OpenCV
cameras, pixel centres at +0.5, quaternions wxyz of any length, world units are the caller's, colours are linear combinations
of spherical harmonics plus 0.5, clamped below at zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cuda_ext import native, reference
from cuda_ext.adam import Adam
from cuda_ext.library import available

__all__ = [
    "Projected",
    "Rasterized",
    "Splat",
    "SplatStatistics",
    "Adam",
    "available",
    "bind",
    "blend",
    "l1_ssim",
    "penalty",
    "project",
    "rasterize",
    "rasterize_mesh",
    "splat",
    "ssim",
]


@dataclass(frozen=True)
class Projected:
    """N Gaussians as C cameras see them. Culled ones have radii 0 and zeros everywhere."""

    means2d: Tensor  # [C, N, 2] pixels
    conics: Tensor  # [C, N, 3] inverse 2D covariance xx, xy, yy, 1/pixel²
    depths: Tensor  # [C, N] camera z
    colors: Tensor  # [C, N, 3]
    opacities: Tensor  # [C, N] compensated when antialiased
    radii: Tensor  # [C, N, 2] int32 pixels: half the box outside of which alpha < 1/255


@dataclass(frozen=True)
class Rasterized:
    """What `rasterize` returns."""

    color: Tensor  # [C, H, W, 3]
    alpha: Tensor  # [C, H, W, 1]
    depth: Tensor  # [C, H, W, 1] expected camera z, 0 where alpha is 0
    contributions: Tensor  # [N] Σ over cameras and pixels of alpha·transmittance; no gradient


@dataclass(frozen=True)
class SplatStatistics:
    """Per-Gaussian sums for densification, accumulated in place by `splat`: by its backward pass, but `contributions` also by a
    forward pass without gradients (and on CUDA always by the forward pass). Zero them with `reset()`.

    Units: `grad_norm` adds ‖(W/2 ∂L/∂u, H/2 ∂L/∂v)‖ per camera that sees the Gaussian, u and v in pixels: the units of 3DGS
    and gsplat, whose usual threshold is 2e-4 on grad_norm / count for a loss that is a mean over pixels.
    """

    grad_norm: Tensor  # [N]
    count: Tensor  # [N] cameras that saw the Gaussian in a backward pass
    max_radius: Tensor  # [N] pixels
    contributions: Tensor  # [N] Σ alpha·transmittance over pixels

    @staticmethod
    def zeros(n: int, device: torch.device | str = "cpu") -> SplatStatistics:
        """Fresh statistics of `n` Gaussians."""
        return SplatStatistics(*(torch.zeros(n, device=device) for _ in range(4)))

    def reset(self) -> None:
        """Set all sums to zero in place."""
        for tensor in (self.grad_norm, self.count, self.max_radius, self.contributions):
            tensor.zero_()


@dataclass(frozen=True)
class Splat:
    """What `splat` returns."""

    color: Tensor  # [C, H, W, 3] over the background
    alpha: Tensor  # [C, H, W, 1]
    depth: Tensor | None  # [C, H, W, 1] expected camera z, 0 where alpha is 0; None unless asked for
    radii: Tensor  # [C, N, 2] int32
    statistics: SplatStatistics | None


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
    *,
    near: float = 0.01,
    eps2d: float = 0.3,
    antialiased: bool = False,
    sh_degree: int | None = None,
) -> Projected:
    """Project Gaussians (EWA, Zwicker et al. 2001) and evaluate their colours; gradients to the first five arguments."""
    degree = _check_scene(means, quats, scales, opacities, sh, viewmats, Ks, width, height, near, sh_degree)
    tensors = (means, quats, scales, opacities, sh, viewmats, Ks)
    library = native.pick("av_project_forward", *tensors)
    if library is None:
        return Projected(*reference.project(*tensors, width, height, near, eps2d, antialiased, degree))
    return Projected(*native.project(library, tensors, width, height, near, eps2d, antialiased, degree))


def rasterize(
    projected: Projected,
    width: int,
    height: int,
    backgrounds: Tensor | None = None,  # [C, 3]
) -> Rasterized:
    """Composite projected Gaussians front to back; gradients to all of `projected` but radii, and to `backgrounds`."""
    p = projected
    C, N = p.depths.shape
    _expect("means2d", p.means2d, (C, N, 2))
    _expect("conics", p.conics, (C, N, 3))
    _expect("colors", p.colors, (C, N, 3))
    _expect("opacities", p.opacities, (C, N))
    _expect("radii", p.radii, (C, N, 2))
    backgrounds = _check_backgrounds(backgrounds, C, p.means2d)
    _check_size(width, height)
    tensors = (p.means2d, p.conics, p.depths, p.colors, p.opacities, p.radii)
    library = native.pick("av_rasterize_forward", *tensors[:5])
    if library is None:
        return Rasterized(*reference.rasterize(*tensors, width, height, backgrounds)[:4])
    return Rasterized(*native.rasterize(library, tensors, width, height, backgrounds))


def splat(
    means: Tensor,  # [N, 3]
    quats: Tensor,  # [N, 4]
    scales: Tensor,  # [N, 3]
    opacities: Tensor,  # [N]
    sh: Tensor,  # [N, K, 3]
    viewmats: Tensor,  # [C, 4, 4]
    Ks: Tensor,  # [C, 3, 3]
    width: int,
    height: int,
    *,
    backgrounds: Tensor | None = None,  # [C, 3]
    near: float = 0.01,
    eps2d: float = 0.3,
    antialiased: bool = False,
    sh_degree: int | None = None,
    log_scales: bool = False,
    logit_opacities: bool = False,
    depth: bool = True,
    statistics: SplatStatistics | None = None,
) -> Splat:
    """Project and composite in one pass: the fast path. Gradients to the first five arguments and to `backgrounds`.

    `log_scales` and `logit_opacities` say that those arguments hold raw parameters; the activation and its
    gradient are then part of the kernel. `sh_degree` evaluates fewer bases than `sh` holds. Without `depth` the forward
    and backward passes are cheaper. `statistics` are accumulated in place.
    """
    degree = _check_scene(means, quats, scales, opacities, sh, viewmats, Ks, width, height, near, sh_degree)
    backgrounds = _check_backgrounds(backgrounds, len(viewmats), means)
    if torch.compiler.is_compiling():
        if statistics is not None:
            raise ValueError("splat: statistics are not available under torch.compile")
        out = torch.ops.avatars.splat(
            means, quats, scales, opacities, sh, viewmats, Ks, backgrounds, width, height, near, eps2d, antialiased, sh_degree, log_scales,
            logit_opacities,
        )  # fmt: skip
        return Splat(out[0], out[1], out[2] if depth else None, out[3], None)
    if statistics is not None:
        _expect("statistics", statistics.grad_norm, (len(means),))
    tensors = (means, quats, scales, opacities, sh, viewmats, Ks)
    library = native.pick("av_splat_forward", *tensors)
    if library is None:
        return _splat_reference(
            tensors, width, height, backgrounds, near, eps2d, antialiased, degree, log_scales, logit_opacities, depth, statistics
        )
    flags = native.flags(antialiased, log_scales, logit_opacities)
    color, alpha, z, radii = native.splat(
        library, tensors, width, height, backgrounds, near, eps2d, flags, degree, depth, statistics
    )
    return Splat(color, alpha, z, radii, statistics)


def _splat_reference(
    tensors, width, height, backgrounds, near, eps2d, antialiased, degree, log_scales, logit_opacities, depth, statistics
) -> Splat:
    means, quats, scales, opacities, sh, viewmats, Ks = tensors
    scales = scales.exp() if log_scales else scales
    opacities = opacities.sigmoid() if logit_opacities else opacities
    p = reference.project(means, quats, scales, opacities, sh, viewmats, Ks, width, height, near, eps2d, antialiased, degree)
    means2d, radii = p[0], p[5]
    color, alpha, z, contributions, _ = reference.rasterize(*p, width, height, backgrounds)
    if statistics is not None:
        statistics.contributions.add_(contributions)
        if means2d.requires_grad:
            half = torch.tensor([width / 2, height / 2], dtype=means2d.dtype, device=means2d.device)
            seen = (radii > 0).all(-1)

            def accumulate(gradient: Tensor) -> None:
                statistics.grad_norm.add_(((gradient * half).norm(dim=-1) * seen).sum(0))
                statistics.count.add_(seen.sum(0))
                statistics.max_radius.copy_(torch.maximum(statistics.max_radius, radii.amax((0, 2)).to(means2d.dtype)))

            means2d.register_hook(accumulate)
    return Splat(color, alpha, z if depth else None, radii, statistics)


def bind(
    vertices: Tensor,  # [V, 3]
    faces: Tensor,  # [F, 3] int64
    face_ids: Tensor,  # [N] int64
    local_means: Tensor,  # [N, 3]
    local_quats: Tensor,  # [N, 4]
    local_scales: Tensor,  # [N, 3]
    *,
    log_scales: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Carry Gaussians with the triangles they are bound to; returns means [N,3], quats [N,4], scales [N,3] in the world.

    Frame of a triangle (GaussianAvatars, Qian et al. 2024): a0 = unit(v1 - v0), a1 = unit(a0 × (v2 - v0)), a2 = -unit(a1 × a0),
    R = [a0 a1 a2], k = (|v1 - v0| + |a2·(v2 - v0)|)/2. means = k·R·local + centroid, quats = quat(R)⊗local, scales = k·local.
    Gradients to the vertices and the local parameters. `log_scales`: local_scales hold logarithms.
    """
    V, F, N = len(vertices), len(faces), len(face_ids)
    _expect("vertices", vertices, (V, 3))
    _expect("faces", faces, (F, 3), torch.int64)
    _expect("face_ids", face_ids, (N,), torch.int64)
    _expect("local_means", local_means, (N, 3))
    _expect("local_quats", local_quats, (N, 4))
    _expect("local_scales", local_scales, (N, 3))
    _same_device(vertices, faces, face_ids, local_means, local_quats, local_scales)
    if torch.compiler.is_compiling():
        return tuple(torch.ops.avatars.bind(vertices, faces, face_ids, local_means, local_quats, local_scales, log_scales))
    library = native.pick("av_bind_forward", vertices, local_means, local_quats, local_scales)
    if library is None:
        return reference.bind(vertices, faces, face_ids, local_means, local_quats, local_scales, log_scales)
    return native.bind(library, vertices, faces, face_ids, local_means, local_quats, local_scales, log_scales)


def blend(
    basis: Tensor,  # [N, 10, K]
    weights: Tensor,  # [K]
    means: Tensor,  # [N, 3]
    quats: Tensor,  # [N, 4]
    sh: Tensor,  # [N, S, 3]
) -> tuple[Tensor, Tensor, Tensor]:
    """Add basis·weights to means, quaternions and the constant SH term (Li et al. 2025, RGBAvatar): the corrected three.

    The ten rows of a Gaussian's basis are mean 3, quaternion 4, colour 3. Gradients to all arguments; see `Adam` for `factored`.
    """
    N, K = basis.shape[0], basis.shape[-1]
    _expect("basis", basis, (N, 10, K))
    _expect("weights", weights, (K,))
    _expect("means", means, (N, 3))
    _expect("quats", quats, (N, 4))
    _expect("sh", sh, (N, sh.shape[1], 3))
    _same_device(basis, weights, means, quats, sh)
    if torch.compiler.is_compiling():
        return tuple(torch.ops.avatars.blend(basis, weights, means, quats, sh))
    library = native.pick("av_blend_forward", basis, weights, means, quats, sh) if 1 <= K <= 64 and N else None
    if library is None:
        return reference.blend(basis, weights, means, quats, sh)
    return native.blend(library, basis, weights, means, quats, sh)


def penalty(
    means: Tensor,  # [N, 3]
    log_scales: Tensor,  # [N, 3]
    logit_opacities: Tensor,  # [N]
    reach: Tensor,  # [N]
    *,
    position_weight: float,
    scale_weight: float,
    opacity_weight: float,
    max_scale: float,
) -> Tensor:
    """Regularisers of Gaussians in triangle units (Qian et al. 2024, eq. 6-7), as one scalar; gradients to the first three.

    position_weight·mean(max(0, ‖mean‖ - reach)) + scale_weight·mean(max(0, scale - max_scale·max(1, reach))) + opacity_weight·mean(opacity).
    """
    N = len(means)
    _expect("means", means, (N, 3))
    _expect("log_scales", log_scales, (N, 3))
    _expect("logit_opacities", logit_opacities, (N,))
    _expect("reach", reach, (N,))
    _same_device(means, log_scales, logit_opacities, reach)
    weights = (position_weight, scale_weight, opacity_weight)
    library = native.pick("av_penalty", means, log_scales, logit_opacities, reach) if N else None
    if library is None:
        return reference.penalty(means, log_scales, logit_opacities, reach, weights, max_scale)
    return native.penalty(library, means, log_scales, logit_opacities, reach, weights, max_scale)


def ssim(
    a: Tensor,  # [B, H, W, 3]
    b: Tensor,  # [B, H, W, 3]
    *,
    weights: Tensor | None = None,  # [B, H, W]
    valid: bool = False,
) -> Tensor:
    """Mean structural similarity per image [B] (Wang et al. 2004: window 11, σ 1.5, images in 0–1); gradient to `a`.

    Outside of the image counts as black, as in 3DGS; `valid` leaves the border that sees it (5 pixels) out of the mean.
    `weights` multiply the map before the mean, which still divides by the number of pixels.
    """
    return _l1_and_ssim(a, b, weights, valid)[1]


def l1_ssim(
    a: Tensor,  # [B, H, W, 3]
    b: Tensor,  # [B, H, W, 3]
    *,
    ssim_weight: float = 0.2,
    weights: Tensor | None = None,  # [B, H, W]
    valid: bool = False,
) -> Tensor:
    """(1-λ)·mean|a-b| + λ·(1 - mean SSIM) per image [B], the loss of 3DGS, in one pass; gradient to `a`.

    With `weights` w: (1-λ)·mean(w|a-b|) + λ·mean(w·(1 - ssim)).
    """
    if torch.compiler.is_compiling():
        return torch.ops.avatars.l1_ssim(a, b, weights, ssim_weight, valid)[0]
    l1, similarity = _l1_and_ssim(a, b, weights, valid)
    total: Tensor | float = 1.0
    if weights is not None:
        crop = reference.SSIM_RADIUS if valid else 0
        total = weights[:, crop : weights.shape[1] - crop, crop : weights.shape[2] - crop].mean((1, 2))
    return (1 - ssim_weight) * l1 + ssim_weight * (total - similarity)


def _l1_and_ssim(a: Tensor, b: Tensor, weights: Tensor | None, valid: bool) -> tuple[Tensor, Tensor]:
    if a.dim() != 4 or a.shape[-1] != 3 or a.shape != b.shape or 0 in a.shape:
        raise ValueError(f"images must be two non-empty [B,H,W,3], got {tuple(a.shape)} and {tuple(b.shape)}")
    if weights is not None:
        _expect("weights", weights, tuple(a.shape[:3]))
    crop = reference.SSIM_RADIUS if valid else 0
    if min(a.shape[1:3]) <= 2 * crop:
        raise ValueError(f"valid=True needs images larger than {2 * crop} pixels, got {tuple(a.shape)}")
    tensors = (a, b) if weights is None else (a, b, weights)
    _same_device(*tensors)
    library = native.pick("av_ssim_forward", *tensors)
    if library is None or b.requires_grad:
        return reference.l1_and_ssim(a, b, weights, crop)
    return native.l1_and_ssim(library, a, b, weights, crop)


def rasterize_mesh(
    vertices: Tensor,  # [C, V, 3]
    faces: Tensor,  # [F, 3] int64
    Ks: Tensor,  # [C, 3, 3]
    width: int,
    height: int,
    *,
    near: float = 0.01,
    cull_back: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Nearest triangle at each pixel centre: face_ids [C,H,W] int32 (-1: none), barycentrics [C,H,W,3], depth [C,H,W].

    Vertices are in CAMERA space (OpenCV axes, z forward), one set per camera; triangles may straddle the camera plane.
    Barycentrics are perspective-correct (interpolate any vertex attribute with them); depth is camera z, 0 where nothing is.
    `cull_back` drops triangles whose outward normal (counter-clockwise corners) points away from the camera. No gradients.
    """
    C, V, F = len(vertices), vertices.shape[1], len(faces)
    _expect("vertices", vertices, (C, V, 3))
    _expect("faces", faces, (F, 3), torch.int64)
    _expect("Ks", Ks, (C, 3, 3))
    _check_size(width, height)
    _same_device(vertices, faces, Ks)
    vertices, Ks = vertices.detach(), Ks.detach()
    library = native.pick("av_mesh_rasterize", vertices, Ks)
    if library is None:
        return reference.rasterize_mesh(vertices, faces, Ks, width, height, near, cull_back)
    return native.rasterize_mesh(library, vertices, faces, Ks, width, height, near, cull_back)


def _check_scene(means, quats, scales, opacities, sh, viewmats, Ks, width, height, near, sh_degree) -> int:
    N, C = means.shape[0], viewmats.shape[0]
    _expect("means", means, (N, 3))
    _expect("quats", quats, (N, 4))
    _expect("scales", scales, (N, 3))
    _expect("opacities", opacities, (N,))
    if sh.dim() != 3 or sh.shape[0] != N or sh.shape[2] != 3 or sh.shape[1] not in (1, 4, 9, 16):
        raise ValueError(f"sh must be [N,K,3] with N={N} and K in 1, 4, 9, 16, got {tuple(sh.shape)}")
    _expect("viewmats", viewmats, (C, 4, 4))
    _expect("Ks", Ks, (C, 3, 3))
    _check_size(width, height)
    if not near > 0:
        raise ValueError(f"near must be in front of the camera, got {near}")
    _same_device(means, quats, scales, opacities, sh, viewmats, Ks)
    stored = math.isqrt(sh.shape[1]) - 1
    if sh_degree is not None and not 0 <= sh_degree <= stored:
        raise ValueError(f"sh_degree must be 0..{stored} for sh {tuple(sh.shape)}, got {sh_degree}")
    return stored if sh_degree is None else sh_degree


def _check_backgrounds(backgrounds: Tensor | None, C: int, like: Tensor) -> Tensor | None:
    if backgrounds is None:
        return None
    _expect("backgrounds", backgrounds, (C, 3))
    _same_device(backgrounds, like)
    return backgrounds


def _check_size(width: int, height: int) -> None:
    if not (0 < width < 32768 and 0 < height < 32768):
        raise ValueError(f"the image must have 1..32767 pixels per side, got width {width}, height {height}")


def _expect(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> None:
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} must be {list(shape)}, got {list(tensor.shape)}")
    if dtype is not None and tensor.dtype != dtype:
        raise ValueError(f"{name} must be {dtype}, got {tensor.dtype}")


def _same_device(first: Tensor, *others: Tensor) -> None:
    for other in others:
        if other.device != first.device:
            raise ValueError(f"all tensors must be on one device, got {first.device} and {other.device}")
