"""What a page holds of an avatar: the rig as arrays, and facts as JSON. `page/rig.js` says what it does with them.

The identity is settled before: the shape of the neutral face, its joints and its closing lids are baked in, so only what moves
is left. Vertices and triangles that no Gaussian hangs on are left out, and Gaussians that can never reach the
renderer's least alpha. Nothing else is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from avatars import deform
from avatars.avatar import Avatar
from avatars.camera_path import head_ball, subject_of
from avatars.errors import UserError
from avatars.export.html.payload import Payload
from avatars.expressions import PRESETS, counterpart, preset, regions
from avatars.gaussians import CanonicalGaussians
from avatars.playback import rest_pose

SUPPORTED = ("binding", "blendshapes")  # deformations that page/rig.js computes too
ALPHA_MIN = 1 / 255  # cuda_ext's semantics: what no pixel counts

# Steps. Rounding all Gaussians of the sample avatar by them moves its picture by 0.24 of 255 grey levels on average, each kind by
# no more than 0.16; half as fine they would save another tenth of the file, and cost twice that.
MEAN = 2.0**-9  # of the triangle's size, so 10–40 µm
QUAT = 2.0**-9
LOG_SCALE = 2.0**-6
OPACITY = 2.0**-10
COLOR = 2.0**-7  # of SH coefficients, times 0.28 to 0.49 as colour
MEAN_MOVES = 2.0**-7  # of corrections, whose weights are mostly below a half
QUAT_MOVES = 2.0**-6
COLOR_MOVES = 2.0**-5
OFFSET = 2.0**-18  # metres; the default head's own grid
WEIGHT = 1 / 65535
LEAST_LOG_SCALE = -8.0  # e⁻⁸ of a triangle is a few micrometres: thinner than that looks the same
CODE = 2.0**-12  # expression weights, radians
PLACE = 2.0**-16  # metres


def collect(avatar: Avatar) -> tuple[dict[str, Any], Payload]:
    """Facts and arrays of `avatar`; UserError when its deformation is one that pages do not know."""
    if avatar.deformation not in SUPPORTED:
        raise UserError(
            f"html pages know the deformations {', '.join(SUPPORTED)}; this avatar uses {avatar.deformation}. Export another format."
        )
    avatar = avatar.to("cpu", torch.float32)
    payload = Payload()
    gaussians, moves = _visible(avatar)
    order = torch.argsort(gaussians.face_ids, stable=True)
    gaussians, moves = gaussians[order], None if moves is None else moves[order]
    triangles, face_ids = torch.unique(gaussians.face_ids, return_inverse=True)
    _add_head(payload, avatar, triangles)
    _add_gaussians(payload, gaussians, face_ids, moves)
    parameters = avatar.parameters
    for name in ("hidden", "hidden_bias", "output", "lowest", "highest"):
        if name in parameters:
            payload.floats(f"map.{name}", parameters[name].numpy())
    _add_clips(payload, avatar)
    return _facts(avatar, gaussians, moves), payload


def _visible(avatar: Avatar) -> tuple[CanonicalGaussians, Tensor | None]:
    """The Gaussians that can be seen at all, and their corrections [N, 10, K]."""
    g = avatar.gaussians
    keep = (g.logit_opacities.sigmoid() >= ALPHA_MIN) & (g.quats.square().sum(1) > 1e-30)
    for tensor in (g.means, g.quats, g.log_scales, g.sh):
        keep &= tensor.isfinite().flatten(1).all(1)
    moves = avatar.parameters.get("each_basis")
    return g[keep], None if moves is None else moves[keep]


def _add_head(payload: Payload, avatar: Avatar, triangles: Tensor) -> None:
    head = avatar.head
    shaped = head.shape(avatar.identity)
    used, corners = torch.unique(head.faces[triangles], return_inverse=True)
    basis = head.expression_basis.clone()
    if head.closures is not None and shaped.closing is not None:  # linear in the weight, like the basis itself
        basis.index_put_((head.closures.expressions, head.closures.vertices), shaped.closing, accumulate=True)
    basis = basis[:, used]
    payload.floats("vertices", shaped.vertices[used].numpy())
    payload.steps("faces", corners.reshape(-1, 3).numpy(), 1, differences=True)
    moved = (basis.abs() > 0.5 * OFFSET).any(2)
    expression, vertex = moved.nonzero(as_tuple=True)
    payload.steps("expression.counts", moved.sum(1).numpy(), 1)
    payload.steps("expression.vertices", vertex.numpy(), 1, differences=True)
    payload.steps("expression.offsets", basis[expression, vertex].T.numpy(), OFFSET)
    payload.floats("expression.rotations", head.expression_rotations.numpy())
    payload.floats("joints", shaped.joints.numpy())
    payload.steps("skin", head.skin_weights[used].T.numpy(), WEIGHT)
    if head.pose_basis is not None:
        payload.steps("pose_basis", head.pose_basis[:, used].numpy(), OFFSET)


def _add_gaussians(payload: Payload, g: CanonicalGaussians, face_ids: Tensor, moves: Tensor | None) -> None:
    """Channel by channel, each [N]."""
    # A quaternion of length one with positive w turns the same way; its corrections are scaled alike.
    length = g.quats.norm(dim=1, keepdim=True) * torch.where(g.quats[:, :1] < 0, -1.0, 1.0)
    payload.steps("triangles", face_ids.numpy(), 1, differences=True)
    payload.steps("means", g.means.T.numpy(), MEAN)
    payload.steps("quats", (g.quats / length).T.numpy(), QUAT)
    payload.steps("log_scales", g.log_scales.clamp_min(LEAST_LOG_SCALE).T.numpy(), LOG_SCALE)
    payload.steps("opacities", g.logit_opacities.sigmoid().numpy(), OPACITY)
    payload.steps("sh", g.sh.permute(1, 2, 0).numpy(), COLOR)
    if moves is not None:
        planes = moves.permute(1, 2, 0)  # [10, K, N]
        payload.steps("moves.means", planes[:3].numpy(), MEAN_MOVES)
        payload.steps("moves.quats", (planes[3:7] / length[:, 0]).numpy(), QUAT_MOVES)
        payload.steps("moves.colors", planes[7:].numpy(), COLOR_MOVES)


def _add_clips(payload: Payload, avatar: Avatar) -> None:
    codes = avatar.timeline.codes
    payload.steps("clip.expression", codes.expression.numpy(), CODE, differences=True)
    payload.steps("clip.joints", codes.joints.numpy(), CODE, differences=True)
    payload.steps("clip.rotation", codes.rotation.numpy(), CODE, differences=True)
    payload.steps("clip.translation", codes.translation.numpy(), PLACE, differences=True)
    for segment in avatar.timeline.segments:
        sound = avatar.audio(segment.name)
        if sound is not None:
            payload.bytes(f"sound.{segment.name}", sound.read_bytes())


def _facts(avatar: Avatar, gaussians: CanonicalGaussians, moves: Tensor | None) -> dict[str, Any]:
    head, line = avatar.head, avatar.timeline
    rest = rest_pose(avatar)
    subject = subject_of(rest)
    centre, radius = head_ball(avatar, rest)
    names = head.expression_names
    presets = {p: {n: w for n, w in preset(p, names).items() if w} for p in PRESETS}
    spans = (
        np.zeros((len(names), 2))
        if not line.frame_count
        else torch.stack([line.codes.expression.amin(0), line.codes.expression.amax(0)], 1).numpy()
    )
    return {
        "gaussians": len(gaussians),
        "coefficients": gaussians.sh.shape[1],
        "bases": 0 if moves is None else moves.shape[2],
        "angleScale": deform.ANGLE_SCALE,
        "head": head.name,
        "scale": float(avatar.identity.scale),
        "joints": list(head.joint_names),
        "parents": list(head.joint_parents),
        "expressions": list(names),
        "regions": [[region, members] for region, members in regions(names).items()],
        "counterparts": {n: other for n in names if (other := counterpart(n, names))},
        "presets": [[p, weights] for p, weights in presets.items() if weights or not PRESETS[p]],
        "spans": [[round(float(low), 4), round(float(high), 4)] for low, high in spans] if line.frame_count else None,
        "rest": {k: getattr(rest, k)[0].reshape(-1).tolist() for k in ("joints", "rotation", "translation")},
        "place": {"centre": centre.tolist(), "up": subject.up.tolist(), "forward": subject.forward.tolist(), "radius": radius},
        "fps": line.fps,
        "clips": [[s.name, s.start, s.stop] for s in line.segments],
    }
