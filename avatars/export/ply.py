"""The PLY of 3D Gaussian Splatting (Kerbl et al. 2023): one frame, 62 floats per Gaussian; any splat viewer opens it.

x y z nx ny nz, f_dc_0..2, f_rest_0..44 (all red coefficients, then green, then blue), opacity as logit, scale_0..2 as logarithms,
rot_0..3 as unit wxyz. Metres, in the world of the capture, y up for a calibrated studio; viewers that think y points down show it
on its head and have a switch for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from avatars.avatar import Avatar
from avatars.files import atomic_path
from avatars.types import Gaussians, HeadPose

DESCRIPTION = "one frame as Gaussian-splatting PLY, for SuperSplat, gsplat, Blender add-ons and every other splat viewer"
SUFFIX = ".ply"
REST = 15  # coefficients of degrees 1 to 3, per channel
PROPERTIES: tuple[str, ...] = (
    *("x", "y", "z", "nx", "ny", "nz"),
    *(f"f_dc_{i}" for i in range(3)),
    *(f"f_rest_{i}" for i in range(3 * REST)),
    "opacity",
    *(f"scale_{i}" for i in range(3)),
    *(f"rot_{i}" for i in range(4)),
)


def write(avatar: Avatar, pose: HeadPose, path: Path) -> dict[str, Any]:
    """Write the Gaussians of `pose`."""
    gaussians = avatar.at(pose)
    write_gaussians(gaussians, path)
    return {"gaussians": len(gaussians), "megabytes": round(path.stat().st_size / 1e6, 1)}


def write_gaussians(gaussians: Gaussians, path: Path) -> None:
    """Write activated world-space Gaussians; degrees below 3 are filled up with zeros."""
    g = gaussians.to("cpu", torch.float32).detach()
    logits = torch.logit(g.opacities.clamp(1e-6, 1 - 1e-6))
    rows = raw_rows(g.means, g.sh, logits, g.scales.clamp_min(1e-9).log(), g.quats)
    write_table(path, PROPERTIES, rows)


def raw_rows(means: Tensor, sh: Tensor, logit_opacities: Tensor, log_scales: Tensor, quats: Tensor) -> np.ndarray:
    """[N, 62] float32 in the order of PROPERTIES; sh [N, K, 3] with K ≤ 16."""
    n = means.shape[0]
    rest = torch.zeros(n, REST, 3)
    rest[:, : sh.shape[1] - 1] = sh[:, 1:]
    quats = torch.nn.functional.normalize(quats, dim=-1)
    columns = [means, torch.zeros(n, 3), sh[:, 0], rest.transpose(1, 2).reshape(n, 3 * REST), logit_opacities[:, None], log_scales, quats]
    return torch.cat(columns, 1).numpy().astype("<f4")


def write_table(path: Path, properties: Sequence[str], rows: np.ndarray, comment: str = "") -> None:
    """A binary little-endian PLY whose vertices have these float properties, atomically."""
    comments = f"comment {comment}\n" if comment else ""
    header = f"ply\nformat binary_little_endian 1.0\n{comments}element vertex {len(rows)}\n"
    header += "".join(f"property float {name}\n" for name in properties) + "end_header\n"
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(header.encode("ascii"))
        file.write(np.ascontiguousarray(rows, "<f4").tobytes())
