"""Per-camera colour: an affine from the avatar's colours to what each sensor recorded, solved in closed form.

Training compares with the picture mapped back to the avatar's colours. For each camera a ridge regression
towards the identity is kept from running sums over pixels, render → picture, and solved now and then. The gauge is fixed by
making the mean over cameras the identity. (Learning it by gradient costs two more passes over every pixel per step.)
"""

from __future__ import annotations

import torch
from torch import Tensor


class CameraColors:
    """Affines [C, 3, 4] of C cameras, and the sums [C, 4, 7] that they are solved from."""

    def __init__(self, count: int, ridge: float) -> None:
        self.affine = torch.eye(3, 4).repeat(count, 1, 1)
        self.inverse = self.affine.clone()
        self.sums = torch.zeros(count, 4, 7)
        self.ridge = ridge

    def observe(self, camera: int, rendered: Tensor, picture: Tensor, decay: float = 0.9) -> None:
        """Add pixels: rendered [P, 3] in the avatar's colours, picture [P, 3] as recorded."""
        ones = torch.ones(len(rendered), 1)
        x = torch.cat([rendered, ones], 1)
        self.sums[camera] = decay * self.sums[camera] + x.T @ torch.cat([x, picture], 1)

    def solve(self) -> None:
        """Solve for all affines; then mean over cameras = identity."""
        eye = torch.eye(3, 4)
        gram, cross = self.sums[:, :, :4].double(), self.sums[:, :, 4:].double()
        weight = self.ridge * gram[:, 3, 3].clamp_min(1)[:, None, None] * torch.eye(4, dtype=torch.float64)
        solved = torch.linalg.solve(gram + weight, cross + weight @ eye.T.double()).transpose(1, 2)
        seen = (self.sums[:, 3, 3] > 0)[:, None, None]
        affine = torch.where(seen, solved, eye.double())
        if bool(seen.any()):
            # Only cameras that were observed carry the gauge.
            affine = torch.where(seen, affine - (affine - eye.double()).sum(0) / seen.sum(), affine)
        self.affine = affine.float()
        matrix = torch.linalg.inv(affine[:, :, :3])
        self.inverse = torch.cat([matrix, -(matrix @ affine[:, :, 3:])], 2).float()

    def state(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        return {"affine": self.affine, "inverse": self.inverse, "sums": self.sums}

    def load(self, state: dict[str, Tensor]) -> None:
        """From a checkpoint."""
        self.affine, self.inverse, self.sums = (state[k].clone() for k in ("affine", "inverse", "sums"))
