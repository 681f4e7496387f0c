"""The structures and functions of rays through volumes: include/abi_volumes.h."""

from __future__ import annotations

import ctypes as c

from cuda_ext.abi.common import AvLaunch, P

MARCH_RUNS = 8  # of the header


class AvMarch(c.Structure):
    _fields_ = [
        ("launch", AvLaunch),
        ("R", c.c_int64),
        ("levels", c.c_int32),
        ("cells", c.c_int32 * 3),
        ("near_plane", c.c_float),
        ("far_plane", c.c_float),
        ("step", c.c_float),
        ("bend", c.c_float),
        ("turn", c.c_float),
        ("growth", c.c_float),
        ("box", c.c_float * 6),
        ("origins", P),
        ("directions", P),
        ("jitter", P),
        ("occupancy", P),
        ("counts", P),
        ("runs", P),
        ("offsets", P),
        ("capacity", c.c_int64),
        ("ray_ids", P),
        ("starts", P),
        ("ends", P),
    ]


class AvComposite(c.Structure):
    _fields_ = [
        ("launch", AvLaunch),
        ("R", c.c_int64),
        ("S", c.c_int64),
        ("channels", c.c_int32),
        ("stop", c.c_float),
        ("offsets", P),
        ("densities", P),
        ("colors", P),
        ("starts", P),
        ("ends", P),
        ("backgrounds", P),
        ("weights", P),
        ("color", P),
        ("alpha", P),
        ("depth", P),
    ]


class AvCompositeBackward(c.Structure):
    _fields_ = [
        ("forward", AvComposite),
        ("v_weights", P),
        ("v_color", P),
        ("v_alpha", P),
        ("v_depth", P),
        ("v_densities", P),
        ("v_colors", P),
        ("v_starts", P),
        ("v_ends", P),
    ]


STRUCTURES: tuple[type[c.Structure], ...] = (AvMarch, AvComposite, AvCompositeBackward)

FUNCTIONS: dict[str, tuple[type, list]] = {
    "av_march_count": (c.c_int32, [c.POINTER(AvMarch)]),
    "av_march_fill": (c.c_int32, [c.POINTER(AvMarch)]),
    "av_composite_forward": (c.c_int32, [c.POINTER(AvComposite)]),
    "av_composite_backward": (c.c_int32, [c.POINTER(AvCompositeBackward)]),
}
