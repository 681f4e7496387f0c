"""Calls of the mesh rasteriser, of interpolation, and of antialiased silhouettes."""

from __future__ import annotations

import torch
from torch import Tensor

from cuda_ext import abi, library
from cuda_ext.native.calls import contiguous, launch_of, pointer, workspaces


def _to_inputs(v_points: Tensor, vertices: Tensor, Ks: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients to vertices [C,V,3] and Ks [C,3,3] from those to the points K·vertex."""
    return torch.einsum("cvi,cij->cvj", v_points, Ks), torch.einsum("cvi,cvj->cij", v_points, vertices)


class _RasterizeMeshFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, vertices, faces, Ks, lib, width, height, near, cull_back):
        vertices, faces, Ks = contiguous((vertices, faces, Ks))
        C, V, _ = vertices.shape
        face_ids = torch.empty(C, height, width, dtype=torch.int32, device=vertices.device)
        barycentrics, depth = vertices.new_empty(C, height, width, 3), vertices.new_empty(C, height, width)
        scratch = workspaces.take(lib.av_mesh_scratch(C, V, len(faces), width, height), vertices.device)
        ctx.settings = (width, height, near, int(cull_back))
        args = _mesh((vertices, faces, Ks, face_ids, barycentrics, depth), ctx.settings)
        args.scratch, args.scratch_bytes = scratch.data_ptr(), scratch.numel()
        library.check(lib, lib.av_mesh_rasterize(args), "rasterize_mesh")
        workspaces.give(scratch)
        ctx.save_for_backward(vertices, faces, Ks, face_ids, barycentrics, depth)
        ctx.lib = lib
        ctx.mark_non_differentiable(face_ids)
        return face_ids, barycentrics, depth

    @staticmethod
    def backward(ctx, _, v_barycentrics, v_depth):
        vertices, faces, Ks, *_ = ctx.saved_tensors
        v_barycentrics, v_depth, v_points = v_barycentrics.contiguous(), v_depth.contiguous(), torch.empty_like(vertices)
        scratch = workspaces.take(ctx.lib.av_mesh_backward_scratch(len(vertices), len(faces)), vertices.device)
        args = abi.AvMeshBackward(
            _mesh(ctx.saved_tensors, ctx.settings), v_barycentrics.data_ptr(), v_depth.data_ptr(), v_points.data_ptr(),
            scratch.data_ptr(), scratch.numel(),
        )  # fmt: skip
        library.check(ctx.lib, ctx.lib.av_mesh_backward(args), "rasterize_mesh backward")
        workspaces.give(scratch)
        v_vertices, v_Ks = _to_inputs(v_points, vertices, Ks)
        return v_vertices, None, v_Ks, None, None, None, None, None


def _mesh(tensors, settings) -> abi.AvMesh:
    vertices, faces, *_ = tensors
    C, V, _ = vertices.shape
    return abi.AvMesh(launch_of(vertices.device), C, V, len(faces), *settings, *(t.data_ptr() for t in tensors))


def rasterize_mesh(lib, vertices, faces, Ks, width, height, near, cull_back):
    """face_ids [C,H,W] int32, barycentrics [C,H,W,3], depth [C,H,W]."""
    return _RasterizeMeshFunction.apply(vertices, faces, Ks, lib, width, height, near, cull_back)


class _InterpolateFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, attributes, faces, face_ids, barycentrics, lib):
        tensors = contiguous((attributes, faces, face_ids, barycentrics))
        out = attributes.new_empty(*face_ids.shape, attributes.shape[-1])
        library.check(lib, lib.av_interpolate_forward(_interpolation(tensors, out)), "interpolate")
        ctx.save_for_backward(*tensors)
        ctx.lib = lib
        return out

    @staticmethod
    def backward(ctx, v_out):
        tensors, v_out = ctx.saved_tensors, v_out.contiguous()
        v_attributes = torch.empty_like(tensors[0]) if ctx.needs_input_grad[0] else None
        v_barycentrics = torch.empty_like(tensors[3])
        args = _interpolation(tensors, None)
        args.v_out, args.v_attributes, args.v_barycentrics = v_out.data_ptr(), pointer(v_attributes), v_barycentrics.data_ptr()
        library.check(ctx.lib, ctx.lib.av_interpolate_backward(args), "interpolate backward")
        return v_attributes, None, None, v_barycentrics, None


def _interpolation(tensors, out: Tensor | None) -> abi.AvInterpolate:
    attributes, faces, face_ids, _ = tensors
    C, height, width = face_ids.shape
    return abi.AvInterpolate(
        launch_of(attributes.device), C, attributes.shape[-2], len(faces), width, height, attributes.shape[-1], int(attributes.dim() == 2),
        *(t.data_ptr() for t in tensors), pointer(out),
    )  # fmt: skip


def interpolate(lib, attributes, faces, face_ids, barycentrics):
    """[C,H,W,D]."""
    return _InterpolateFunction.apply(attributes, faces, face_ids, barycentrics, lib)


class _AntialiasFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, image, depth, vertices, edges, Ks, lib, near, cull_back):
        tensors = contiguous((vertices, edges, Ks, image, depth))
        out = torch.empty_like(tensors[3])
        keys = torch.empty(*depth.shape, 2, dtype=torch.int64, device=image.device)
        scratch = workspaces.take(lib.av_antialias_scratch(len(vertices), len(edges)), image.device)
        args = _antialias(tensors, keys, near, cull_back)
        args.out, args.scratch, args.scratch_bytes = out.data_ptr(), scratch.data_ptr(), scratch.numel()
        library.check(lib, lib.av_antialias_forward(args), "antialias")
        workspaces.give(scratch)
        ctx.save_for_backward(*tensors, keys)
        ctx.lib, ctx.settings = lib, (near, cull_back)
        return out

    @staticmethod
    def backward(ctx, v_out):
        *tensors, keys = ctx.saved_tensors
        vertices, _, Ks, image, _ = tensors
        v_out, v_image, v_points = v_out.contiguous(), torch.empty_like(image), torch.empty_like(vertices)
        args = _antialias(tensors, keys, *ctx.settings)
        args.v_out, args.v_image, args.v_points = v_out.data_ptr(), v_image.data_ptr(), v_points.data_ptr()
        library.check(ctx.lib, ctx.lib.av_antialias_backward(args), "antialias backward")
        v_vertices, v_Ks = _to_inputs(v_points, vertices, Ks)
        return v_image, None, v_vertices, None, v_Ks, None, None, None


def _antialias(tensors, keys: Tensor, near: float, cull_back: bool) -> abi.AvAntialias:
    vertices, edges, _, image, _ = tensors
    C, height, width, channels = image.shape
    return abi.AvAntialias(
        launch_of(image.device), C, vertices.shape[1], len(edges), width, height, channels, near, int(cull_back), 0,
        *(t.data_ptr() for t in tensors), keys.data_ptr(),
    )  # fmt: skip


def antialias(lib, image, depth, vertices, edges, Ks, near, cull_back):
    """[C,H,W,D]."""
    return _AntialiasFunction.apply(image, depth, vertices, edges, Ks, lib, near, cull_back)
