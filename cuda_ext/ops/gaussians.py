"""Gaussians to images: projection, compositing, and both in one pass."""

from __future__ import annotations

import itertools
import weakref
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cuda_ext import native, reference
from cuda_ext.ops.checks import check_backgrounds, check_scene, check_size, expect


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


_numbers = itertools.count()
_statistics: weakref.WeakValueDictionary[int, SplatStatistics] = weakref.WeakValueDictionary()


@dataclass(frozen=True)
class SplatStatistics:
    """Per-Gaussian sums for densification, accumulated in place by `splat`: by its backward pass, but `contributions` also by a
    forward pass without gradients (and on CUDA and under torch.compile always by the forward pass). Zero them with `reset()`. What is None
    is not counted; `contributions` cost one or two hundredths of the backward pass on a CPU, and atomic additions on CUDA.

    A compiled graph knows them by `number` alone and does not see that they change: make and read them outside of it.

    Units: `grad_norm` adds ‖(W/2 ∂L/∂u, H/2 ∂L/∂v)‖ per camera that sees the Gaussian, u and v in pixels: the units of 3DGS
    and gsplat, whose usual threshold is 2e-4 on grad_norm / count for a loss that is a mean over pixels.
    """

    grad_norm: Tensor  # [N]
    count: Tensor  # [N] cameras that saw the Gaussian in a backward pass
    max_radius: Tensor | None = None  # [N] pixels
    contributions: Tensor | None = None  # [N] Σ alpha·transmittance over pixels
    number: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "number", next(_numbers))
        _statistics[self.number] = self

    @staticmethod
    def zeros(n: int, device: torch.device | str = "cpu", *, max_radius: bool = True, contributions: bool = True) -> SplatStatistics:
        """Fresh statistics of `n` Gaussians, with or without the last two."""

        def sums() -> Tensor:
            return torch.zeros(n, device=device)

        return SplatStatistics(sums(), sums(), sums() if max_radius else None, sums() if contributions else None)

    @property
    def sums(self) -> dict[str, Tensor]:
        """What is counted, by name."""
        found = {k: getattr(self, k) for k in ("grad_norm", "count", "max_radius", "contributions")}
        return {k: v for k, v in found.items() if v is not None}

    def reset(self) -> None:
        """Set all sums to zero in place."""
        for tensor in self.sums.values():
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
    """Project Gaussians (EWA, Zwicker et al. 2001) and evaluate their colours; gradients to all tensors, the cameras among them."""
    degree = check_scene(means, quats, scales, opacities, sh, viewmats, Ks, width, height, near, sh_degree)
    tensors = (means, quats, scales, opacities, sh, viewmats, Ks)
    if torch.compiler.is_compiling():
        return Projected(*torch.ops.avatars.project(*tensors, width, height, near, eps2d, antialiased, sh_degree))
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
    expect("means2d", p.means2d, (C, N, 2))
    expect("conics", p.conics, (C, N, 3))
    expect("colors", p.colors, (C, N, 3))
    expect("opacities", p.opacities, (C, N))
    expect("radii", p.radii, (C, N, 2))
    backgrounds = check_backgrounds(backgrounds, C, p.means2d)
    check_size(width, height)
    tensors = (p.means2d, p.conics, p.depths, p.colors, p.opacities, p.radii)
    if torch.compiler.is_compiling():
        return Rasterized(*torch.ops.avatars.rasterize(*tensors, backgrounds, width, height))
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
    """Project and composite in one pass: the fast path. Gradients to all tensors, the cameras among them.

    `log_scales` and `logit_opacities` say that those arguments hold raw parameters; the activation and its
    gradient are then part of the kernel. `sh_degree` evaluates fewer bases than `sh` holds. Without `depth` the forward
    and backward passes are cheaper. `statistics` are accumulated in place.
    """
    degree = check_scene(means, quats, scales, opacities, sh, viewmats, Ks, width, height, near, sh_degree)
    backgrounds = check_backgrounds(backgrounds, len(viewmats), means)
    if torch.compiler.is_compiling():
        number = -1 if statistics is None else statistics.number
        out = torch.ops.avatars.splat(
            means, quats, scales, opacities, sh, viewmats, Ks, backgrounds, width, height, near, eps2d, antialiased, sh_degree, log_scales,
            logit_opacities, number,
        )  # fmt: skip
        return Splat(out[0], out[1], out[2] if depth else None, out[3], statistics)
    if statistics is not None:
        expect("statistics", statistics.grad_norm, (len(means),))
    tensors = (means, quats, scales, opacities, sh, viewmats, Ks)
    library = native.pick("av_splat_forward", *tensors)
    if library is None:
        return _reference_splat(
            tensors, width, height, backgrounds, near, eps2d, antialiased, degree, log_scales, logit_opacities, depth, statistics
        )
    flags = native.flags(antialiased, log_scales, logit_opacities)
    color, alpha, z, radii = native.splat(library, tensors, width, height, backgrounds, near, eps2d, flags, degree, depth, statistics)
    return Splat(color, alpha, z, radii, statistics)


def numbered_statistics(number: int) -> SplatStatistics | None:
    """The statistics that a compiled graph names, None for -1."""
    return None if number < 0 else _statistics[number]


def _reference_splat(
    tensors, width, height, backgrounds, near, eps2d, antialiased, degree, log_scales, logit_opacities, depth, statistics
) -> Splat:
    means, quats, scales, opacities, sh, viewmats, Ks = tensors
    scales = scales.exp() if log_scales else scales
    opacities = opacities.sigmoid() if logit_opacities else opacities
    p = reference.project(means, quats, scales, opacities, sh, viewmats, Ks, width, height, near, eps2d, antialiased, degree)
    means2d, radii = p[0], p[5]
    color, alpha, z, contributions, _ = reference.rasterize(*p, width, height, backgrounds)
    if statistics is not None:
        if statistics.contributions is not None:
            statistics.contributions.add_(contributions)
        if means2d.requires_grad:
            half = torch.tensor([width / 2, height / 2], dtype=means2d.dtype, device=means2d.device)
            seen = (radii > 0).all(-1)

            def accumulate(gradient: Tensor) -> None:
                statistics.grad_norm.add_(((gradient * half).norm(dim=-1) * seen).sum(0))
                statistics.count.add_(seen.sum(0))
                if statistics.max_radius is not None:
                    statistics.max_radius.copy_(torch.maximum(statistics.max_radius, radii.amax((0, 2)).to(means2d.dtype)))

            means2d.register_hook(accumulate)
    return Splat(color, alpha, z if depth else None, radii, statistics)
