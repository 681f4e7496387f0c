"""Gaussians that the browser draws: the alternative to pictures for a browser on the same machine.

viser keeps covariances in half precision, where squares of tenths of a millimetre vanish, so a scene unit is a centimetre: means
come times 100, covariances times 10⁴, and the node is scaled by `UNIT`. One message a frame carries 32 bytes a Gaussian (20,000
at 30 frames a second are 150 Mbit/s). Its shader knows no spherical harmonics: colours are those without direction; it leaves
out what is faint and tiny, and does not know the sensor's colours of a capture's camera.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from avatars.transforms import quat_to_matrix
from avatars.types import Gaussians

UNIT = 0.01  # metres
SH0 = 0.28209479177387814  # the constant spherical harmonic, 1/(2 √π)
FAINTEST = 1 / 255
MOST_BYTES = 20_000_000  # a second
NODE = "/avatar"
NOTE = "Drawn by this browser: colours without their change with the view, small faint splats left out. Comparisons and layers are drawn by the server."


@dataclass(frozen=True)
class Splats:
    """N Gaussians in scene units."""

    centers: np.ndarray  # [N, 3] float32
    covariances: np.ndarray  # [N, 3, 3] float32
    colors: np.ndarray  # [N, 3] float32 in 0–1
    opacities: np.ndarray  # [N, 1] float32 in 0–1

    @property
    def seconds(self) -> float:
        """The least time between two messages of this size."""
        return 32 * len(self.centers) / MOST_BYTES


@torch.no_grad()
def splats_of(gaussians: Gaussians) -> Splats:
    """What viser can show of Gaussians: those that can be seen at all."""
    seen = gaussians.opacities >= FAINTEST
    means, quats, scales = gaussians.means[seen], gaussians.quats[seen], gaussians.scales[seen]
    axes = quat_to_matrix(quats) * (scales / UNIT)[:, None, :]
    return Splats(
        (means / UNIT).float().cpu().numpy(),
        (axes @ axes.transpose(1, 2)).float().cpu().numpy(),
        (SH0 * gaussians.sh[seen, 0] + 0.5).clamp(0, 1).float().cpu().numpy(),
        gaussians.opacities[seen, None].float().cpu().numpy(),
    )


class SplatDisplay:
    """Shows splats in one browser; `client` is viser's handle of it."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.shown = 0
        self._node: Any = None
        self._ground: tuple[int, int, int] | None = None

    def show(self, splats: Splats, background: tuple[int, int, int]) -> None:
        """Replace what is shown: one message."""
        scene = self.client.scene
        if background != self._ground:
            scene.set_background_image(np.full((2, 2, 3), background, np.uint8), format="png")
            self._ground = background
        parts = (splats.centers, splats.covariances, splats.colors, splats.opacities)
        if self._node is None:
            self._node = scene.add_gaussian_splats(NODE, *parts, scale=UNIT)
        else:
            self._node.set_gaussians(*parts)
            if not self._node.visible:
                self._node.visible = True
        self.shown += 1

    def hide(self) -> None:
        """The server's pictures are shown instead."""
        if self._node is not None and self._node.visible:
            self._node.visible = False
