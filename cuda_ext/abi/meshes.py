"""The structures and functions on meshes: include/abi_meshes.h."""

from __future__ import annotations

import ctypes as c

from cuda_ext.abi.common import AvLaunch, P


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


STRUCTURES: tuple[type[c.Structure], ...] = (AvMesh,)

FUNCTIONS: dict[str, tuple[type, list]] = {
    "av_mesh_rasterize": (c.c_int32, [c.POINTER(AvMesh)]),
    "av_mesh_scratch": (c.c_int64, [c.c_int64, c.c_int64, c.c_int64, c.c_int32, c.c_int32]),
}
