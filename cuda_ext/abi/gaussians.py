"""The structures and functions from Gaussians to images: include/abi_gaussians.h."""

from __future__ import annotations

import ctypes as c

from cuda_ext.abi.common import I64P, AvLaunch, P

CAMERA_GROUP, CAMERA_SUMS = 64, 17  # Gaussians per partial sum of gradients to a camera, and how many gradients these are


class AvScene(c.Structure):
    _fields_ = [
        ("N", c.c_int64),
        ("C", c.c_int64),
        ("width", c.c_int32),
        ("height", c.c_int32),
        ("sh_bases", c.c_int32),
        ("sh_degree", c.c_int32),
        ("flags", c.c_int32),
        ("near_plane", c.c_float),
        ("eps2d", c.c_float),
        ("reserved", c.c_float),
        ("means", P),
        ("quats", P),
        ("scales", P),
        ("opacities", P),
        ("sh", P),
        ("viewmats", P),
        ("Ks", P),
        ("backgrounds", P),
    ]


class AvSplatForward(c.Structure):
    _fields_ = [
        ("launch", AvLaunch),
        ("scene", AvScene),
        ("capacity", c.c_int64),
        ("color", P),
        ("alpha", P),
        ("depth", P),
        ("radii", P),
        ("contributions", P),
        ("counters", P),
        ("saved", P),
        ("saved_bytes", c.c_int64),
        ("scratch", P),
        ("scratch_bytes", c.c_int64),
    ]


class AvSplatBackward(c.Structure):
    _fields_ = [
        ("launch", AvLaunch),
        ("scene", AvScene),
        ("capacity", c.c_int64),
        ("color", P),
        ("alpha", P),
        ("depth", P),
        ("v_color", P),
        ("v_alpha", P),
        ("v_depth", P),
        ("v_means", P),
        ("v_quats", P),
        ("v_scales", P),
        ("v_opacities", P),
        ("v_sh", P),
        ("grad_norm", P),
        ("count", P),
        ("max_radius", P),
        ("saved", P),
        ("saved_bytes", c.c_int64),
        ("scratch", P),
        ("scratch_bytes", c.c_int64),
        ("contributions", P),
        ("v_viewmats", P),
        ("v_Ks", P),
        ("camera_sums", P),
    ]


class AvProjected(c.Structure):
    _fields_ = [("means2d", P), ("conics", P), ("depths", P), ("colors", P), ("opacities", P), ("radii", P)]


class AvProject(c.Structure):
    _fields_ = [("launch", AvLaunch), ("scene", AvScene), ("out", AvProjected)]


class AvProjectBackward(c.Structure):
    _fields_ = [
        ("launch", AvLaunch),
        ("scene", AvScene),
        ("out", AvProjected),
        ("v_out", AvProjected),
        ("v_means", P),
        ("v_quats", P),
        ("v_scales", P),
        ("v_opacities", P),
        ("v_sh", P),
        ("v_viewmats", P),
        ("v_Ks", P),
        ("camera_sums", P),
    ]


class AvRasterize(c.Structure):
    _fields_ = [
        ("launch", AvLaunch),
        ("N", c.c_int64),
        ("C", c.c_int64),
        ("width", c.c_int32),
        ("height", c.c_int32),
        ("capacity", c.c_int64),
        ("in", AvProjected),
        ("backgrounds", P),
        ("color", P),
        ("alpha", P),
        ("depth", P),
        ("contributions", P),
        ("counters", P),
        ("saved", P),
        ("saved_bytes", c.c_int64),
        ("scratch", P),
        ("scratch_bytes", c.c_int64),
    ]


class AvRasterizeBackward(c.Structure):
    _fields_ = [
        ("launch", AvLaunch),
        ("N", c.c_int64),
        ("C", c.c_int64),
        ("width", c.c_int32),
        ("height", c.c_int32),
        ("capacity", c.c_int64),
        ("in", AvProjected),
        ("v_in", AvProjected),
        ("backgrounds", P),
        ("color", P),
        ("alpha", P),
        ("depth", P),
        ("v_color", P),
        ("v_alpha", P),
        ("v_depth", P),
        ("saved", P),
        ("saved_bytes", c.c_int64),
        ("scratch", P),
        ("scratch_bytes", c.c_int64),
    ]


STRUCTURES: tuple[type[c.Structure], ...] = (
    AvScene,
    AvSplatForward,
    AvSplatBackward,
    AvProjected,
    AvProject,
    AvProjectBackward,
    AvRasterize,
    AvRasterizeBackward,
)

FUNCTIONS: dict[str, tuple[type, list]] = {
    "av_splat_sizes": (c.c_int32, [c.POINTER(AvScene), c.c_int64, c.c_int32, I64P, I64P]),
    "av_splat_forward": (c.c_int32, [c.POINTER(AvSplatForward)]),
    "av_splat_backward": (c.c_int32, [c.POINTER(AvSplatBackward)]),
    "av_project_forward": (c.c_int32, [c.POINTER(AvProject)]),
    "av_project_backward": (c.c_int32, [c.POINTER(AvProjectBackward)]),
    "av_rasterize_forward": (c.c_int32, [c.POINTER(AvRasterize)]),
    "av_rasterize_backward": (c.c_int32, [c.POINTER(AvRasterizeBackward)]),
}
