"""Colour: corrections are what they say, and known responses of the cameras are found again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from filming import picture, ring

from capture.color import ColorCorrection, estimate_corrections, fit_matrices, surface_colors
from capture.formats import open_capture, select
from capture.hull import carve, look_at_point, visible
from capture.sample import SAMPLE


def disagreement(matrices: np.ndarray, responses: np.ndarray, colors: np.ndarray) -> float:
    """Mean difference between cameras after correction, of 255, up to one map that all share."""
    seen = np.stack([colors @ (m @ r).T for m, r in zip(matrices, responses, strict=True)])
    shared = np.linalg.lstsq(colors, seen.mean(0), rcond=None)[0]
    return float(255 * np.abs(seen - colors @ shared).mean())


def test_affine_correction_and_its_inverse() -> None:
    image = np.random.default_rng(0).integers(20, 200, (5, 7, 3), dtype=np.uint8)
    correction = ColorCorrection(np.array([[1.1, 0.02, 0, 0.01], [0, 0.9, 0.05, 0], [0, 0, 1.05, -0.02]]))
    expected = np.rint(image @ correction.matrix[:, :3].T + 255 * correction.matrix[:, 3])
    np.testing.assert_allclose(correction.apply(image), expected, atol=1)
    np.testing.assert_allclose(correction.inverse().apply(correction.apply(image)).astype(int), image.astype(int), atol=1)
    assert ColorCorrection.identity().apply(image) is image


def test_linear_light() -> None:
    image = np.array([[[10, 100, 200], [0, 255, 60]]], np.uint8)
    same = ColorCorrection(np.eye(3, 4), linear_light=True)
    assert same.is_identity
    half = ColorCorrection(0.5 * np.eye(3, 4), linear_light=True).apply(image)
    assert half[0, 1].tolist() == [0, 188, 41]  # half of the light of white is sRGB 188
    with pytest.raises(ValueError, match=r"\(3, 3\)"):
        ColorCorrection(np.eye(3))


def test_responses_are_found_again(studio: Callable[..., Path]) -> None:
    cameras = ring(6, (120, 150))
    rng = np.random.default_rng(3)
    responses = {n: np.diag(1 + rng.uniform(-0.05, 0.05, 3)) for n in cameras.names}
    capture = open_capture(studio(cameras=cameras, frames=1, responses=responses))
    corrections = estimate_corrections(capture)
    colors = picture(cameras, 2)[0].reshape(-1, 3)[::7] / 255.0
    actual = np.stack([responses[n] for n in cameras.names])
    matrices = np.stack([corrections[n].matrix[:, :3] for n in cameras.names])
    before = disagreement(np.tile(np.eye(3), (6, 1, 1)), actual, colors)
    after = disagreement(matrices, actual, colors)
    assert before > 1.5 and after < 0.5 * before
    np.testing.assert_allclose(matrices.mean(0), np.eye(3), atol=1e-9)  # the gauge


def test_sample_against_its_known_responses() -> None:
    capture = open_capture(SAMPLE)
    corrections = estimate_corrections(capture)
    affines = capture.truth.color_affines()
    image = next(capture.frames("EXP-1", "100000009", 0, 1))
    colors = image[60:330:9, 60:200:9].reshape(-1, 3) / 255.0

    def error(correct: bool) -> float:
        seen = np.stack([colors @ affines[n][:, :3].T + affines[n][:, 3] for n in capture.camera_names])
        if correct:
            seen = np.stack([s @ corrections[n].matrix[:, :3].T for s, n in zip(seen, capture.camera_names, strict=True)])
        extended = np.concatenate([colors, np.ones((len(colors), 1))], 1)
        return float(255 * np.abs(seen - extended @ np.linalg.lstsq(extended, seen.mean(0), rcond=None)[0]).mean())

    assert error(False) > 1.1 and error(True) < 0.75


def test_what_cannot_be_compared_is_left_alone(studio: Callable[..., Path]) -> None:
    capture = open_capture(studio(frames=1))
    two = select(capture, capture.camera_names[:2])
    assert all(c.is_identity for c in estimate_corrections(two).values())
    np.testing.assert_array_equal(fit_matrices(np.zeros((3, 5, 3)), np.zeros((3, 5))), np.tile(np.eye(3), (3, 1, 1)))
    nothing = np.zeros((4, capture.cameras.height, capture.cameras.width))
    colors, weights = surface_colors(np.zeros((*nothing.shape, 3), np.uint8), nothing, capture.cameras)
    assert colors.shape == (4, 0, 3) and weights.shape == (4, 0)


def test_hull_of_an_ellipsoid() -> None:
    cameras = ring(8, (120, 150))
    masks = np.stack([picture(cameras, k, noise=0)[1] for k in range(8)])
    np.testing.assert_allclose(look_at_point(cameras), 0, atol=1e-5)
    hull = carve(masks, cameras, 48)
    scaled = np.linalg.norm(hull.points / [0.08, 0.12, 0.09], axis=1)
    assert 0.85 < np.median(scaled) < 1.25  # a hull contains the thing; from one side only, it is longer behind
    front = hull.points[:, 2] > 0.05
    assert np.einsum("pk,pk->p", hull.normals[front], hull.points[front] / [0.08**2, 0.12**2, 0.09**2]).min() > 0
    pixels, seen, cosine = visible(hull, cameras, 3)
    assert (hull.points[seen][:, 2] > -0.05).all() and (cosine[seen] > 0).all() and seen.sum() > 100
    with pytest.raises(ValueError, match=r"\[8, 150, 120\]"):
        carve(masks[:, :-1], cameras)
