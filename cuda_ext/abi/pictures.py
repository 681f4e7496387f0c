"""The structures and functions of composed pictures: include/abi_pictures.h."""

from __future__ import annotations

import ctypes as c

from cuda_ext.abi.common import AvLaunch, P


class AvCompose(c.Structure):
    _fields_ = [
        ("launch", AvLaunch),
        ("C", c.c_int64),
        ("W", c.c_int64),
        ("height", c.c_int32),
        ("width", c.c_int32),
        ("halve", c.c_int32),
        ("reserved", c.c_int32),
        ("images", P),
        ("matrices", P),
        ("backgrounds", P),
        ("windows", P),
        ("Ks", P),
        ("pictures", P),
        ("mattes", P),
        ("weights", P),
    ]


STRUCTURES: tuple[type[c.Structure], ...] = (AvCompose,)

FUNCTIONS: dict[str, tuple[type, list]] = {"av_compose": (c.c_int32, [c.POINTER(AvCompose)])}
