"""The C structures of include/abi.h for ctypes, field by field.

Sizes are compared with the library's when it is opened; tests compare names and order with the header.
"""

from __future__ import annotations

import ctypes as c

VERSION = 1
OK, OVERFLOW, INVALID, DEVICE, UNSUPPORTED = range(5)
ANTIALIASED, LOG_SCALES, LOGIT_OPACITIES = 1, 2, 4

P = c.c_void_p  # every tensor


class AvLaunch(c.Structure):
    _fields_ = [("stream", P), ("device", c.c_int32), ("threads", c.c_int32)]


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


class AvBind(c.Structure):
    _fields_ = [
        ("launch", AvLaunch),
        ("V", c.c_int64),
        ("F", c.c_int64),
        ("N", c.c_int64),
        ("flags", c.c_int32),
        ("reserved", c.c_int32),
        ("vertices", P),
        ("faces", P),
        ("face_ids", P),
        ("local_means", P),
        ("local_quats", P),
        ("local_scales", P),
        ("means", P),
        ("quats", P),
        ("scales", P),
        ("scratch", P),
        ("scratch_bytes", c.c_int64),
    ]


class AvBindBackward(c.Structure):
    _fields_ = [
        ("forward", AvBind),
        ("v_means", P),
        ("v_quats", P),
        ("v_scales", P),
        ("v_vertices", P),
        ("v_local_means", P),
        ("v_local_quats", P),
        ("v_local_scales", P),
        ("scratch", P),
        ("scratch_bytes", c.c_int64),
    ]


class AvSsim(c.Structure):
    _fields_ = [
        ("launch", AvLaunch),
        ("B", c.c_int64),
        ("height", c.c_int32),
        ("width", c.c_int32),
        ("crop", c.c_int32),
        ("reserved", c.c_int32),
        ("a", P),
        ("b", P),
        ("weights", P),
        ("l1", P),
        ("ssim", P),
        ("saved", P),
        ("saved_bytes", c.c_int64),
        ("scratch", P),
        ("scratch_bytes", c.c_int64),
    ]


class AvSsimBackward(c.Structure):
    _fields_ = [
        ("launch", AvLaunch),
        ("B", c.c_int64),
        ("height", c.c_int32),
        ("width", c.c_int32),
        ("crop", c.c_int32),
        ("reserved", c.c_int32),
        ("a", P),
        ("b", P),
        ("weights", P),
        ("saved", P),
        ("saved_bytes", c.c_int64),
        ("v_l1", P),
        ("v_ssim", P),
        ("v_a", P),
        ("scratch", P),
        ("scratch_bytes", c.c_int64),
    ]


class AvAdamTensor(c.Structure):
    _fields_ = [
        ("param", P),
        ("grad", P),
        ("m", P),
        ("v", P),
        ("rows", c.c_int64),
        ("columns", c.c_int64),
        ("head_columns", c.c_int64),
        ("row_ids", P),
        ("row_count", c.c_int64),
        ("lr", c.c_float),
        ("lr_tail", c.c_float),
        ("factor", P),
        ("factor_size", c.c_int64),
    ]


class AvAdam(c.Structure):
    _fields_ = [
        ("launch", AvLaunch),
        ("tensors", c.POINTER(AvAdamTensor)),
        ("count", c.c_int64),
        ("beta1", c.c_double),
        ("beta2", c.c_double),
        ("eps", c.c_double),
        ("step", c.c_double),
        ("step_ptr", P),
    ]


class AvBlend(c.Structure):
    _fields_ = [
        ("launch", AvLaunch),
        ("N", c.c_int64),
        ("K", c.c_int32),
        ("sh_bases", c.c_int32),
        ("basis", P),
        ("weights", P),
        ("in", P * 3),
        ("out", P * 3),
        ("v_out", P * 3),
        ("v_delta", P),
        ("v_weights", P),
        ("scratch", P),
        ("scratch_bytes", c.c_int64),
    ]


class AvPenalty(c.Structure):
    _fields_ = [
        ("launch", AvLaunch),
        ("N", c.c_int64),
        ("position_weight", c.c_float),
        ("scale_weight", c.c_float),
        ("opacity_weight", c.c_float),
        ("max_scale", c.c_float),
        ("means", P),
        ("log_scales", P),
        ("logit_opacities", P),
        ("reach", P),
        ("loss", P),
        ("v_means", P),
        ("v_log_scales", P),
        ("v_logit_opacities", P),
        ("scratch", P),
        ("scratch_bytes", c.c_int64),
    ]


class AvMesh(c.Structure):
    _fields_ = [
        ("launch", AvLaunch),
        ("C", c.c_int64),
        ("V", c.c_int64),
        ("F", c.c_int64),
        ("width", c.c_int32),
        ("height", c.c_int32),
        ("near_plane", c.c_float),
        ("cull_back", c.c_int32),
        ("vertices", P),
        ("faces", P),
        ("Ks", P),
        ("face_ids", P),
        ("barycentrics", P),
        ("depth", P),
        ("scratch", P),
        ("scratch_bytes", c.c_int64),
    ]


STRUCTURES: tuple[type[c.Structure], ...] = (
    AvLaunch,
    AvScene,
    AvSplatForward,
    AvSplatBackward,
    AvProjected,
    AvProject,
    AvProjectBackward,
    AvRasterize,
    AvRasterizeBackward,
    AvBind,
    AvBindBackward,
    AvSsim,
    AvSsimBackward,
    AvAdamTensor,
    AvAdam,
    AvBlend,
    AvPenalty,
    AvMesh,
)

_I64P = c.POINTER(c.c_int64)

# name → (result, arguments). Functions that take one structure return an AvStatus.
FUNCTIONS: dict[str, tuple[type, list]] = {
    "av_splat_sizes": (c.c_int32, [c.POINTER(AvScene), c.c_int64, c.c_int32, _I64P, _I64P]),
    "av_splat_forward": (c.c_int32, [c.POINTER(AvSplatForward)]),
    "av_splat_backward": (c.c_int32, [c.POINTER(AvSplatBackward)]),
    "av_project_forward": (c.c_int32, [c.POINTER(AvProject)]),
    "av_project_backward": (c.c_int32, [c.POINTER(AvProjectBackward)]),
    "av_rasterize_forward": (c.c_int32, [c.POINTER(AvRasterize)]),
    "av_rasterize_backward": (c.c_int32, [c.POINTER(AvRasterizeBackward)]),
    "av_bind_forward": (c.c_int32, [c.POINTER(AvBind)]),
    "av_bind_backward": (c.c_int32, [c.POINTER(AvBindBackward)]),
    "av_bind_scratch": (c.c_int64, [c.c_int64, c.c_int64, c.c_int64]),
    "av_ssim_forward": (c.c_int32, [c.POINTER(AvSsim)]),
    "av_ssim_backward": (c.c_int32, [c.POINTER(AvSsimBackward)]),
    "av_ssim_sizes": (c.c_int32, [c.c_int64, c.c_int32, c.c_int32, c.c_int32, _I64P, _I64P]),
    "av_adam": (c.c_int32, [c.POINTER(AvAdam)]),
    "av_blend_forward": (c.c_int32, [c.POINTER(AvBlend)]),
    "av_blend_backward": (c.c_int32, [c.POINTER(AvBlend)]),
    "av_penalty": (c.c_int32, [c.POINTER(AvPenalty)]),
    "av_mesh_rasterize": (c.c_int32, [c.POINTER(AvMesh)]),
    "av_hash_forward": (c.c_int32, [c.POINTER(AvLaunch), c.c_int64, c.c_int32, c.c_int32, P, P, P, P, P, P]),
    "av_hash_backward": (c.c_int32, [c.POINTER(AvLaunch), c.c_int64, c.c_int32, c.c_int32, P, P, P, P, P, P, P, P]),
    "av_mesh_scratch": (c.c_int64, [c.c_int64, c.c_int64, c.c_int64, c.c_int32, c.c_int32]),
}
