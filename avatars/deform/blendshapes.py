"""Blendshapes of Gaussians: corrections to mean, rotation and colour, linear in a few weights that the codes determine.

Li et al. 2025, RGBAvatar: G(code) = G0 + Σ_k ψ_k(code) ΔG_k with K = 20. Here ψ(code) = f(code) − f(0), so that the neutral face
is the canonical one, and f is linear or has one hidden layer. The corrections start at zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from avatars.deform import DeformSettings, Rate
from avatars.gaussians import CanonicalGaussians
from cuda_ext import ops

FACTORED = ("each_basis",)

_COLUMNS = 10  # mean 3, quaternion 4, constant SH term 3


def create(settings: DeformSettings, gaussians: CanonicalGaussians, code_size: int, generator: torch.Generator) -> dict[str, Tensor]:
    """`each_basis` [N, 10, K] zero; the map from codes to K weights small and random."""
    kind = {"dtype": gaussians.means.dtype, "device": gaussians.means.device}

    def random(rows: int, columns: int) -> Tensor:
        return (torch.randn(rows, columns, generator=generator) / columns**0.5).to(**kind)

    each = torch.zeros(len(gaussians), _COLUMNS, settings.bases, **kind)
    if settings.hidden == 0:
        return {"each_basis": each, "output": random(settings.bases, code_size)}
    return {
        "each_basis": each,
        "hidden": random(settings.hidden, code_size),
        "hidden_bias": torch.zeros(settings.hidden, **kind),
        "output": random(settings.bases, settings.hidden),
    }


def learning_rates(settings: DeformSettings, rates: Mapping[str, float]) -> dict[str, Rate]:
    """Of the map, constant; of `each_basis`, in proportion to what it corrects."""
    map_rate = Rate(settings.weight_rate)
    # Quaternions and colours share a rate: colour's is the larger of the two by little, and both are relative anyway.
    basis = Rate(settings.basis_rate * rates["means"], 3 * settings.bases, settings.color_rate * rates["sh"])
    maps = ("output",) if settings.hidden == 0 else ("hidden", "hidden_bias", "output")
    return {"each_basis": basis} | dict.fromkeys(maps, map_rate)


def weights(parameters: dict[str, Tensor], code: Tensor) -> Tensor:
    """[K] blending weights of a code [D]."""
    if "hidden" not in parameters:
        return parameters["output"] @ code
    bias = parameters["hidden_bias"]
    return parameters["output"] @ (torch.addmv(bias, parameters["hidden"], code).tanh() - bias.tanh())


def blend(parameters: dict[str, Tensor], code: Tensor) -> tuple[Tensor, Tensor]:
    """The basis [N, 10, K], and its weights [K] within the bounds that `settle` has set."""
    amounts = weights(parameters, code)
    if "lowest" in parameters:
        amounts = torch.minimum(torch.maximum(amounts, parameters["lowest"]), parameters["highest"])
    return parameters["each_basis"], amounts


def apply(parameters: dict[str, Tensor], gaussians: CanonicalGaussians, code: Tensor) -> CanonicalGaussians:
    """Add the blended corrections."""
    means, quats, sh = ops.blend(*blend(parameters, code), gaussians.means, gaussians.quats, gaussians.sh)
    return replace(gaussians, means=means, quats=quats, sh=sh)


def settle(parameters: dict[str, Tensor], codes: Tensor) -> dict[str, Tensor]:
    """Bounds for the blending weights: their range over the trained codes, and zero.

    An expression beyond the recorded ones then moves the mesh alone; unbounded, it tore the skin (eyeLookUp at 1, trained to 0.3).
    """
    with torch.no_grad():
        seen = torch.stack([weights(parameters, code) for code in codes])
    return parameters | {"lowest": seen.amin(0).clamp_max(0), "highest": seen.amax(0).clamp_min(0)}
