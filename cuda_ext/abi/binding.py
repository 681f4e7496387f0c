"""The structures and functions on bound Gaussians: include/abi_binding.h."""

from __future__ import annotations

import ctypes as c

from cuda_ext.abi.common import AvLaunch, P


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
        ("kept", c.c_int64),
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
        ("size", P),
        ("delta", P),
        ("v_out", P * 3),
        ("v_size", P),
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


class AvCarry(c.Structure):
    _fields_ = [
        ("launch", AvLaunch),
        ("V", c.c_int64),
        ("F", c.c_int64),
        ("N", c.c_int64),
        ("K", c.c_int32),
        ("sh_bases", c.c_int32),
        ("position_weight", c.c_float),
        ("scale_weight", c.c_float),
        ("opacity_weight", c.c_float),
        ("max_scale", c.c_float),
        ("size_weight", c.c_float),
        ("reserved", c.c_int32),
        ("vertices", P),
        ("faces", P),
        ("face_ids", P),
        ("basis", P),
        ("weights", P),
        ("in", P * 4),
        ("logit_opacities", P),
        ("reach", P),
        ("out", P * 4),
        ("cost", P),
        ("saved", P),
        ("saved_bytes", c.c_int64),
    ]


class AvCarryBackward(c.Structure):
    _fields_ = [
        ("forward", AvCarry),
        ("v_out", P * 4),
        ("v_cost", P),
        ("v_vertices", P),
        ("v_weights", P),
        ("v_in", P * 3),
        ("v_logit_opacities", P),
        ("v_delta", P),
        ("move", P),
    ]


STRUCTURES: tuple[type[c.Structure], ...] = (
    AvBind,
    AvBindBackward,
    AvBlend,
    AvPenalty,
    AvCarry,
    AvCarryBackward,
)

FUNCTIONS: dict[str, tuple[type, list]] = {
    "av_bind_forward": (c.c_int32, [c.POINTER(AvBind)]),
    "av_bind_backward": (c.c_int32, [c.POINTER(AvBindBackward)]),
    "av_bind_scratch": (c.c_int64, [c.c_int64, c.c_int64, c.c_int64]),
    "av_blend_forward": (c.c_int32, [c.POINTER(AvBlend)]),
    "av_blend_backward": (c.c_int32, [c.POINTER(AvBlend)]),
    "av_carry_forward": (c.c_int32, [c.POINTER(AvCarry)]),
    "av_carry_backward": (c.c_int32, [c.POINTER(AvCarryBackward)]),
    "av_carry_scratch": (c.c_int64, [c.c_int64, c.c_int64, c.c_int64, c.c_int32]),
    "av_penalty": (c.c_int32, [c.POINTER(AvPenalty)]),
}
