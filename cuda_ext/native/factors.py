"""Gradients that are outer products, v_delta ⊗ weights, of leaves that an optimiser takes them from as they are.

A leaf that is nothing but the basis of `blend` and `carry` may have a `Factors` attached (`attach`, by `Adam`). Its gradients are then
kept as their two factors and `.grad` stays None. While `Adam.descend` runs the backward pass, the leaf may even take its step there,
where its rows are read anyway; only when no other node of any graph may still want to read it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from cuda_ext import abi

_NAME = "rank_one_gradients"  # the attribute of a leaf


class Use:
    """One operator that has read a leaf and whose backward pass may follow."""

    def __init__(self, factors: Factors) -> None:
        self.factors = factors
        self.pending = True


@dataclass(eq=False)
class Factors:
    """What has been found about one leaf since the last step."""

    leaf: Callable[[], Tensor | None]  # weak: the leaf holds this
    found: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # (v_delta [N, 10], weights [K])
    uses: weakref.WeakSet[Use] = field(default_factory=weakref.WeakSet)
    move: Callable[[Tensor], abi.AvAdam | None] | None = None  # while a backward pass may move the leaf: the step, given its factor
    moved: bool = False

    def clear(self) -> None:
        """Forget the gradients."""
        self.found.clear()
        self.moved = False

    def settle(self, whole: bool) -> None:
        """Write the gradients out into `.grad` unless one native step can take them as they are. `whole`: in any case."""
        leaf = self.leaf()
        assert leaf is not None
        apart = len(self.found) > 1 or leaf.grad is not None or not fits(leaf)
        if self.found and (whole or apart):
            for v_delta, weights in self.found:
                v_leaf = v_delta[..., None] * weights
                leaf.grad = v_leaf if leaf.grad is None else leaf.grad + v_leaf
            self.found.clear()


def fits(leaf: Tensor) -> bool:
    """Whether the native step takes factors of this leaf: [N, C, K] with few enough columns."""
    return leaf.shape[-1] <= 64 and leaf.shape[1:].numel() <= abi.ADAM_COLUMNS


def attach(leaf: Tensor) -> Factors:
    """Collect the gradients of this leaf from now on."""
    factors = Factors(weakref.ref(leaf))
    setattr(leaf, _NAME, factors)
    return factors


def factors_of(leaf: Tensor) -> Factors | None:
    """What is attached to this leaf."""
    return getattr(leaf, _NAME, None)


def use_of(leaf: Tensor) -> Use | None:
    """Notes that an operator reads the leaf; for its backward pass."""
    factors = factors_of(leaf)
    if factors is None:
        return None
    use = Use(factors)
    factors.uses.add(use)
    return use


def step_in_backward(use: Use | None, weights: Tensor) -> abi.AvAdam | None:
    """The step that the leaf may take within this backward pass: nothing else still reads it, and it has no other gradient."""
    factors = None if use is None else use.factors
    if use is None or factors is None or factors.move is None or not use.pending:
        return None
    leaf = factors.leaf()
    if factors.found or leaf is None or leaf.grad is not None or any(other.pending for other in factors.uses if other is not use):
        return None
    step = factors.move(weights)
    if step is not None:
        use.pending, factors.move, factors.moved = False, None, True
    return step


def outer_gradient(use: Use | None, v_delta: Tensor, weights: Tensor) -> Tensor | None:
    """The gradient to the basis for autograd: the product, or None where its factors are collected."""
    if use is None:
        return v_delta[..., None] * weights
    use.pending = False
    if use.factors.moved:
        raise RuntimeError(
            "a second backward pass through a tensor that has already taken its step of Adam within the first: "
            "call backward() and step() in place of descend()"
        )
    use.factors.found.append((v_delta, weights))
    return None
