"""The structure and functions of the posed head: include/abi_skin.h."""

from __future__ import annotations

import ctypes as c

from cuda_ext.abi.common import AvLaunch, P


class AvSkin(c.Structure):
    _fields_ = [
        ("launch", AvLaunch),
        ("B", c.c_int64),
        ("V", c.c_int64),
        ("E", c.c_int64),
        ("J", c.c_int64),
        ("shapes", c.c_int64),
        ("entries", c.c_int64),
        ("scale", c.c_float),
        ("reserved", c.c_int32),
        ("parents", P),
        ("joints", P),
        ("rest", P),
        ("skin_weights", P),
        ("turns", P),
        ("starts", P),
        ("indices", P),
        ("offsets", P),
        ("expression", P),
        ("angles", P),
        ("rotation", P),
        ("translation", P),
        ("vertices", P),
        ("shaped", P),
        ("transforms", P),
        ("v_vertices", P),
        ("v_expression", P),
        ("v_angles", P),
        ("v_rotation", P),
        ("v_translation", P),
        ("scratch", P),
        ("scratch_bytes", c.c_int64),
    ]


STRUCTURES: tuple[type[c.Structure], ...] = (AvSkin,)

FUNCTIONS: dict[str, tuple[type, list]] = {
    "av_skin_forward": (c.c_int32, [c.POINTER(AvSkin)]),
    "av_skin_backward": (c.c_int32, [c.POINTER(AvSkin)]),
    "av_skin_scratch": (c.c_int64, [c.c_int64, c.c_int64, c.c_int64, c.c_int64]),
}
