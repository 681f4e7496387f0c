"""Gaussians for the browser: what is sent is what the avatar is, also after viser's half precision."""

from __future__ import annotations

import numpy as np
import torch

from avatars.transforms import quat_to_matrix
from avatars.types import Gaussians
from viewer.splats import SH0, UNIT, SplatDisplay, splats_of


def some(count: int = 40) -> Gaussians:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    opacities = 0.01 + 0.9 * draw(count)
    opacities[:3] = 0.001
    return Gaussians(draw(count, 3) - 0.5, draw(count, 4) - 0.5, 3e-4 + 5e-4 * draw(count, 3), opacities, draw(count, 4, 3))


def test_thin_gaussians_survive_half_precision() -> None:
    gaussians = some()
    splats = splats_of(gaussians)
    assert len(splats.centers) == 37 and splats.opacities.shape == (37, 1)
    assert np.allclose(splats.centers * UNIT, gaussians.means[3:].numpy(), atol=1e-6)
    R = quat_to_matrix(gaussians.quats[3:])
    wanted = (R * gaussians.scales[3:, None, :] ** 2 @ R.transpose(1, 2)).double().numpy()
    sent = splats.covariances.astype(np.float16).astype(np.float64) * UNIT**2
    assert np.abs(sent - wanted).max() < 1e-3 * np.abs(wanted).max()
    metres = wanted.astype(np.float16).astype(np.float64)  # what would be left without the scale
    assert np.abs(metres - wanted).max() > 20 * np.abs(sent - wanted).max()
    assert np.allclose(splats.colors, (0.5 + SH0 * gaussians.sh[3:, 0].numpy()).clip(0, 1), atol=1e-6)


def test_one_message_a_frame() -> None:
    sent = []

    class Node:
        visible = True

        def set_gaussians(self, *parts: np.ndarray) -> None:
            sent.append("set")

    class Scene:
        def set_background_image(self, picture: np.ndarray, format: str) -> None:
            sent.append("ground")

        def add_gaussian_splats(self, name: str, *parts: np.ndarray, scale: float) -> Node:
            sent.append(("add", scale))
            return Node()

    class Client:
        scene = Scene()

    display, splats = SplatDisplay(Client()), splats_of(some())
    display.hide()
    for _ in range(3):
        display.show(splats, (1, 2, 3))
    assert sent == ["ground", ("add", 0.01), "set", "set"]
    display.hide()
    display.show(splats, (1, 2, 3))
    assert display.shown == 4 and 0 < splats.seconds < 1e-3
