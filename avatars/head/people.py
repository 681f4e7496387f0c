"""Inventing many people from MakeHuman's sliders, and condensing them into a basis of identity.

A person is a phenotype (gender, age, weight, ancestry), a few hundred local sliders, and a smooth random deformation
(a Gaussian process, after Lüthi et al. 2018, "Gaussian Process Morphable Models") that lets the basis reach faces which
the artists' sliders do not span. All are drawn around plausible values; the sliders' ends are caricatures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from avatars.head.makehuman import Macro, MacroTargets, Slider

SLIDER_FOLDERS = ("cheek", "chin", "eyebrows", "eyes", "forehead", "head", "mouth", "neck", "nose", "ears", "asym")

# Standard deviation of a slider's value, by folder; its ends are ±1.
_SPREAD = {
    "cheek": 0.40, "chin": 0.36, "eyebrows": 0.36, "eyes": 0.26, "forehead": 0.36, "head": 0.30, "mouth": 0.33,
    "neck": 0.28, "nose": 0.36, "ears": 0.36, "asym": 0.16,
}  # fmt: skip
# Sliders that move the whole head on the neck, or age it again after the phenotype has: held smaller.
_HELD = {"head-trans": 0.10, "neck-trans": 0.15, "head-age": 0.20, "mouth-trans": 0.25, "nose-trans": 0.25, "eye-trans": 0.20}
_LEFT_RIGHT = 0.96  # correlation between the two sides of a face


def draw_macro(rng: np.random.Generator) -> Macro:
    """A phenotype: mostly adults, some in their teens, weights and muscles around the average."""
    age = 0.5 + 0.45 * rng.beta(1.0, 1.7) if rng.random() > 0.12 else rng.uniform(0.36, 0.5)
    mix = rng.dirichlet((0.6, 0.6, 0.9))
    gender = float(np.clip(rng.beta(0.7, 0.7), 0, 1))
    muscle, weight = np.clip(rng.normal((0.5, 0.5), (0.15, 0.22)), 0.02, 0.98)
    return Macro(gender, age, float(muscle), float(weight), (float(mix[0]), float(mix[1]), float(mix[2])))


def draw_sliders(sliders: Sequence[Slider], rng: np.random.Generator) -> np.ndarray:
    """A value per slider; left and right of a pair are nearly equal."""
    shared: dict[str, float] = {}
    values = np.zeros(len(sliders))
    for k, slider in enumerate(sliders):
        name, side = slider.name, slider.name[:2]
        spread = next((s for key, s in _HELD.items() if key in name), _SPREAD[slider.folder])
        z = rng.normal()
        if side in ("l-", "r-"):
            common = shared.setdefault(name[2:], rng.normal())
            z = np.sqrt(_LEFT_RIGHT) * common + np.sqrt(1 - _LEFT_RIGHT) * z
        values[k] = np.clip(spread * z, -1, 1)
    return values


@dataclass(frozen=True)
class SmoothFields:
    """Random smooth displacement fields over fixed points: random Fourier features of Gaussian kernels (Rahimi, Recht 2007).

    The features are drawn once, so that a field costs one matrix product.
    """

    features: np.ndarray  # [K, N] at the points, scaled by the standard deviation (metres)

    @staticmethod
    def over(points: np.ndarray, rng: np.random.Generator, count: int = 128) -> SmoothFields:
        """A broad and a fine kernel over points [K, 3] in metres; both mostly alike on the two sides of the face."""
        columns = []
        for length, even, odd in ((0.055, 0.0014, 0.0005), (0.022, 0.0007, 0.00025)):
            for deviation in (even, odd):
                w, phase = rng.normal(size=(3, count)) / length, rng.uniform(0, 2 * np.pi, count)
                columns.append(np.cos(points @ w + phase) * deviation * np.sqrt(2 / count))
                if deviation == even:
                    columns.append(np.cos(points * [-1, 1, 1] @ w + phase) * deviation * np.sqrt(2 / count))
        return SmoothFields(np.concatenate(columns, 1))

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Displacements [K, 3] of one field."""
        n = self.features.shape[1] // 6
        total = np.zeros((len(self.features), 3))
        for k in (0, 3):
            a, b = rng.normal(size=(2, n, 3))
            even, mirror, odd = (self.features[:, (k + i) * n : (k + i + 1) * n] for i in range(3))
            total += (even @ a + mirror @ (a * [-1, 1, 1])) / np.sqrt(2) + odd @ b
        return total


def draw_person(macros: MacroTargets, sliders: Sequence[Slider], rng: np.random.Generator) -> np.ndarray:
    """Offsets [K, 3] of one invented person from the base mesh, in MakeHuman's units."""
    total = macros.at(draw_macro(rng))
    for slider, value in zip(sliders, draw_sliders(sliders, rng), strict=True):
        total += slider.at(value)
    return total


def align(people: np.ndarray, anchor: np.ndarray, rounds: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Similarities (scale [N], rotation about x as [N, 3, 3], translation [N, 3]) that bring people [N, K, 3] together.

    Only the vertices `anchor` count. Faces are upright and centred already, so rotation is a nod; all keep the mean size.
    """
    points = people[:, anchor]
    centers = points.mean(1, keepdims=True)
    size = np.sqrt(((points - centers) ** 2).sum((1, 2)))
    scale = size.mean() / size
    shape = (points - centers) * scale[:, None, None]
    R = np.broadcast_to(np.eye(3), (len(people), 3, 3)).copy()
    for _ in range(rounds):
        mean = np.einsum("nij,nkj->nki", R, shape).mean(0)
        y, z = shape[..., 1], shape[..., 2]
        angle = np.arctan2((y * mean[:, 2] - z * mean[:, 1]).sum(1), (y * mean[:, 1] + z * mean[:, 2]).sum(1))
        R[:, 1, 1] = R[:, 2, 2] = np.cos(angle)
        R[:, 2, 1], R[:, 1, 2] = np.sin(angle), -np.sin(angle)
    translation = centers.mean(0) - scale[:, None] * np.einsum("nij,nj->ni", R, centers[:, 0])
    return scale, R, translation


def principal_modes(shapes: np.ndarray, weights: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean [D, 3], modes [count, D, 3] per standard deviation, and share of the weighted variance that each explains.

    The subspace is the best one under the vertex weights [D]; inside it the modes are turned so that they are orthogonal
    in plain space and ordered by the variance there, with uncorrelated unit-variance coefficients.
    """
    N, D, _ = shapes.shape
    mean = shapes.mean(0)
    centered = (shapes - mean).reshape(N, -1)
    w = np.repeat(np.sqrt(weights), 3).astype(centered.dtype)
    gram = ((centered * w) @ (centered * w).T).astype(np.float64) / N
    values, vectors = np.linalg.eigh(gram)
    order = np.argsort(values)[::-1][:count]
    share = values[order] / values.sum()
    # Coefficients of unit variance are √N·vector; the mode is what regresses on them.
    modes = (vectors[:, order].T.astype(centered.dtype) @ centered) / np.sqrt(N)
    _, sizes, turned = np.linalg.svd(modes.astype(np.float64), full_matrices=False)
    result = (sizes[:, None] * turned).reshape(count, D, 3)
    largest = np.abs(result).reshape(count, -1).argmax(1)
    sign = np.sign(result.reshape(count, -1)[np.arange(count), largest])
    return mean.astype(np.float64), result * sign[:, None, None], share
