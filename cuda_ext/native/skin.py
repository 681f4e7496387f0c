"""Calls of the posed head, and its data as the kernels want it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cuda_ext import abi, library
from cuda_ext.native.calls import contiguous, launch_of, workspaces

if TYPE_CHECKING:
    from cuda_ext.ops.skin import Rig

_GROUP = 32  # AV_SKIN_GROUP


@dataclass(frozen=True, eq=False)
class PackedRig:
    """Vertices in groups of 32, each group with the shapes that move it: a seventh of a face's offsets are not zero."""

    V: int
    E: int
    J: int
    shapes: int
    scale: float
    tensors: tuple[Tensor, ...]  # parents, joints, rest, skin_weights, turns, starts, indices, offsets, as in AvSkin

    @staticmethod
    def of(rig: Rig) -> PackedRig:
        """Pack a rig."""
        V, E, J = len(rig.rest), len(rig.shapes), len(rig.joints)

        def lanes(values: Tensor) -> Tensor:
            """[..., V, K] → [..., groups, K, 32], zero beyond V."""
            padded = torch.nn.functional.pad(values.detach(), (0, 0, 0, -V % _GROUP))
            return padded.unflatten(-2, (-1, _GROUP)).transpose(-1, -2).contiguous()

        shapes = rig.shapes if rig.pose_shapes is None else torch.cat([rig.shapes, rig.pose_shapes])
        blocks = lanes(shapes)  # [M, groups, 3, 32]
        groups, indices = (blocks != 0).flatten(2).any(2).T.nonzero().unbind(1)
        counts = torch.bincount(groups, minlength=blocks.shape[1])
        starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).to(torch.int32)
        parents = torch.tensor(rig.parents, dtype=torch.int32, device=rig.rest.device)
        tensors = (
            parents, *contiguous((rig.joints,)), lanes(rig.rest), lanes(rig.skin_weights), *contiguous((rig.turns,)), starts,
            indices.to(torch.int32), blocks[indices, groups].contiguous(),
        )  # fmt: skip
        return PackedRig(V, E, J, len(shapes), float(rig.scale), tensors)

    def arguments(self, pose: tuple[Tensor, ...], out: tuple[Tensor, ...]) -> abi.AvSkin:
        """The forward arguments; `out`: vertices, shaped, transforms."""
        return abi.AvSkin(
            launch_of(pose[0].device), len(pose[0]), self.V, self.E, self.J, self.shapes, len(self.tensors[6]), self.scale, 0,
            *(t.data_ptr() for t in self.tensors), *(t.data_ptr() for t in pose), *(t.data_ptr() for t in out),
        )  # fmt: skip


class SkinFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, expression, angles, rotation, translation, rig: PackedRig, lib):
        pose = contiguous((expression, angles, rotation, translation))
        B, groups = len(expression), -(-rig.V // _GROUP)
        out = (
            expression.new_empty(B, rig.V, 3),
            expression.new_empty(B, groups, 3, _GROUP),
            expression.new_empty(B, rig.J + 1, 3, 4),
        )
        args = rig.arguments(pose, out)
        scratch = workspaces.take(lib.av_skin_scratch(B, rig.V, rig.J, rig.shapes), expression.device)
        args.scratch, args.scratch_bytes = scratch.data_ptr(), scratch.numel()
        library.check(lib, lib.av_skin_forward(args), "skin")
        workspaces.give(scratch)
        ctx.save_for_backward(*pose, *out[1:])
        ctx.rig, ctx.lib = rig, lib
        return out[0]

    @staticmethod
    def backward(ctx, v_vertices):
        *pose, shaped, transforms = ctx.saved_tensors
        rig, lib = ctx.rig, ctx.lib
        v_vertices = v_vertices.contiguous()
        v_pose = [torch.empty_like(t) for t in pose]
        args = rig.arguments(tuple(pose), (v_vertices, shaped, transforms))
        args.vertices, args.v_vertices = None, v_vertices.data_ptr()
        args.v_expression, args.v_angles, args.v_rotation, args.v_translation = (t.data_ptr() for t in v_pose)
        scratch = workspaces.take(lib.av_skin_scratch(len(pose[0]), rig.V, rig.J, rig.shapes), v_vertices.device)
        args.scratch, args.scratch_bytes = scratch.data_ptr(), scratch.numel()
        library.check(lib, lib.av_skin_backward(args), "skin backward")
        workspaces.give(scratch)
        return *v_pose, None, None


def skin(lib, rig: PackedRig, expression: Tensor, angles: Tensor, rotation: Tensor, translation: Tensor) -> Tensor:
    """Vertices [B, V, 3]."""
    return SkinFunction.apply(expression, angles, rotation, translation, rig, lib)
