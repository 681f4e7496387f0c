"""Calls of the mesh rasteriser."""

from __future__ import annotations

import torch

from cuda_ext import abi, library
from cuda_ext.native.calls import contiguous, launch_of, workspaces


def rasterize_mesh(lib, vertices, faces, Ks, width, height, near, cull_back):
    """face_ids [C,H,W] int32, barycentrics [C,H,W,3], depth [C,H,W]."""
    vertices, faces, Ks = contiguous((vertices, faces, Ks))
    C, V, _ = vertices.shape
    face_ids = torch.empty(C, height, width, dtype=torch.int32, device=vertices.device)
    barycentrics, depth = vertices.new_empty(C, height, width, 3), vertices.new_empty(C, height, width)
    scratch = workspaces.take(lib.av_mesh_scratch(C, V, len(faces), width, height), vertices.device)
    args = abi.AvMesh(
        launch_of(vertices.device), C, V, len(faces), width, height, near, int(cull_back), vertices.data_ptr(), faces.data_ptr(),
        Ks.data_ptr(), face_ids.data_ptr(), barycentrics.data_ptr(), depth.data_ptr(), scratch.data_ptr(), scratch.numel(),
    )  # fmt: skip
    library.check(lib, lib.av_mesh_rasterize(args), "rasterize_mesh")
    workspaces.give(scratch)
    return face_ids, barycentrics, depth
