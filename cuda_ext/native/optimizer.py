"""The call of a fused Adam step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cuda_ext import abi, library
from cuda_ext.native.calls import launch_of, pointer
from cuda_ext.native.factors import factors_of

if TYPE_CHECKING:
    from cuda_ext.adam import Adam, Moving


def adam(lib, optimizer: Adam, moving: dict[str, Moving], rows: Tensor | None, whole: bool) -> None:
    """One step of every tensor in `moving`; `whole`: with rows, gradients have all rows nevertheless."""
    tensors = (abi.AvAdamTensor * len(moving))()
    alive = []  # temporaries that the call reads
    for slot, (name, each) in zip(tensors, moving.items(), strict=True):
        if each.grad is None:
            factors = factors_of(each.param)
            assert factors is not None
            grad, factor = factors.found[0]
            slot.factor, slot.factor_size = factor.data_ptr(), len(factor)
        else:
            grad = each.grad if each.grad.is_contiguous() else each.grad.contiguous()
        alive.append(grad)
        slot.grad = grad.data_ptr()
        _describe(slot, optimizer, name, each)
        if rows is not None:
            slot.row_ids, slot.row_count = rows.data_ptr(), len(rows)
            slot.flags |= abi.WHOLE_GRAD * whole
    step = _step(optimizer, next(iter(moving.values())).param.device, tensors, optimizer.step_count)
    library.check(lib, lib.av_adam(step), "adam")


def basis_step(optimizer: Adam, name: str, each: Moving, factor: Tensor) -> abi.AvAdam:
    """The coming step of one tensor, for `carry` to take; its gradient is what carry finds, times `factor`."""
    tensors = (abi.AvAdamTensor * 1)()
    tensors[0].factor, tensors[0].factor_size = factor.data_ptr(), len(factor)
    _describe(tensors[0], optimizer, name, each)
    return _step(optimizer, each.param.device, tensors, optimizer.step_count + 1)


def _describe(slot: abi.AvAdamTensor, optimizer: Adam, name: str, each: Moving) -> None:
    param = each.param
    slot.param, slot.m, slot.v = param.data_ptr(), each.m.data_ptr(), each.v.data_ptr()
    slot.rows = param.shape[0] if param.dim() else 1
    slot.columns = param.numel() // slot.rows if slot.rows else 1
    slot.lr = optimizer.lrs[name]
    slot.head_columns, slot.lr_tail = slot.columns, slot.lr
    if name in optimizer.tails:
        slot.head_columns, slot.lr_tail = optimizer.heads[name], optimizer.tails[name]
    slot.flags = abi.HALF_MOMENTS if each.m.dtype == torch.bfloat16 else 0


def _step(optimizer: Adam, device: torch.device, tensors, count: int) -> abi.AvAdam:
    beta1, beta2 = optimizer.betas
    return abi.AvAdam(launch_of(device), tensors, len(tensors), beta1, beta2, optimizer.eps, count, pointer(optimizer.device_step))
