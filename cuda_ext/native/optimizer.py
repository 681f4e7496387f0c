"""The call of a fused Adam step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from cuda_ext import abi, library
from cuda_ext.native.binding import FACTORS
from cuda_ext.native.calls import launch_of, pointer

if TYPE_CHECKING:
    from cuda_ext.adam import Adam, Moving


def adam(lib, optimizer: Adam, moving: dict[str, Moving], rows: Tensor | None) -> None:
    """One step of every tensor in `moving`."""
    tensors = (abi.AvAdamTensor * len(moving))()
    alive = []  # temporaries that the call reads
    for slot, (name, (param, grad, m, v)) in zip(tensors, moving.items(), strict=True):
        if grad is None:
            grad, factor = getattr(param, FACTORS)[0]
            slot.factor, slot.factor_size = factor.data_ptr(), len(factor)
        else:
            grad = (grad if rows is None else grad[rows]).contiguous()
        alive.append(grad)
        slot.param, slot.grad = param.data_ptr(), grad.data_ptr()
        slot.m, slot.v = m.data_ptr(), v.data_ptr()
        slot.rows = param.shape[0] if param.dim() else 1
        slot.columns = param.numel() // slot.rows if slot.rows else 1
        slot.lr = optimizer.lrs[name]
        slot.head_columns, slot.lr_tail = slot.columns, slot.lr
        if name in optimizer.tails:
            slot.head_columns, slot.lr_tail = optimizer.heads[name], optimizer.tails[name]
        if rows is not None:
            slot.row_ids, slot.row_count = rows.data_ptr(), len(rows)
    device = next(iter(moving.values())).param.device
    beta1, beta2 = optimizer.betas
    step = optimizer.device_step
    args = abi.AvAdam(launch_of(device), tensors, len(moving), beta1, beta2, optimizer.eps, optimizer.step_count, pointer(step))
    library.check(lib, lib.av_adam(args), "adam")
