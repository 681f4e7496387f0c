"""The structures and functions of composed pictures: include/abi_pictures.h."""

from __future__ import annotations

import ctypes as c

from cuda_ext.abi.common import AvLaunch, P


class AvCompose(c.Structure):
    _fields_ = [
        ("launch", AvLaunch),
        ("C", c.c_int64),
        ("height", c.c_int32),
        ("width", c.c_int32),
        ("images", P),
        ("matrices", P),
        ("backgrounds", P),
        ("pictures", P),
        ("mattes", P),
    ]


class AvWindows(c.Structure):
    _fields_ = [
        ("launch", AvLaunch),
        ("C", c.c_int64),
        ("W", c.c_int64),
        ("height", c.c_int32),
        ("width", c.c_int32),
        ("windows", P),
        ("weights", P),
    ]


STRUCTURES: tuple[type[c.Structure], ...] = (AvCompose, AvWindows)

FUNCTIONS: dict[str, tuple[type, list]] = {
    "av_compose": (c.c_int32, [c.POINTER(AvCompose)]),
    "av_soft_windows": (c.c_int32, [c.POINTER(AvWindows)]),
}
