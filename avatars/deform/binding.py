"""No correction: Gaussians follow their triangles rigidly (Qian et al. 2024, GaussianAvatars)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from avatars.deform import DeformSettings, Rate
from avatars.gaussians import CanonicalGaussians


def create(settings: DeformSettings, gaussians: CanonicalGaussians, code_size: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Nothing to train."""
    return {}


def learning_rates(settings: DeformSettings, rates: Mapping[str, float]) -> dict[str, Rate]:
    """Nothing to train."""
    return {}


def apply(parameters: dict[str, Tensor], gaussians: CanonicalGaussians, code: Tensor) -> CanonicalGaussians:
    """The Gaussians as they are."""
    return gaussians


def settle(parameters: dict[str, Tensor], codes: Tensor) -> dict[str, Tensor]:
    """Nothing to keep."""
    return parameters
