"""The PLY of GaussianAvatars (Qian et al. 2024): Gaussians in their triangles' frames, and the triangle as `binding_0`.

The frames are the same as ours, so the numbers pass through unchanged. The triangles are those of this avatar's head, written
beside it as an OBJ of the neutral shape; GaussianAvatars' own viewer additionally needs that head to be FLAME. What
expressions add to the Gaussians is not in this format: `pose` is where it is frozen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from avatars import deform
from avatars.avatar import Avatar
from avatars.export import ply
from avatars.files import atomic_path
from avatars.types import HeadPose

DESCRIPTION = "Gaussians bound to triangles as GaussianAvatars' PLY (binding_0), with the head's mesh as OBJ beside it"
SUFFIX = ".ply"
PROPERTIES = (*ply.PROPERTIES, "binding_0")


def write(avatar: Avatar, pose: HeadPose, path: Path) -> dict[str, Any]:
    """Write the bound Gaussians as they are in `pose`, and `<path>.obj`."""
    import numpy as np

    avatar = avatar.to("cpu")
    pose = pose.to("cpu")
    local = deform.find(avatar.deformation).apply(dict(avatar.parameters), avatar.gaussians, deform.frame_code(pose))
    rows = ply.raw_rows(
        local.means.detach(), local.sh.detach(), local.logit_opacities.detach(), local.log_scales.detach(), local.quats.detach()
    )
    rows = np.concatenate([rows, local.face_ids.numpy()[:, None].astype("<f4")], 1)
    ply.write_table(path, PROPERTIES, rows, comment="GaussianAvatars, triangle-local")
    mesh = path.with_suffix(".obj")
    with atomic_path(mesh) as temporary:
        vertices = avatar.vertices(avatar.head.neutral())[0].numpy()
        lines = [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in vertices]
        lines += [f"f {a + 1} {b + 1} {c + 1}" for a, b, c in avatar.head.faces.numpy()]
        temporary.write_text("\n".join(lines) + "\n")
    return {"gaussians": len(rows), "triangles": avatar.head.F, "mesh": str(mesh)}
