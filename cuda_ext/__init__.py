"""Gaussian-splatting kernels for CPU and CUDA, with torch as their only dependency.

The public operators are in `cuda_ext.ops`; `available()` says what runs them.
"""

import os

# Before torch is loaded: its OpenMP threads would spin after each operation and take the cores from the kernels' own threads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from cuda_ext import compiled as _compiled  # noqa: F401  (registers the operators for torch.compile)
from cuda_ext.hash_grid import HashGrid, blend_tables, hash_encode, hash_encode_blended
from cuda_ext.library import KernelError, available
from cuda_ext.ops import (
    Adam,
    Composited,
    Projected,
    Rasterized,
    Rig,
    Samples,
    Splat,
    SplatStatistics,
    antialias,
    bind,
    blend,
    compose,
    composite,
    interpolate,
    l1_ssim,
    march,
    mesh_edges,
    penalty,
    picture_loss,
    project,
    rasterize,
    rasterize_mesh,
    skin,
    splat,
    ssim,
)

__all__ = [
    "Adam",
    "HashGrid",
    "KernelError",
    "Composited",
    "Projected",
    "Rasterized",
    "Rig",
    "Samples",
    "Splat",
    "SplatStatistics",
    "antialias",
    "available",
    "bind",
    "blend_tables",
    "hash_encode",
    "hash_encode_blended",
    "blend",
    "compose",
    "composite",
    "interpolate",
    "l1_ssim",
    "march",
    "mesh_edges",
    "penalty",
    "picture_loss",
    "project",
    "rasterize",
    "rasterize_mesh",
    "skin",
    "splat",
    "ssim",
]
