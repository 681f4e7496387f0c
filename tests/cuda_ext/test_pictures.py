"""compose and soft_windows: native against the float64 reference, laws, edge cases."""

from __future__ import annotations

import pytest
import torch

from cuda_ext import native, ops, reference


@pytest.mark.parametrize("shape", [(2, 37, 53), (1, 1, 1), (1, 3, 5), (0, 4, 4), (1, 90, 64)])
def test_compose_matches_the_reference(shape):
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (*shape, 4), generator=g, dtype=torch.uint8)
    matrices = torch.eye(3, 4) + 0.3 * torch.randn(shape[0], 3, 4, generator=g)
    backgrounds = torch.rand(shape[0], 3, generator=g)
    pictures, mattes = ops.compose(images, matrices, backgrounds)
    right = reference.compose(images, matrices.double(), backgrounds.double())
    assert pictures.shape == (*shape, 3) and mattes.shape == shape and native.pick("av_compose", matrices) is not None
    for a, b in zip((pictures, mattes), right, strict=True):
        assert torch.allclose(a.double(), b, atol=1e-6)


def test_an_opaque_picture_hides_the_background_and_an_empty_one_shows_it():
    images = torch.zeros(1, 20, 20, 4, dtype=torch.uint8)
    images[:, :10] = 255
    pictures, mattes = ops.compose(images, torch.eye(3, 4)[None], torch.tensor([[0.2, 0.4, 0.6]]))
    assert torch.allclose(pictures[0, :10], torch.ones(3)) and torch.equal(pictures[0, 10:], torch.tensor([0.2, 0.4, 0.6]).expand(10, 20, 3))
    assert mattes[0, :10].eq(1).all() and mattes[0, 10:].eq(0).all()
    with pytest.raises(ValueError, match=r"matrices must be \[1, 3, 4\]"):
        ops.compose(images, torch.eye(3), torch.zeros(1, 3))


WINDOWS = [[[10.0, 12.0, 4.0, 6.0, 2.0], [20.5, -3.0, 9.0, 8.0, 0.7]], [[500.0, 5.0, 3.0, 3.0, 1.0], [31.0, 20.0, 90.0, 0.4, 1.5]]]


@pytest.mark.parametrize("width,height", [(41, 33), (1, 1), (600, 3)])
def test_soft_windows_match_the_reference(width, height):
    windows = torch.tensor(WINDOWS)
    weights = ops.soft_windows(windows, width, height)
    assert native.pick("av_soft_windows", windows) is not None
    assert torch.allclose(weights.double(), reference.soft_windows(windows.double(), width, height), atol=1e-6)
    assert weights.shape == (2, height, width) and weights.min() >= 1


def test_soft_windows_peak_in_their_middle():
    weights = ops.soft_windows(torch.tensor([[[20.5, 10.5, 5.0, 4.0, 3.0]]]), 40, 30)[0]
    assert weights[10, 20] == 4 and weights[10, 29] == 1 and weights[17, 20] == 1
    assert torch.equal(weights[:21], weights[:21].flip(0))
    assert torch.equal(ops.soft_windows(torch.zeros(2, 0, 5), 7, 5), torch.ones(2, 5, 7))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 0.0])
def test_windows_without_a_size_add_nothing(value):
    windows = torch.tensor([[[20.5, 10.5, value, 4.0, 3.0], [5.0, 5.0, 4.0, 4.0, 1.0]]])
    for w in (windows, windows.double()):
        assert torch.allclose(ops.soft_windows(w, 40, 30), ops.soft_windows(w[:, 1:], 40, 30))
