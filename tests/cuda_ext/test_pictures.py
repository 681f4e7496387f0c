"""compose: native against the float64 reference, laws, edge cases."""

from __future__ import annotations

import pytest
import torch

from cuda_ext import native, ops, reference

WINDOWS = [[[10.0, 12.0, 4.0, 6.0, 2.0], [20.5, -3.0, 9.0, 8.0, 0.7]], [[500.0, 4.6, 3.0, 3.0, 1.0], [31.0, 20.0, 90.0, 0.4, 1.5]]]
PIXELS = torch.eye(3)  # windows in pixels


def weights_of(windows: torch.Tensor, width: int, height: int) -> torch.Tensor:
    images = torch.zeros(len(windows), height, width, 4, dtype=torch.uint8)
    Ks = PIXELS.to(windows).expand(len(windows), 3, 3)
    weights = ops.compose(
        images, torch.zeros(len(windows), 3, 4).to(windows), torch.zeros(len(windows), 3).to(windows), windows=windows, Ks=Ks
    )[2]
    assert weights is not None
    return weights


@pytest.mark.parametrize("halve", [False, True])
@pytest.mark.parametrize("shape", [(2, 37, 53), (1, 2, 2), (1, 3, 5), (0, 4, 4), (1, 90, 64), (1, 33, 103), (2, 4, 1200)])
def test_compose_matches_the_reference(shape, halve):
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (*shape, 4), generator=g, dtype=torch.uint8)
    matrices = torch.eye(3, 4) + 0.3 * torch.randn(shape[0], 3, 4, generator=g)
    backgrounds = torch.rand(shape[0], 3, generator=g)
    windows = torch.tensor(WINDOWS)[: shape[0]] / torch.tensor([40.0, 50.0, 40.0, 50.0, 1.0]) - torch.tensor([0.1, -0.1, 0, 0, 0])
    Ks = torch.tensor([[40.0, 3.0, 4.0], [0, 50.0, -5.0], [0, 0, 1]]).expand(shape[0], 3, 3)
    made = ops.compose(images, matrices, backgrounds, windows=windows, Ks=Ks, halve=halve)
    right = reference.compose(images, matrices.double(), backgrounds.double(), windows.double(), Ks.double(), halve)
    assert native.pick("av_compose", matrices) is not None
    side = 2 if halve else 1
    size = (shape[0], shape[1] // side, shape[2] // side)
    assert made[0].shape == (*size, 3) and made[1].shape == size
    for a, b, limit in zip(made, right, (2e-6, 1e-6, 3e-5), strict=True):  # the middle of a window at pixel 500 is good to 3e-5
        assert a is not None and b is not None and a.shape == b.shape and torch.allclose(a.double(), b, atol=limit)
    assert ops.compose(images, matrices, backgrounds, halve=halve)[2] is None


def test_an_opaque_picture_hides_the_background_and_an_empty_one_shows_it():
    images = torch.zeros(1, 20, 20, 4, dtype=torch.uint8)
    images[:, :10] = 255
    pictures, mattes, _ = ops.compose(images, torch.eye(3, 4)[None], torch.tensor([[0.2, 0.4, 0.6]]))
    assert torch.allclose(pictures[0, :10], torch.ones(3)) and torch.equal(
        pictures[0, 10:], torch.tensor([0.2, 0.4, 0.6]).expand(10, 20, 3)
    )
    assert mattes[0, :10].eq(1).all() and mattes[0, 10:].eq(0).all()
    with pytest.raises(ValueError, match=r"matrices must be \[1, 3, 4\]"):
        ops.compose(images, torch.eye(3), torch.zeros(1, 3))
    with pytest.raises(ValueError, match="give the Ks"):
        ops.compose(images, torch.eye(3, 4)[None], torch.zeros(1, 3), windows=torch.zeros(1, 2, 5))
    with pytest.raises(ValueError, match="images must be torch.uint8"):
        ops.compose(images.float(), torch.eye(3, 4)[None], torch.zeros(1, 3))
    with pytest.raises(ValueError, match="width 0"):
        ops.compose(images[:, :, :1], torch.eye(3, 4)[None], torch.zeros(1, 3), halve=True)


@pytest.mark.parametrize("width,height", [(41, 33), (1, 1), (600, 3)])
def test_weights_match_the_reference(width, height):
    windows = torch.tensor(WINDOWS)
    weights = weights_of(windows, width, height)
    assert torch.allclose(weights.double(), weights_of(windows.double(), width, height), atol=1e-6)
    assert weights.shape == (2, height, width) and weights.min() >= 1


def test_windows_peak_in_their_middle():
    weights = weights_of(torch.tensor([[[20.5, 10.5, 5.0, 4.0, 3.0]]]), 40, 30)[0]
    assert weights[10, 20] == 4 and weights[10, 29] == 1 and weights[17, 20] == 1
    assert torch.equal(weights[:21], weights[:21].flip(0))
    assert torch.equal(weights_of(torch.zeros(2, 0, 5), 7, 5), torch.ones(2, 5, 7))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 0.0])
def test_windows_without_a_size_add_nothing(value):
    windows = torch.tensor([[[20.5, 10.5, value, 4.0, 3.0], [5.0, 5.0, 4.0, 4.0, 1.0]]])
    for w in (windows, windows.double()):
        assert torch.allclose(weights_of(w, 40, 30), weights_of(w[:, 1:], 40, 30))
