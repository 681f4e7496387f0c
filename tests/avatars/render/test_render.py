"""The contract of render backends, over all that can run here."""

from __future__ import annotations

import pytest
import torch

from avatars import render as rendering
from avatars.errors import UserError
from avatars.render import BACKENDS, render
from avatars.transforms import look_at
from avatars.types import Cameras, Gaussians


def _scene(device: torch.device, n: int = 60) -> tuple[Gaussians, Cameras]:
    g = torch.Generator().manual_seed(0)
    gaussians = Gaussians(
        0.1 * torch.randn(n, 3, generator=g), torch.randn(n, 4, generator=g), 0.01 + 0.02 * torch.rand(n, 3, generator=g),
        0.2 + 0.7 * torch.rand(n, generator=g), 0.3 * torch.randn(n, 4, 3, generator=g),
    )  # fmt: skip
    up = torch.tensor([0.0, 1.0, 0.0])
    views = torch.stack([look_at(torch.tensor([x, 0.1, 1.0]), torch.zeros(3), up) for x in (-0.4, 0.3)])
    K = torch.tensor([[90.0, 0, 27], [0, 95, 17], [0, 0, 1]]).repeat(2, 1, 1)
    return gaussians.to(device), Cameras(("a", "b"), K, views, 50, 38).to(device)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, device: torch.device) -> str:
    reason = rendering.find(request.param).available(device)
    if reason is not None:
        pytest.skip(reason)
    return request.param


def test_agrees_with_the_reference(backend: str, device: torch.device) -> None:
    gaussians, cameras = _scene(device)
    background = torch.tensor([[0.2, 0.5, 0.9], [1.0, 0.0, 0.3]], device=device)
    a, b = (render(gaussians, cameras, background, name) for name in (backend, "reference"))
    assert a.color.shape == (2, 38, 50, 3) and a.alpha.shape == (2, 38, 50, 1)
    assert (a.color - b.color).abs().mean() < 2e-4 and (a.color - b.color).abs().max() < 0.02
    assert (a.alpha - b.alpha).abs().mean() < 2e-4


def test_background_shows_where_nothing_is(backend: str, device: torch.device) -> None:
    gaussians, cameras = _scene(device)
    away = Gaussians(gaussians.means + 50, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.sh)
    image = render(away, cameras, torch.tensor([0.1, 0.6, 0.3], device=device), backend)
    assert torch.allclose(image.color, torch.tensor([0.1, 0.6, 0.3], device=device).expand_as(image.color), atol=1e-6)
    assert image.alpha.abs().max() == 0


def test_moving_world_and_cameras_together_changes_nothing(backend: str, device: torch.device) -> None:
    gaussians, cameras = _scene(device)
    flat = Gaussians(gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.sh[:, :1])
    shift = torch.tensor([0.3, -0.2, 0.5], device=device)
    moved = Gaussians(flat.means + shift, flat.quats, flat.scales, flat.opacities, flat.sh)
    viewmats = cameras.viewmats.clone()
    viewmats[:, :3, 3] -= viewmats[:, :3, :3] @ shift
    other = Cameras(cameras.names, cameras.Ks, viewmats, cameras.width, cameras.height)
    assert (render(flat, cameras, None, backend).color - render(moved, other, None, backend).color).abs().max() < 5e-3


def test_gradients_flow(backend: str, device: torch.device) -> None:
    gaussians, cameras = _scene(device)
    tensors = [getattr(gaussians, k).clone().requires_grad_() for k in ("means", "quats", "scales", "opacities", "sh")]
    render(Gaussians(*tensors), cameras, None, backend).color.sum().backward()
    for tensor in tensors:
        assert tensor.grad is not None and tensor.grad.isfinite().all() and tensor.grad.abs().sum() > 0


def test_cutting_the_window_shifts_the_principal_point(backend: str, device: torch.device) -> None:
    gaussians, cameras = _scene(device)
    Ks = cameras.Ks.clone()
    Ks[:, 0, 2] -= 9
    Ks[:, 1, 2] -= 6
    window = Cameras(cameras.names, Ks, cameras.viewmats, 30, 20)
    whole, part = render(gaussians, cameras, None, backend).color, render(gaussians, window, None, backend).color
    assert (whole[:, 6:26, 9:39] - part).abs().mean() < 1e-3


def test_bad_requests_are_named(device: torch.device) -> None:
    gaussians, cameras = _scene(device)
    with pytest.raises(UserError, match="native, gsplat, reference"):
        render(gaussians, cameras, None, "opengl")
    with pytest.raises(ValueError, match=r"\[2, 3\]"):
        render(gaussians, cameras, torch.zeros(5, 3))
    if rendering.find("gsplat").available(device) is not None:
        with pytest.raises(UserError, match="gsplat"):
            render(gaussians, cameras, None, "gsplat")
