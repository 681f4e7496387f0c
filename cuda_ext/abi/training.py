"""The structures and functions of the losses and the optimiser: include/abi_training.h."""

from __future__ import annotations

import ctypes as c

from cuda_ext.abi.common import AvLaunch, P


class AvSsim(c.Structure):
    _fields_ = [
        ("launch", AvLaunch),
        ("B", c.c_int64),
        ("height", c.c_int32),
        ("width", c.c_int32),
        ("crop", c.c_int32),
        ("l1_factor", c.c_float),
        ("ssim_factor", c.c_float),
        ("matte_factor", c.c_float),
        ("a", P),
        ("b", P),
        ("weights", P),
        ("alpha", P),
        ("mattes", P),
        ("l1", P),
        ("ssim", P),
        ("loss", P),
        ("v_a", P),
        ("v_alpha", P),
        ("scratch", P),
        ("scratch_bytes", c.c_int64),
    ]


HALF_MOMENTS, WHOLE_GRAD = 1, 2  # AvAdamFlags
ADAM_COLUMNS = 640  # AV_ADAM_COLUMNS


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
        ("flags", c.c_int64),
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


STRUCTURES: tuple[type[c.Structure], ...] = (
    AvSsim,
    AvAdamTensor,
    AvAdam,
)

FUNCTIONS: dict[str, tuple[type, list]] = {
    "av_ssim": (c.c_int32, [c.POINTER(AvSsim)]),
    "av_ssim_scratch": (c.c_int64, [c.c_int64, c.c_int32, c.c_int32, c.c_int32, c.c_int32]),
    "av_adam": (c.c_int32, [c.POINTER(AvAdam)]),
}
