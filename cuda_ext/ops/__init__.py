"""The public operators: they check shapes and devices, then take one branch: native CPU, native CUDA, or the reference.

float32 tensors on the CPU run the CPU library, on CUDA the CUDA library; float64 tensors, other devices, a missing library and
AVATARS_KERNELS=reference run `cuda_ext.reference`. Conventions, constants and culling rules: include/semantics.h. In short: OpenCV
cameras, pixel centres at +0.5, quaternions wxyz of any length, world units are the caller's, colours are linear combinations
of spherical harmonics plus 0.5, clamped below at zero.
"""

from cuda_ext.adam import Adam
from cuda_ext.library import available
from cuda_ext.ops.binding import Penalties, bind, blend, carry, penalty
from cuda_ext.ops.gaussians import Projected, Rasterized, Splat, SplatStatistics, project, rasterize, splat
from cuda_ext.ops.meshes import antialias, interpolate, mesh_edges, rasterize_mesh
from cuda_ext.ops.pictures import compose
from cuda_ext.ops.similarity import l1_ssim, picture_loss, ssim
from cuda_ext.ops.skin import Rig, skin
from cuda_ext.ops.volumes import Composited, Samples, composite, march

__all__ = [
    "Composited",
    "Penalties",
    "Projected",
    "Rasterized",
    "Rig",
    "Samples",
    "Splat",
    "SplatStatistics",
    "Adam",
    "antialias",
    "available",
    "bind",
    "blend",
    "carry",
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
