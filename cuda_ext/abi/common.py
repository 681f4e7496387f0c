"""What all structures share: the version, the statuses, flags, and where to run."""

from __future__ import annotations

import ctypes as c

VERSION = 1
OK, OVERFLOW, INVALID, DEVICE, UNSUPPORTED = range(5)
ANTIALIASED, LOG_SCALES, LOGIT_OPACITIES, FOR_GRADIENTS = 1, 2, 4, 8
P = c.c_void_p  # every tensor
I64P = c.POINTER(c.c_int64)


class AvLaunch(c.Structure):
    _fields_ = [("stream", P), ("device", c.c_int32), ("threads", c.c_int32)]
