"""The parametric head: who someone is and what the face does, turned into a mesh.

    shaped   = template + Σ identity·identity_basis + offsets + Σ expression·expression_basis      (metres)
    posed    = linear blend skinning of `shaped` about the joints, which follow the identity
    vertices = root · (scale · posed)

Axes: y up, z forward (out of the face), x = the subject's left; the origin lies inside the head, roughly between the
ears. With the mean identity and the neutral pose the vertices are the template exactly. Joint rotations are axis-angle
in the parent's frame; an expression may add rotations of its own (`expression_rotations`: jawOpen turns the jaw, so that
teeth and tongue travel on an arc), linear in the weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property

import torch
from torch import Tensor

from avatars.files import content_hash
from avatars.transforms import axis_angle_to_matrix
from avatars.types import HeadPose, Identity
from cuda_ext import ops

JOINTS = ("neck", "head", "jaw", "eye_left", "eye_right")
PARENTS = (-1, 0, 1, 1, 1)  # -1: the root

REGIONS = (
    "face", "lips", "eyelids", "nose", "brows", "ears", "scalp", "neck", "torso",
    "mouth_bag", "tongue", "teeth_upper", "teeth_lower", "gums_upper", "gums_lower",
    "eyeball_left", "eyeball_right", "iris_left", "iris_right", "pupil_left", "pupil_right",
)  # fmt: skip
SKIN = ("face", "lips", "eyelids", "nose", "brows", "ears", "scalp", "neck")
"""Regions whose surface is a person's own skin above the clothes."""

ARKIT = (
    "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight", "cheekPuff", "cheekSquintLeft",
    "cheekSquintRight", "eyeBlinkLeft", "eyeBlinkRight", "eyeLookDownLeft", "eyeLookDownRight", "eyeLookInLeft",
    "eyeLookInRight", "eyeLookOutLeft", "eyeLookOutRight", "eyeLookUpLeft", "eyeLookUpRight", "eyeSquintLeft",
    "eyeSquintRight", "eyeWideLeft", "eyeWideRight", "jawForward", "jawLeft", "jawOpen", "jawRight", "mouthClose",
    "mouthDimpleLeft", "mouthDimpleRight", "mouthFrownLeft", "mouthFrownRight", "mouthFunnel", "mouthLeft",
    "mouthLowerDownLeft", "mouthLowerDownRight", "mouthPressLeft", "mouthPressRight", "mouthPucker", "mouthRight",
    "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper", "mouthSmileLeft", "mouthSmileRight",
    "mouthStretchLeft", "mouthStretchRight", "mouthUpperUpLeft", "mouthUpperUpRight", "noseSneerLeft", "noseSneerRight",
    "tongueOut",
)  # fmt: skip
"""The 52 expression names that people see everywhere (Apple's ARKit, ARFaceAnchor.BlendShapeLocation)."""


@dataclass(frozen=True)
class Landmarks:
    """L points on the surface, each a weighted mean of the corners of one triangle."""

    face_ids: Tensor  # [L] int64
    barycentrics: Tensor  # [L, 3], sum to 1
    valid: Tensor  # [L] bool; false where this head has no such point

    def __post_init__(self) -> None:
        count = self.face_ids.shape[0]
        if tuple(self.barycentrics.shape) != (count, 3) or tuple(self.valid.shape) != (count,):
            raise ValueError(
                f"Landmarks: {count} face ids need barycentrics [{count},3] and valid [{count}], "
                f"got {tuple(self.barycentrics.shape)} and {tuple(self.valid.shape)}"
            )

    def __len__(self) -> int:
        return self.face_ids.shape[0]


@dataclass(frozen=True)
class Closures:
    """How expressions that close a gap (eyelids) reach across the gap that each person has: N vertices.

    At weight 1 a vertex moves further by `share` of what the gap between its two margins has grown over the template's;
    a point of a margin is a mean of two vertices.
    """

    expressions: Tensor  # [N] int64
    vertices: Tensor  # [N] int64
    shares: Tensor  # [N] in 0–1
    moving: Tensor  # [N, 2] int64: the margin that moves
    moving_weights: Tensor  # [N, 2]
    resting: Tensor  # [N, 2] int64: the margin that it meets
    resting_weights: Tensor  # [N, 2]

    def gaps(self, vertices: Tensor) -> Tensor:
        """[N, 3] from the moving margin to the resting one on vertices [V, 3], times the share."""
        moving = (vertices[self.moving] * self.moving_weights[..., None]).sum(1)
        resting = (vertices[self.resting] * self.resting_weights[..., None]).sum(1)
        return (resting - moving) * self.shares[:, None]


@dataclass(frozen=True)
class ShapedHead:
    """A head whose identity is settled: what all frames of one person share. `HeadModel.shape` and `HeadModel.settle` make it."""

    vertices: Tensor  # [V, 3] neutral shape, metres, before the scale
    joints: Tensor  # [J, 3]
    scale: float | Tensor
    closing: Tensor | None = None  # [N, 3] further movement of the closures at weight 1
    rig: ops.Rig | None = None  # the same for `ops.skin`: ten times as fast, without gradients to the identity


@dataclass(frozen=True, eq=False)
class HeadModel:
    """An immutable parametric head; see the head of this module for its equations."""

    name: str
    template: Tensor  # [V, 3]
    faces: Tensor  # [F, 3] int64, counter-clockwise seen from outside
    uvs: Tensor  # [U, 2] in 0–1, v upwards
    uv_faces: Tensor  # [F, 3] int64
    identity_basis: Tensor  # [I, V, 3] metres per standard deviation
    expression_basis: Tensor  # [E, V, 3] metres at weight 1
    expression_names: tuple[str, ...]
    joint_template: Tensor  # [J, 3]
    joint_identity_basis: Tensor  # [I, J, 3]
    expression_rotations: Tensor  # [E, J, 3] axis-angle at weight 1
    skin_weights: Tensor  # [V, J+1], rows sum to 1; the last column is the root
    region_names: tuple[str, ...]
    face_regions: Tensor  # [F] uint8, index into region_names
    landmarks: Mapping[str, Landmarks] = field(default_factory=dict)
    pose_basis: Tensor | None = None  # [9·J, V, 3] offsets linear in (R − 1) of the joints, row-major (SMPL, Loper 2015, eq. 9)
    closures: Closures | None = None
    joint_names: tuple[str, ...] = JOINTS
    joint_parents: tuple[int, ...] = PARENTS

    def __post_init__(self) -> None:
        V, F, J, E, identities = self.V, self.F, self.J, self.E, self.I
        expected = {
            "template": (V, 3), "faces": (F, 3), "uvs": (self.uvs.shape[0], 2), "uv_faces": (F, 3),
            "identity_basis": (identities, V, 3), "expression_basis": (E, V, 3), "joint_template": (J, 3),
            "joint_identity_basis": (identities, J, 3), "expression_rotations": (E, J, 3), "skin_weights": (V, J + 1),
            "face_regions": (F,),
        }  # fmt: skip
        if self.pose_basis is not None:
            expected["pose_basis"] = (9 * J, V, 3)
        for key, shape in expected.items():
            found = tuple(getattr(self, key).shape)
            if found != shape:
                raise ValueError(f"head {self.name}: {key} must be {list(shape)}, got {list(found)}")
        for key, bound in (("faces", V), ("uv_faces", self.uvs.shape[0]), ("face_regions", len(self.region_names))):
            ids = getattr(self, key)
            if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= bound):
                raise ValueError(f"head {self.name}: {key} must lie in 0–{bound - 1}, found {int(ids.min())} to {int(ids.max())}")
        if len(set(self.expression_names)) != E:
            raise ValueError(f"head {self.name}: expression names repeat")

    # counts

    @property
    def V(self) -> int:
        """Number of vertices."""
        return self.template.shape[0]

    @property
    def F(self) -> int:
        """Number of triangles."""
        return self.faces.shape[0]

    @property
    def I(self) -> int:  # noqa: E743 - the name of the dimension
        """Number of identity modes."""
        return self.identity_basis.shape[0]

    @property
    def E(self) -> int:
        """Number of expressions."""
        return len(self.expression_names)

    @property
    def J(self) -> int:
        """Number of joints, the root not counted."""
        return len(self.joint_names)

    # parameters

    def mean_identity(self) -> Identity:
        """The identity of the template."""
        return Identity(self.template.new_zeros(self.I))

    def neutral(self, batch: int = 1) -> HeadPose:
        """`batch` frames of a face at rest, root at the origin."""
        new = self.template.new_zeros
        return HeadPose(new(batch, self.E), new(batch, self.J, 3), new(batch, 3), new(batch, 3))

    def expression(self, **weights: float) -> Tensor:
        """[1, E] weights by name, the others zero; ValueError for a name that this head does not have."""
        values = self.template.new_zeros(1, self.E)
        for name, weight in weights.items():
            values[0, self.expression_index(name)] = weight
        return values

    def expression_index(self, name: str) -> int:
        """Position of an expression; ValueError lists the known names."""
        if name not in self.expression_names:
            raise ValueError(f"head {self.name} has no expression {name!r}; known: {', '.join(self.expression_names)}")
        return self.expression_names.index(name)

    # shape

    def shape(self, identity: Identity) -> ShapedHead:
        """Apply the identity: do it once per person and pass the result to `vertices` for every frame."""
        coefficients = identity.coefficients
        if tuple(coefficients.shape) != (self.I,):
            raise ValueError(f"head {self.name}: identity coefficients must be [{self.I}], got {list(coefficients.shape)}")
        vertices = self.template + (coefficients @ self.identity_basis.reshape(self.I, -1)).reshape(self.V, 3)
        if identity.offsets is not None:
            if tuple(identity.offsets.shape) != (self.V, 3):
                raise ValueError(f"head {self.name}: offsets must be [{self.V},3], got {list(identity.offsets.shape)}")
            vertices = vertices + identity.offsets
        joints = self.joint_template + torch.einsum("i,ijk->jk", coefficients, self.joint_identity_basis)
        closing = None if self.closures is None else self.closures.gaps(vertices) - self.closures.gaps(self.template)
        return ShapedHead(vertices, joints, identity.scale, closing)

    @torch.no_grad()
    def settle(self, identity: Identity) -> ShapedHead:
        """The same for many frames of one person whose identity no longer changes; takes a few milliseconds."""
        shaped = self.shape(identity)
        shapes = self.expression_basis
        if self.closures is not None and shaped.closing is not None:
            shapes = shapes.index_put((self.closures.expressions, self.closures.vertices), shaped.closing, accumulate=True)
        rig = ops.Rig(
            shaped.vertices, shaped.joints, shapes, self.expression_rotations, self.skin_weights, self.joint_parents, float(shaped.scale),
            self.pose_basis,
        )  # fmt: skip
        return replace(shaped, rig=rig)

    def vertices(self, identity: Identity | ShapedHead, pose: HeadPose) -> Tensor:
        """[B, V, 3] vertices in the world; differentiable in everything.

        A `ShapedHead` from `shape` saves half of the time, one from `settle` nine tenths; the latter is differentiable in the pose alone.
        """
        shaped = identity if isinstance(identity, ShapedHead) else self.shape(identity)
        B = pose.expression.shape[0]
        self._check_pose(pose)
        if shaped.rig is not None:
            return ops.skin(shaped.rig, pose.expression, pose.joints, pose.rotation, pose.translation)
        offsets = pose.expression @ self.expression_basis.reshape(self.E, -1)
        rest = shaped.vertices + offsets.reshape(B, self.V, 3)
        if self.closures is not None and shaped.closing is not None:
            reach = pose.expression[:, self.closures.expressions, None] * shaped.closing  # [B, N, 3]
            rest = rest.index_add(1, self.closures.vertices, reach)
        rotations = axis_angle_to_matrix(self.joint_rotations(pose))  # [B, J, 3, 3]
        if self.pose_basis is not None:
            eye = torch.eye(3, dtype=rotations.dtype, device=rotations.device)
            features = (rotations - eye).reshape(B, 9 * self.J)
            rest = rest + (features @ self.pose_basis.reshape(9 * self.J, -1)).reshape(B, self.V, 3)
        R, t = self._chain(rotations, shaped.joints)
        # The root moves with everything, so it and the scale are folded into the blended transforms.
        root = axis_angle_to_matrix(pose.rotation)[:, None]  # [B, 1, 3, 3]
        R = root @ R * shaped.scale
        t = (root @ t[..., None])[..., 0] * shaped.scale + pose.translation[:, None]
        A = torch.cat([R, t[..., None]], -1).reshape(B, self.J + 1, 12)
        A = (self.skin_weights @ A).reshape(B, self.V, 3, 4)
        return (A[..., :3] * rest[..., None, :]).sum(-1) + A[..., 3]

    def joint_rotations(self, pose: HeadPose) -> Tensor:
        """[B, J, 3] axis-angle of every joint, those that expressions cause included."""
        caused = pose.expression @ self.expression_rotations.reshape(self.E, -1)
        return pose.joints + caused.reshape(-1, self.J, 3)

    def joint_transforms(self, identity: Identity | ShapedHead, pose: HeadPose) -> Tensor:
        """[B, J+1, 4, 4] from each joint's rest position to the world, scale included; the root last."""
        shaped = identity if isinstance(identity, ShapedHead) else self.shape(identity)
        self._check_pose(pose)
        R, t = self._chain(axis_angle_to_matrix(self.joint_rotations(pose)), shaped.joints)
        root = axis_angle_to_matrix(pose.rotation)[:, None]
        R = root @ R * shaped.scale
        t = (root @ t[..., None])[..., 0] * shaped.scale + pose.translation[:, None]
        top = torch.cat([R, t[..., None]], -1)
        bottom = torch.zeros_like(top[..., :1, :])
        bottom[..., 3] = 1
        return torch.cat([top, bottom], -2)

    def _chain(self, rotations: Tensor, joints: Tensor) -> tuple[Tensor, Tensor]:
        """Local rotations [B, J, 3, 3] about joints [J, 3] → rest-to-posed R [B, J+1, 3, 3], t [B, J+1, 3]; identity last."""
        Rs: list[Tensor] = []
        ts: list[Tensor] = []
        for j, parent in enumerate(self.joint_parents):
            local = rotations[:, j]
            shift = joints[j] - (local @ joints[j])
            if parent < 0:
                Rs.append(local)
                ts.append(shift)
            else:
                Rs.append(Rs[parent] @ local)
                ts.append((Rs[parent] @ shift[..., None])[..., 0] + ts[parent])
        eye = torch.eye(3, dtype=rotations.dtype, device=rotations.device).expand_as(Rs[0])
        return torch.stack([*Rs, eye], 1), torch.stack([*ts, torch.zeros_like(ts[0])], 1)

    def _check_pose(self, pose: HeadPose) -> None:
        B = pose.expression.shape[0]
        for key, shape in (
            ("expression", (B, self.E)), ("joints", (B, self.J, 3)), ("rotation", (B, 3)), ("translation", (B, 3)),
        ):  # fmt: skip
            found = tuple(getattr(pose, key).shape)
            if found != shape:
                raise ValueError(f"head {self.name}: pose.{key} must be {list(shape)}, got {list(found)}")

    # points and regions

    def landmark_positions(self, vertices: Tensor, kind: str = "mediapipe") -> Tensor:
        """Points [B, L, 3] on vertices [B, V, 3]; those that are not valid are meaningless (see landmarks[kind].valid)."""
        if kind not in self.landmarks:
            raise ValueError(f"head {self.name} has no {kind!r} landmarks; known: {', '.join(self.landmarks) or 'none'}")
        points = self.landmarks[kind]
        corners = vertices[:, self.faces[points.face_ids]]  # [B, L, 3, 3]
        return (corners * points.barycentrics[..., None]).sum(-2)

    def region_faces(self, *names: str) -> Tensor:
        """Ids of the triangles of these regions, ascending; regions that this head lacks are empty."""
        unknown = [n for n in names if n not in self.region_names and n not in REGIONS]
        if unknown:
            raise ValueError(f"head {self.name} has no region {', '.join(unknown)}; known: {', '.join(self.region_names)}")
        wanted = [i for i, n in enumerate(self.region_names) if n in names]
        mask = torch.zeros(self.F, dtype=torch.bool, device=self.faces.device)
        for i in wanted:
            mask |= self.face_regions == i
        return mask.nonzero()[:, 0]

    def region_vertices(self, *names: str) -> Tensor:
        """Ids of the vertices that the triangles of these regions use, ascending."""
        return self.faces[self.region_faces(*names)].unique()

    # movement and identity of the model itself

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> HeadModel:
        """A copy on `device` whose floating tensors have `dtype`."""

        def move(value):
            if isinstance(value, Tensor):
                return value.to(device=device, dtype=dtype if value.is_floating_point() else None)
            if isinstance(value, Landmarks | Closures):
                return type(value)(*(move(getattr(value, f.name)) for f in fields(value)))
            if isinstance(value, Mapping):
                return {k: move(v) for k, v in value.items()}
            return value

        return replace(self, **{f.name: move(getattr(self, f.name)) for f in fields(self)})

    def content_hash(self) -> str:
        """16 hex digits that change whenever the model's numbers or names do."""
        return self._hash

    @cached_property
    def _hash(self) -> str:
        parts: list[str | bytes] = [",".join(self.expression_names), ",".join(self.region_names)]
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                value = value.detach().cpu()
                parts.append((value.float() if value.is_floating_point() else value).numpy().tobytes())
        for kind in sorted(self.landmarks):
            points = self.landmarks[kind]
            parts += [kind, points.face_ids.cpu().numpy().tobytes(), points.barycentrics.detach().cpu().float().numpy().tobytes()]
        if self.closures is not None:
            parts += [getattr(self.closures, f.name).cpu().float().numpy().tobytes() for f in fields(self.closures)]
        return content_hash(*parts)
