"""Calls into the shared libraries: torch allocates, the library fills, autograd connects. No checks here: see ops/."""

from cuda_ext.native.binding import (
    BindFunction,
    BlendFunction,
    PenaltyFunction,
    bind,
    blend,
    penalty,
)
from cuda_ext.native.calls import flags, large_empty, launch_of, pick
from cuda_ext.native.carry import CarryFunction, Penalties, carry
from cuda_ext.native.factors import attach, factors_of, fits
from cuda_ext.native.gaussians import SplatFunction, project, rasterize, splat
from cuda_ext.native.grids import blend_tables, hash_encode
from cuda_ext.native.meshes import antialias, interpolate, rasterize_mesh
from cuda_ext.native.optimizer import adam, basis_step
from cuda_ext.native.pictures import compose
from cuda_ext.native.similarity import SsimFunction, l1_ssim, picture_loss, ssim
from cuda_ext.native.skin import PackedRig, SkinFunction, skin
from cuda_ext.native.volumes import composite, march

FUNCTIONS = {
    "skin": SkinFunction, "blend": BlendFunction, "bind": BindFunction, "splat": SplatFunction, "picture loss": SsimFunction,
    "penalty": PenaltyFunction, "carry": CarryFunction,
}  # fmt: skip
"""The autograd functions behind the operators of a training step, for those who time them."""

__all__ = [
    "FUNCTIONS",
    "PackedRig",
    "Penalties",
    "adam",
    "antialias",
    "attach",
    "basis_step",
    "bind",
    "blend",
    "blend_tables",
    "carry",
    "compose",
    "composite",
    "factors_of",
    "fits",
    "flags",
    "hash_encode",
    "interpolate",
    "l1_ssim",
    "large_empty",
    "launch_of",
    "march",
    "penalty",
    "pick",
    "picture_loss",
    "project",
    "rasterize",
    "rasterize_mesh",
    "skin",
    "splat",
    "ssim",
]
