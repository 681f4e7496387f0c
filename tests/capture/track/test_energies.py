"""Local quadratic models against automatic differentiation, and the solver against a dense one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scene import arc

from avatars.transforms import project_points
from avatars.types import HeadPose
from capture.track.energies import Quadratic, bounds, differences, gaussian_prior, rays, reprojection
from capture.track.points import pack
from capture.track.solve import Smoothness, minimise, smoothness_matrix


def _observed(points: torch.Tensor, cameras) -> torch.Tensor:
    return rays(torch.stack([project_points(points, cameras.viewmats[c], cameras.Ks[c])[0] for c in range(len(cameras))], 1), cameras)


def test_reprojection_is_zero_at_the_truth_and_points_back_to_it() -> None:
    cameras = arc(4).to(dtype=torch.float64)
    truth = 0.05 * torch.randn(2, 9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    observed, weights = _observed(truth, cameras), torch.ones(2, 4, 9, dtype=torch.float64)
    exact, residual = reprojection(truth, cameras, observed, weights, 5.0)
    assert float(exact.cost) < 1e-12 and float(residual.max()) < 1e-12
    away = truth + 0.001
    near, residual = reprojection(away, cameras, observed, weights, 1e6)
    back = away - torch.linalg.solve(near.A, near.gradient[..., None])[..., 0]
    assert torch.allclose(back, truth, atol=1e-9)  # linear in the point: one step
    assert 0.0005 < float(residual.mean()) < 0.002  # metres, whatever the resolution


def test_gradient_is_that_of_the_cost() -> None:
    cameras = arc(3).to(dtype=torch.float64)
    points = 0.05 * torch.randn(1, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    observed = _observed(points + 0.002, cameras)
    weights = torch.rand(1, 3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    pairs = torch.tensor([[0, 1], [4, 5]])
    for function in (lambda p: reprojection(p, cameras, observed, weights, 1.0)[0],):
        moving = points.clone().requires_grad_()
        quadratic = function(moving)
        (gradient,) = torch.autograd.grad(quadratic.cost, moving)
        assert torch.allclose(gradient, quadratic.gradient, rtol=1e-6)
    moving = points.clone().requires_grad_()
    quadratic, _ = differences(moving, pairs, cameras, observed, weights[..., :2], 1e6)
    quadratic.cost.backward()
    assert torch.allclose(moving.grad[:, [0, 4]], quadratic.gradient, rtol=0.02, atol=1e-3 * float(quadratic.gradient.detach().abs().max()))


def test_unseen_observations_do_nothing() -> None:
    cameras = arc(3)
    points = torch.zeros(1, 2, 3)
    observed = torch.full((1, 3, 2, 2), 1e6)
    quadratic, _ = reprojection(points, cameras, observed, torch.zeros(1, 3, 2), 1.0)
    assert float(quadratic.cost) == 0 and float(quadratic.A.abs().max()) == 0


def test_bounds_cost_only_outside() -> None:
    low, high = torch.tensor([0.0, 0.0, -torch.inf]), torch.tensor([1.0, 1.0, torch.inf])
    inside = bounds(torch.tensor([[0.0, 1.0, 50.0]]), low, high, 100.0)
    assert float(inside.cost) == 0 and float(inside.H.abs().max()) == 0
    outside = bounds(torch.tensor([[-0.1, 1.2, 0.0]]), low, high, 100.0)
    assert float(outside.cost) == pytest.approx(50 * (0.01 + 0.04))
    assert outside.g[0].tolist() == pytest.approx([-10.0, 20.0, 0.0], rel=1e-5)


def test_smoothness_couples_no_two_segments() -> None:
    L = smoothness_matrix([(0, 4), (4, 7), (7, 8)], 8, 2)
    assert L.shape == (3, 8)
    assert np.allclose(L @ np.arange(8.0), 0)
    step = np.array([0, 0, 0, 0, 9, 9, 9, -5.0])
    assert np.allclose(L @ step, 0)


def _toy_pose(T: int) -> HeadPose:
    return HeadPose(
        torch.zeros(T, 3, dtype=torch.float64),
        torch.zeros(T, 1, 3, dtype=torch.float64),
        torch.zeros(T, 3, dtype=torch.float64),
        torch.zeros(T, 3, dtype=torch.float64),
    )


def test_minimise_solves_the_whole_timeline_at_once() -> None:
    """A quadratic energy: one step must equal the dense solution of data plus smoothness."""
    T, D = 7, 12
    goal = torch.randn(T, D, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    goal[:, 6:9] = 0  # the root's rotation is not linear
    smooth = Smoothness(torch.rand(D, dtype=torch.float64) + 0.1, torch.rand(D, dtype=torch.float64) + 0.1)
    segments = [(0, 4), (4, 7)]

    def energy(pose: HeadPose) -> Quadratic:
        return gaussian_prior(pack(pose) - goal, torch.ones(D))

    pose, history = minimise(_toy_pose(T), energy, smooth, segments, 5)
    M = np.zeros((T * D, T * D))
    for order, w in ((1, smooth.velocity), (2, smooth.acceleration)):
        L = smoothness_matrix(segments, T, order)
        M += np.kron(L.T @ L, np.diag(w.numpy()))
    expected = np.linalg.solve(M + np.eye(T * D), goal.numpy().reshape(-1)).reshape(T, D)
    assert np.allclose(pack(pose).numpy(), expected, atol=1e-4)
    assert history[-1] < history[0]


def test_locked_parameters_stay() -> None:
    free = torch.ones(12, dtype=torch.bool)
    free[1] = False

    def energy(pose: HeadPose) -> Quadratic:
        return gaussian_prior(pack(pose) - 1, torch.ones(12))

    pose, _ = minimise(_toy_pose(3), energy, Smoothness(torch.zeros(12), torch.ones(12)), [(0, 3)], 3, free)
    assert float(pose.expression[:, 1].abs().max()) == 0
    assert torch.allclose(pose.expression[:, 0], torch.ones(3, dtype=torch.float64), atol=1e-4)
