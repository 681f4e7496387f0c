"""Adam in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor


def adam(
    param: Tensor,
    grad: Tensor,
    m: Tensor,
    v: Tensor,
    lr: Tensor | float,
    step: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
) -> None:
    """One Adam step in place (Kingma & Ba 2015, algorithm 1), `lr` broadcast against `param`."""
    m.lerp_(grad, 1 - beta1)
    v.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    denominator = (v / (1 - beta2**step)).sqrt_().add_(eps)
    param -= lr / (1 - beta1**step) * m / denominator


def upper_halves(v: Tensor, elements: Tensor, step: int) -> Tensor:
    """float32 → bfloat16 as second moments are kept: AV_HALF_MOMENTS in include/abi_training.h. `elements`: their places.

    Rounding turns with the step, so that a number which shrinks by less than half a unit a step shrinks on average as it should.
    """
    turn = (elements % 16 * 0x1000 + step * 0x79B9) & 0xFFFF
    bits = v.contiguous().view(torch.int32).long() + turn.reshape(v.shape)
    return ((bits >> 16) & 0xFFFF).to(torch.int32).bitwise_left_shift(16).view(torch.float32).to(torch.bfloat16)
