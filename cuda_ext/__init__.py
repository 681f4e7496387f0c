"""Gaussian-splatting kernels for CPU and CUDA, with torch as their only dependency.

The public operators are in `cuda_ext.ops`; `available()` says what runs them.
"""

from cuda_ext.library import KernelError, available
from cuda_ext.ops import (
    Adam,
    Projected,
    Rasterized,
    Splat,
    SplatStatistics,
    bind,
    blend,
    l1_ssim,
    penalty,
    project,
    rasterize,
    rasterize_mesh,
    splat,
    ssim,
)

__all__ = [
    "Adam",
    "KernelError",
    "Projected",
    "Rasterized",
    "Splat",
    "SplatStatistics",
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
