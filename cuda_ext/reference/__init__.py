"""The operators in plain torch, any floating dtype: what the native kernels are measured against.

Written to be read beside include/semantics.h, which states the constants and the culling rules; differentiable by
autograd; float64 throughout when the inputs are. Slow: a fallback and a yardstick, nothing else.
"""

from cuda_ext.reference.binding import bind, blend, carry, matrices_to_quats, penalty, quat_multiply, triangle_frames
from cuda_ext.reference.gaussians import (
    ALPHA_MAX,
    ALPHA_MIN,
    COLOR_MAX,
    COORD_MAX,
    DEPTH_ALPHA_MIN,
    DET_MIN,
    FRUSTUM_MARGIN,
    TRANSMITTANCE_MIN,
    project,
    quats_to_matrices,
    rasterize,
    sh_basis,
)
from cuda_ext.reference.meshes import antialias, interpolate, rasterize_mesh
from cuda_ext.reference.optimizer import adam, upper_halves
from cuda_ext.reference.pictures import compose
from cuda_ext.reference.similarity import (
    SSIM_C1,
    SSIM_C2,
    SSIM_RADIUS,
    SSIM_SIGMA,
    l1_and_ssim,
    l1_ssim,
    picture_loss,
    ssim_map,
    ssim_window,
)
from cuda_ext.reference.skin import axis_angle_matrices, skin
from cuda_ext.reference.volumes import MARCH_STEPS, TAU_MAX, Stepping, composite, march

__all__ = [
    "ALPHA_MAX",
    "ALPHA_MIN",
    "COLOR_MAX",
    "COORD_MAX",
    "DEPTH_ALPHA_MIN",
    "DET_MIN",
    "FRUSTUM_MARGIN",
    "MARCH_STEPS",
    "Stepping",
    "SSIM_C1",
    "SSIM_C2",
    "SSIM_RADIUS",
    "SSIM_SIGMA",
    "TAU_MAX",
    "TRANSMITTANCE_MIN",
    "adam",
    "antialias",
    "axis_angle_matrices",
    "bind",
    "blend",
    "carry",
    "compose",
    "composite",
    "interpolate",
    "l1_and_ssim",
    "l1_ssim",
    "march",
    "matrices_to_quats",
    "penalty",
    "picture_loss",
    "project",
    "quat_multiply",
    "quats_to_matrices",
    "rasterize",
    "rasterize_mesh",
    "sh_basis",
    "skin",
    "ssim_map",
    "ssim_window",
    "triangle_frames",
    "upper_halves",
]
