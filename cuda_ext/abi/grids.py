"""The structure and functions of hash grids: include/abi_grids.h."""

from __future__ import annotations

import ctypes as c

from cuda_ext.abi.common import AvLaunch, P

HASH_HEADS = 64  # AV_HASH_HEADS


class AvHash(c.Structure):
    _fields_ = [
        ("launch", AvLaunch),
        ("N", c.c_int64),
        ("levels", c.c_int32),
        ("features", c.c_int32),
        ("heads", c.c_int32),
        ("reserved", c.c_int32),
        ("scales", P),
        ("resolutions", P),
        ("offsets", P),
        ("positions", P),
        ("table", P),
        ("weights", P),
        ("out", P),
        ("v_out", P),
        ("v_table", P),
        ("v_positions", P),
        ("v_weights", P),
        ("scratch", P),
        ("scratch_bytes", c.c_int64),
    ]


class AvHashTables(c.Structure):
    _fields_ = [
        ("launch", AvLaunch),
        ("rows", c.c_int64),
        ("heads", c.c_int32),
        ("features", c.c_int32),
        ("tables", P),
        ("weights", P),
        ("out", P),
        ("v_out", P),
        ("v_tables", P),
        ("v_weights", P),
        ("scratch", P),
        ("scratch_bytes", c.c_int64),
    ]


STRUCTURES: tuple[type[c.Structure], ...] = (AvHash, AvHashTables)

FUNCTIONS: dict[str, tuple[type, list]] = {
    "av_hash_encode": (c.c_int32, [c.POINTER(AvHash)]),
    "av_hash_encode_backward": (c.c_int32, [c.POINTER(AvHash)]),
    "av_hash_scratch": (c.c_int64, [c.POINTER(AvHash)]),
    "av_hash_tables": (c.c_int32, [c.POINTER(AvHashTables)]),
    "av_hash_tables_backward": (c.c_int32, [c.POINTER(AvHashTables)]),
    "av_hash_tables_scratch": (c.c_int64, [c.POINTER(AvHashTables)]),
}
