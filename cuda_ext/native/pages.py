"""Large CPU tensors whose memory is kept when they die, in large pages where the system has them.

The C library maps every allocation beyond 32 MB anew and returns it when it is freed, so that the gradient to a hash grid of 52 MB costs
13,000 page faults in every step, longer than computing it. Here the last few such blocks wait for the next tensor of about their size.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import weakref
from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

LARGE = 16 << 20  # bytes; below, the C library keeps freed memory itself
_PAGE = 2 << 20
_free: deque[mmap.mmap] = deque(maxlen=3)  # appended to by the garbage collector, at any moment: no lock, and none needed


def empty(shape: Sequence[int], like: Tensor) -> Tensor:
    """`like.new_empty(shape)`; where that is large and on the CPU, its memory comes from the last such tensors that died."""
    count = math.prod(shape)
    size = count * like.element_size()
    if like.device.type != "cpu" or size < LARGE:
        return like.new_empty(shape)
    block = _take(size + _PAGE)
    whole = (ctypes.c_char * _PAGE).from_buffer(block)
    lent = (ctypes.c_char * size).from_buffer(block, -ctypes.addressof(whole) % _PAGE)
    weakref.finalize(lent, _free.append, block).atexit = False
    return torch.frombuffer(lent, dtype=like.dtype, count=count).view(*shape)


def _take(size: int) -> mmap.mmap:
    for _ in range(len(_free)):
        try:
            block = _free.popleft()
        except IndexError:  # another thread was quicker
            break
        if size <= len(block) <= 2 * size:
            return block
        _free.append(block)
    size += size // 4  # the next tensor may be a little larger; pages that nobody touches are not there
    if not hasattr(mmap, "MAP_PRIVATE"):  # Windows; a forked child must not share it
        return mmap.mmap(-1, size)
    block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            block.madvise(mmap.MADV_HUGEPAGE)
        except OSError:  # a kernel without them
            pass
    return block
