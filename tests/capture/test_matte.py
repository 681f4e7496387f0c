"""Mattes against known coverage: synthetic pictures with hard cases, and the sample."""

from __future__ import annotations

import numpy as np
import pytest
from filming import SIZE, picture, ring

from capture.formats import open_capture
from capture.matte import difference_matte, guided_filter, make_matter, smooth_plate, unmix
from capture.sample import SAMPLE

LARGE = ring(4, (200, 275))


def errors(alpha: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    a, t = alpha > 0.5, truth > 0.5
    return float(np.abs(alpha - truth).mean()), float((a & t).sum() / (a | t).sum())


@pytest.mark.parametrize("gain", [1.0, 0.93, 1.06])
def test_difference_matte_with_noise_and_another_exposure(gain: float) -> None:
    image, mask = picture(LARGE, 1, turn=0.4, response=gain * np.eye(3), noise=2.0)
    plate = picture(LARGE, 1, empty=True, noise=2.0, seed=9)[0]
    mae, iou = errors(difference_matte(image, smooth_plate(plate)), mask)
    assert mae < 0.01 and iou > 0.985


def test_a_hole_that_looks_like_the_wall_is_filled() -> None:
    image, mask = picture(LARGE, 1)
    plate = picture(LARGE, 1, empty=True, seed=9)[0]
    image[130:142, 95:107] = plate[130:142, 95:107]
    assert difference_matte(image, smooth_plate(plate))[136, 101] == 1


def test_a_soft_shadow_on_the_wall_is_not_foreground() -> None:
    image, mask = picture(LARGE, 1)
    plate = picture(LARGE, 1, empty=True, seed=9)[0]
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    shadow = 1 - 0.09 * np.exp(-(((x - 25) / 15) ** 2 + ((y - 130) / 40) ** 2))
    image = np.where(mask[..., None], image, image * shadow[..., None]).astype(np.uint8)
    alpha = difference_matte(image, smooth_plate(plate))
    assert alpha[:, :35].max() < 0.1


def test_strands_get_partial_alpha() -> None:
    rng = np.random.default_rng(1)
    plate = np.full((550, 400, 3), (190, 190, 195), np.uint8)
    coverage = np.zeros((550, 400))
    coverage[240:] = 1
    coverage[234:240] = np.repeat(rng.uniform(0.1, 1, (6, 100)), 4, axis=1)  # hair of known density
    image = coverage[..., None] * (40, 32, 28) + (1 - coverage[..., None]) * plate + rng.normal(size=plate.shape)
    alpha = difference_matte(np.clip(image, 0, 255).astype(np.uint8), smooth_plate(plate))
    band = np.s_[234:240, 20:-20]
    assert np.abs(alpha[band] - coverage[band]).mean() < 0.13  # against .4 for any hard edge
    assert np.corrcoef(alpha[band].ravel(), coverage[band].ravel())[0, 1] > 0.95
    assert np.abs(alpha[:210]).max() == 0 and alpha[250:].min() == 1


def test_unmixed_colours_show_no_wall() -> None:
    plate = np.full((275, 200, 3), (190, 190, 195), np.uint8)
    alpha = np.clip((np.arange(275) - 120) / 20, 0, 1)[:, None].repeat(200, 1)
    hair = np.array([40, 32, 28])
    image = np.rint(alpha[..., None] * hair + (1 - alpha[..., None]) * plate).astype(np.uint8)
    pure = unmix(image, alpha.astype(np.float32), smooth_plate(plate))
    soft = (alpha > 0.02) & (alpha < 0.98)
    assert np.abs(pure[soft].astype(int) - hair).max() <= 20 and np.abs(pure[soft].astype(int) - hair).mean() < 5
    np.testing.assert_array_equal(pure[~soft], image[~soft])
    assert unmix(image, np.ones_like(alpha), smooth_plate(plate)) is image


def test_empty_and_full_pictures() -> None:
    plate = picture(LARGE, 1, empty=True, seed=9)[0]
    assert difference_matte(picture(LARGE, 1, empty=True)[0], smooth_plate(plate)).max() == 0
    full = difference_matte(np.full_like(plate, 30), smooth_plate(plate))
    assert full.min() == 1 and full.dtype == np.float32


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"\(80, 64, 3\).*\(275, 200, 3\)"):
        difference_matte(np.zeros((SIZE[1], SIZE[0], 3), np.uint8), np.zeros((275, 200, 3), np.float32))


def test_guided_filter_follows_the_guide() -> None:
    guide = np.zeros((40, 40, 3), np.uint8)
    guide[:, 20:] = 200
    rough = np.zeros((40, 40), np.float32)
    rough[:, 17:] = 1  # three pixels off
    refined = guided_filter(guide, rough, 6, 1e-4)
    assert refined[20, 25] > 0.9 and refined[20, 21] - refined[20, 18] > 0.4
    np.testing.assert_allclose(guided_filter(guide, np.full((40, 40), 0.3), 4, 1e-3), 0.3, atol=1e-4)


@pytest.mark.parametrize("plate", [True, False], ids=["clean plate", "selfie model"])
def test_sample_mattes_against_its_coverage(plate: bool) -> None:
    if not plate:
        pytest.importorskip("mediapipe")
    capture = open_capture(SAMPLE)
    for camera in ("100000009", "100000006"):
        matter = make_matter(capture.clean_plate(camera) if plate else None)
        image = next(capture.frames("EMO-1", camera, 12, 13))
        truth = list(capture.truth.alpha("EMO-1", camera))[12] / 255
        mae, iou = errors(matter(image), truth)
        assert mae < 0.01 and iou > 0.985, (camera, mae, iou)
