"""The structures and functions on hash grids: include/abi_grids.h."""

from __future__ import annotations

import ctypes as c

from cuda_ext.abi.common import AvLaunch, P

FUNCTIONS: dict[str, tuple[type, list]] = {
    "av_hash_forward": (c.c_int32, [c.POINTER(AvLaunch), c.c_int64, c.c_int32, c.c_int32, P, P, P, P, P, P]),
    "av_hash_backward": (c.c_int32, [c.POINTER(AvLaunch), c.c_int64, c.c_int32, c.c_int32, P, P, P, P, P, P, P, P]),
}
