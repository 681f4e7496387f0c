"""The posed head: blendshapes and linear blend skinning about a chain of joints."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from cuda_ext import native, reference
from cuda_ext.ops.checks import expect, same_device

MAX_JOINTS = 64  # of the native kernels; AV_SKIN_JOINTS


@dataclass(frozen=True, eq=False)
class Rig:
    """One person's head as `skin` moves it: V vertices, E expressions, J joints. Make it once; the first call packs it for the kernels."""

    rest: Tensor  # [V, 3] neutral, before the scale
    joints: Tensor  # [J, 3] at rest
    shapes: Tensor  # [E, V, 3] at weight 1
    turns: Tensor  # [E, J, 3] axis-angle that an expression adds to the joints at weight 1
    skin_weights: Tensor  # [V, J+1], rows sum to 1; the last column is the root
    parents: tuple[int, ...]  # [J] parents before children, -1: the root
    scale: float = 1.0
    pose_shapes: Tensor | None = None  # [9·J, V, 3] offsets linear in (R - 1) of the joints, row-major

    def __post_init__(self) -> None:
        V, E, J = len(self.rest), len(self.shapes), len(self.joints)
        expect("rest", self.rest, (V, 3))
        expect("joints", self.joints, (J, 3))
        expect("shapes", self.shapes, (E, V, 3))
        expect("turns", self.turns, (E, J, 3))
        expect("skin_weights", self.skin_weights, (V, J + 1))
        if self.pose_shapes is not None:
            expect("pose_shapes", self.pose_shapes, (9 * J, V, 3))
        if len(self.parents) != J or any(not -1 <= p < j for j, p in enumerate(self.parents)):
            raise ValueError(f"parents must be {J} numbers, each -1 or an earlier joint, got {self.parents}")
        same_device(self.rest, self.joints, self.shapes, self.turns, self.skin_weights)

    @cached_property
    def packed(self) -> native.PackedRig:
        """The same for the kernels."""
        return native.PackedRig.of(self)


def skin(
    rig: Rig,
    expression: Tensor,  # [B, E] weights
    angles: Tensor,  # [B, J, 3] axis-angle of the joints in their parents' frames, radians
    rotation: Tensor,  # [B, 3] axis-angle of the root
    translation: Tensor,  # [B, 3]
) -> Tensor:
    """Vertices [B, V, 3] of the posed head; gradients to the last four arguments.

    shaped = rest + Σ_e expression_e·shapes_e + Σ_f (R - 1)_f·pose_shapes_f, R_j = exp([angles_j + Σ_e expression_e·turns_ej]×);
    vertex = Q·s·Σ_j weight_j (G_j shaped + t_j) + translation, with G_j = G_parent R_j, t_j = G_parent (c_j - R_j c_j) + t_parent,
    Q = exp([rotation]×), s the scale (linear blend skinning; pose-dependent shapes: Loper et al. 2015, SMPL, eq. 9).
    """
    B, E, J = len(expression), len(rig.shapes), len(rig.joints)
    expect("expression", expression, (B, E))
    expect("angles", angles, (B, J, 3))
    expect("rotation", rotation, (B, 3))
    expect("translation", translation, (B, 3))
    same_device(rig.rest, expression, angles, rotation, translation)
    if torch.compiler.is_compiling():
        return torch.ops.avatars.skin(
            rig.rest, rig.joints, rig.shapes, rig.turns, rig.skin_weights, rig.pose_shapes, expression, angles, rotation, translation,
            list(rig.parents), rig.scale,
        )[0]  # fmt: skip
    library = native.pick("av_skin_forward", rig.rest, expression, angles, rotation, translation) if B and 1 <= J <= MAX_JOINTS else None
    if library is None:
        return reference.skin(rig, expression, angles, rotation, translation)
    return native.skin(library, rig.packed, expression, angles, rotation, translation)
