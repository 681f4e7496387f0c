"""Adam in plain torch."""

from __future__ import annotations

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
