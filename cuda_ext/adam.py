"""A fused Adam: all tensors of a step in one native call, with two rates per tensor, rows, and factored gradients."""

from __future__ import annotations

import functools
import itertools
import weakref
from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from cuda_ext import native, reference


class Moving(NamedTuple):
    """One tensor of a step; without a gradient its factors are waiting with `param`."""

    param: Tensor
    grad: Tensor | None
    m: Tensor
    v: Tensor


class Loss(Protocol):
    """What `Adam.descend` goes down: a scalar tensor, or what else knows its backward pass."""

    def backward(self) -> object: ...


_numbers = itertools.count()
_optimizers: weakref.WeakValueDictionary[int, Adam] = weakref.WeakValueDictionary()


class Adam:
    """Fused Adam over several tensors (Kingma & Ba 2015), one native call a step.

    `lrs` are attributes to change freely between steps; `tails` (name → learning rate) gives the columns of a tensor after its
    first `heads[name]` (counted in the flattened trailing dimensions) another rate, e.g. SH above degree 0. `state` tensors are
    plain and can be indexed, concatenated and saved: see `rows`. With `capturable` (CUDA) the steps are counted on the device, so that
    a captured graph corrects the moments of each replay by the right step; learning rates are then those of the capture.
    Tensors named in `factored` must only be used as the basis of `blend` and `carry`: their gradient is an outer product, which is then
    never written out (their `.grad` stays None), and on the CPU `descend` moves them where it arises. The moments of tensors named in
    `halves` are kept in bfloat16, half of the memory and of the traffic: the first rounded to the nearest, the second by a rule that
    loses nothing on average (`reference.upper_halves`). Under torch.compile a step is one operator of the graph, which reads the rates and
    counts the steps when it runs; compile the backward pass with it, or none of the two, when there are `factored` tensors.
    """

    def __init__(
        self,
        params: dict[str, Tensor],
        lrs: dict[str, float],
        *,
        heads: dict[str, int] | None = None,
        tails: dict[str, float] | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-15,
        capturable: bool = False,
        factored: Collection[str] = (),
        halves: Collection[str] = (),
    ) -> None:
        if unknown := (set(params) ^ set(lrs)) | (set(tails or {}) ^ set(heads or {})):
            raise ValueError(f"Adam: params and lrs, heads and tails must name the same tensors; odd: {sorted(unknown)}")
        for name, param in params.items():
            if not param.is_contiguous():
                raise ValueError(f"Adam: {name} {tuple(param.shape)} must be contiguous")
        self.params = dict(params)
        self.lrs, self.heads, self.tails = dict(lrs), dict(heads or {}), dict(tails or {})
        self.betas, self.eps, self.step_count = betas, eps, 0
        self.number = next(_numbers)
        _optimizers[self.number] = self
        self.device_step: Tensor | None = None
        if capturable:
            device = next(iter(params.values())).device
            if device.type != "cuda":
                raise ValueError(f"Adam: capturable needs CUDA tensors, got {device}")
            self.device_step = torch.zeros((), device=device)
        self.factored = frozenset(factored)
        for name in self.factored:
            native.attach(self.params[name])
        kinds = {k: torch.bfloat16 if k in frozenset(halves) and p.dtype == torch.float32 else p.dtype for k, p in params.items()}
        self.m = {k: torch.zeros_like(p, dtype=kinds[k], requires_grad=False) for k, p in params.items()}
        self.v = {k: torch.zeros_like(p, dtype=kinds[k], requires_grad=False) for k, p in params.items()}

    def step(self, rows: Tensor | None = None, grads: dict[str, Tensor] | None = None) -> None:
        """Move every parameter that has a gradient. `rows` [R] int64, distinct: only these rows of each tensor; `grads` then may bring
        gradients [R, ...] of those rows alone, in place of `.grad`.
        """
        if grads is not None:
            if rows is None or torch.compiler.is_compiling():
                raise ValueError("Adam: gradients of rows alone need the rows, and a step that is not compiled")
            self._move({k: Moving(self.params[k], grad, self.m[k], self.v[k]) for k, grad in grads.items()}, rows, whole=False)
            return
        if torch.compiler.is_compiling():
            names = [k for k, p in self.params.items() if p.grad is not None]
            if names:  # detached in place of no_grad, which a graph that raises would leave switched on
                params, found = [self.params[k].detach() for k in names], [self.params[k].grad for k in names]
                torch.ops.avatars.adam(self.number, names, params, found, [self.m[k] for k in names], [self.v[k] for k in names], rows)
            return
        found = set()
        for name, factors in self._factors().items():
            with torch.no_grad():
                factors.settle(whole=rows is not None)
            if factors.found:
                found.add(name)
        moving = {k: Moving(p, p.grad, self.m[k], self.v[k]) for k, p in self.params.items() if p.grad is not None or k in found}
        self._move(moving, rows)

    def descend(self, loss: Loss) -> None:
        """`loss.backward()` (of a scalar tensor, say), `step()`, `zero_grad()`.

        On the CPU a factored tensor with one use in `carry` takes its step within the backward pass, where its rows are read anyway; with
        several uses, or gradients collected before, it moves afterwards like the others. The result is the same.
        """
        if not torch.compiler.is_compiling():
            for name, factors in self._factors().items():
                if native.fits(self.params[name]):
                    factors.move = functools.partial(self._step_of_basis, name)
        try:
            loss.backward()
        finally:
            for factors in self._factors().values():
                factors.move = None
        self.step()
        self.zero_grad()

    def _step_of_basis(self, name: str, weights: Tensor):
        return native.basis_step(self, name, Moving(self.params[name], None, self.m[name], self.v[name]), weights)

    def _factors(self):
        found = ((name, native.factors_of(self.params[name])) for name in self.factored)
        return {name: factors for name, factors in found if factors is not None}

    @torch.no_grad()
    def _move(self, moving: dict[str, Moving], rows: Tensor | None, whole: bool = True) -> None:
        self.step_count += 1
        if self.device_step is not None:
            self.device_step += 1
        library = native.pick("av_adam", *(each.param for each in moving.values())) if moving else None
        if library is not None:
            native.adam(library, self, moving, rows, whole)
            return
        index = ... if rows is None else rows
        for name, (param, grad, m, v) in moving.items():
            assert grad is not None
            p = param[index]
            some_m, some_v = m[index].to(p.dtype), v[index].to(p.dtype)
            reference.adam(p, grad[index] if whole else grad, some_m, some_v, self._rates(name, p), self.step_count, *self.betas, self.eps)
            if m.dtype != p.dtype:
                elements = torch.arange(p.numel() if rows is None else p[0].numel(), device=p.device)  # rows are counted from their starts
                elements = elements.reshape(p.shape if rows is None else p.shape[1:]).expand(p.shape)
                some_v = reference.upper_halves(some_v, elements, self.step_count)
            param[index], m[index], v[index] = p, some_m.to(m.dtype), some_v

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for param in self.params.values():
            param.grad = None
        for factors in self._factors().values():
            factors.clear()

    def replace(self, name: str, param: Tensor, m: Tensor, v: Tensor) -> None:
        """Put a resized tensor and its moments in place of `name` (densification, pruning)."""
        if not param.shape == m.shape == v.shape:
            raise ValueError(f"Adam: {name} {tuple(param.shape)} with moments {tuple(m.shape)}, {tuple(v.shape)}")
        self.params[name], self.m[name], self.v[name] = param, m.contiguous(), v.contiguous()
        if name in self.factored:
            native.attach(param)

    def state_dict(self) -> dict[str, Tensor]:
        """The moments and the step count as plain tensors."""
        state = {f"m.{k}": t for k, t in self.m.items()} | {f"v.{k}": t for k, t in self.v.items()}
        steps = self.step_count if self.device_step is None else int(self.device_step)  # replays do not pass through here
        return state | {"step": torch.tensor(steps)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take the moments and the step count of `state_dict`."""
        for name, param in self.params.items():
            m, v = state[f"m.{name}"], state[f"v.{name}"]
            self.replace(name, param, m.to(self.m[name]).clone(), v.to(self.v[name]).clone())
        self.step_count = int(state["step"])
        if self.device_step is not None:
            self.device_step.fill_(self.step_count)

    def _rates(self, name: str, param: Tensor) -> Tensor | float:
        if name not in self.tails:
            return self.lrs[name]
        columns = param[0].numel() if len(param) else 0
        rates = torch.full((columns,), self.tails[name], dtype=param.dtype, device=param.device)
        rates[: self.heads[name]] = self.lrs[name]
        return rates.reshape(param.shape[1:])


def step_of(
    number: int,
    names: Sequence[str],
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    m: Sequence[Tensor],
    v: Sequence[Tensor],
    rows: Tensor | None,
) -> None:
    """The step that a compiled graph asks for; the tensors may be stand-ins for the optimiser's own."""
    optimizer = _optimizers[number]
    for name, factors in optimizer._factors().items():
        if factors.found:
            raise RuntimeError(
                f"Adam: a compiled step found the factored gradient of {name!r}: compile the backward pass too, or factor nothing"
            )
    moving = {name: Moving(*tensors) for name, *tensors in zip(names, params, grads, m, v, strict=True)}
    optimizer._move(moving, rows)
