"""What lies under the skin follows it: eyeballs with the lids, teeth and tongue with the face around the mouth."""

from __future__ import annotations

import torch
from torch import Tensor

from avatars.head import HeadModel
from avatars.types import Cameras
from capture.track.warp import see_mesh

_AROUND_MOUTH = ("lips", "face", "nose")
# part, the skin that it follows, whether it keeps its shape
_FOLLOWS = (
    (("eyeball_left", "iris_left", "pupil_left"), ("eyelids",), True),
    (("eyeball_right", "iris_right", "pupil_right"), ("eyelids",), True),
    (("tongue", "teeth_upper", "teeth_lower", "gums_upper", "gums_lower"), _AROUND_MOUTH, True),
    (("mouth_bag",), _AROUND_MOUTH, False),
)
_REACH = 0.02  # metres around the middle of a part within which skin counts


def carry_parts(head: HeadModel, vertices: Tensor, displacement: Tensor) -> Tensor:
    """Displacements [V, 3] of the skin at `vertices` [V, 3], extended to the parts beneath.

    Vertices that a part shares with the skin keep the skin's displacement.
    """
    result = displacement.clone()
    skin = torch.zeros(head.V, dtype=torch.bool)
    skin[head.region_vertices("face", "lips", "eyelids", "nose", "brows", "ears", "scalp", "neck", "torso")] = True
    for regions, around, rigid in _FOLLOWS:
        part, near = head.region_vertices(*regions), head.region_vertices(*around)
        inner = part[~skin[part]]
        if not len(inner) or not len(near):
            continue
        weight = torch.exp(-0.5 * ((vertices[near] - vertices[part].mean(0)).norm(dim=-1) / _REACH) ** 2)
        moved = (displacement[near] * weight[:, None]).sum(0) / weight.sum().clamp_min(1e-12)
        result[inner] = moved if rigid else _blended(vertices, displacement, inner, near, moved)
    return result


def _blended(vertices: Tensor, displacement: Tensor, inner: Tensor, near: Tensor, moved: Tensor) -> Tensor:
    """The part's common motion; close to the skin (behind the lips) that of the skin, so that nothing pokes through."""
    distance, nearest = torch.cdist(vertices[inner], vertices[near]).min(1)
    share = torch.exp(-0.5 * (distance / 4e-3) ** 2)[:, None]
    return share * displacement[near[nearest]] + (1 - share) * moved


_TEETH = ("teeth_upper", "teeth_lower", "gums_upper", "gums_lower")


def tuck_teeth(head: HeadModel, vertices: Tensor, backwards: Tensor, cameras: Cameras, most: float = 5e-3, steps: int = 5) -> Tensor:
    """Displacements [V, 3] that hide the teeth behind closed lips: the least of `steps` moves along `backwards` [3], up to `most` metres.

    vertices [V, 3] of a frame whose lips are closed. The teeth of another mouth may be too wide for this one and show at its corners.
    """
    part, faces = head.region_vertices(*_TEETH), torch.zeros(head.F, dtype=torch.bool)
    faces[head.region_faces(*_TEETH)] = True
    result = torch.zeros_like(vertices)
    if not len(part):
        return result
    initially = None
    for i in range(steps + 1):
        moved = result.clone()
        moved[part] = backwards * (most * i / steps)
        shown = 0
        for seen in see_mesh(vertices + moved, head.faces, cameras):
            ids = torch.from_numpy(seen.face_ids).long()
            shown += int((faces[ids.clamp_min(0)] & (ids >= 0)).sum())
        initially = shown if initially is None else initially
        if shown <= 0.2 * initially:
            return moved
    return result  # they are seen through a gap, not through the lips
