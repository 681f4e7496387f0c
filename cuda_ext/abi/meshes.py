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


class AvMeshBackward(c.Structure):
    _fields_ = [
        ("forward", AvMesh),
        ("v_barycentrics", P),
        ("v_depth", P),
        ("v_points", P),
        ("scratch", P),
        ("scratch_bytes", c.c_int64),
    ]


class AvInterpolate(c.Structure):
    _fields_ = [
        ("launch", AvLaunch),
        ("C", c.c_int64),
        ("V", c.c_int64),
        ("F", c.c_int64),
        ("width", c.c_int32),
        ("height", c.c_int32),
        ("channels", c.c_int32),
        ("shared", c.c_int32),
        ("attributes", P),
        ("faces", P),
        ("face_ids", P),
        ("barycentrics", P),
        ("out", P),
        ("v_out", P),
        ("v_attributes", P),
        ("v_barycentrics", P),
    ]


class AvAntialias(c.Structure):
    _fields_ = [
        ("launch", AvLaunch),
        ("C", c.c_int64),
        ("V", c.c_int64),
        ("E", c.c_int64),
        ("width", c.c_int32),
        ("height", c.c_int32),
        ("channels", c.c_int32),
        ("near_plane", c.c_float),
        ("cull_back", c.c_int32),
        ("reserved", c.c_int32),
        ("vertices", P),
        ("edges", P),
        ("Ks", P),
        ("image", P),
        ("depth", P),
        ("keys", P),
        ("out", P),
        ("v_out", P),
        ("v_image", P),
        ("v_points", P),
        ("scratch", P),
        ("scratch_bytes", c.c_int64),
    ]


STRUCTURES: tuple[type[c.Structure], ...] = (AvMesh, AvMeshBackward, AvInterpolate, AvAntialias)

FUNCTIONS: dict[str, tuple[type, list]] = {
    "av_mesh_backward": (c.c_int32, [c.POINTER(AvMeshBackward)]),
    "av_mesh_backward_scratch": (c.c_int64, [c.c_int64, c.c_int64]),
    "av_interpolate_forward": (c.c_int32, [c.POINTER(AvInterpolate)]),
    "av_interpolate_backward": (c.c_int32, [c.POINTER(AvInterpolate)]),
    "av_antialias_forward": (c.c_int32, [c.POINTER(AvAntialias)]),
    "av_antialias_backward": (c.c_int32, [c.POINTER(AvAntialias)]),
    "av_antialias_scratch": (c.c_int64, [c.c_int64, c.c_int64]),
    "av_mesh_rasterize": (c.c_int32, [c.POINTER(AvMesh)]),
    "av_mesh_scratch": (c.c_int64, [c.c_int64, c.c_int64, c.c_int64, c.c_int32, c.c_int32]),
}
