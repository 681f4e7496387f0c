"""What every call needs: the library, where to run, and memory that is lent and comes back."""

from __future__ import annotations

import contextlib
import ctypes
import math
import mmap
import threading
from collections import defaultdict, deque
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from cuda_ext import abi, library
from cuda_ext.threads import kernel_threads

_MOST_FREE = 8  # tensors kept per device


def pick(function: str, *tensors: Tensor):
    """The library for these tensors, or None when the reference must run (other dtypes, devices, policy)."""
    for tensor in tensors:
        if tensor.dtype != torch.float32:
            return None
    return library.native(tensors[0].device.type, function)


def flags(antialiased: bool, log_scales: bool, logit_opacities: bool) -> int:
    """The AvFlags of a scene."""
    return abi.ANTIALIASED * antialiased | abi.LOG_SCALES * log_scales | abi.LOGIT_OPACITIES * logit_opacities


def pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def launch_of(device: torch.device) -> abi.AvLaunch:
    if device.type == "cuda":
        index = device.index if device.index is not None else torch.cuda.current_device()
        return abi.AvLaunch(torch.cuda.current_stream(index).cuda_stream, index, 1)
    return abi.AvLaunch(None, 0, kernel_threads())


def contiguous(tensors) -> tuple[Tensor, ...]:
    return tuple(t.detach().contiguous() for t in tensors)


_HUGE = 1 << 21  # bytes of a huge page


def _memory(size: int) -> Tensor:
    """Bytes on the CPU, large ones on huge pages where the system grants them (Linux: transparent huge pages, `madvise` suffices).

    Records and slots are visited in the order of tiles: on pages of 4 KiB a step looks up several thousand of these.
    """
    if size < 2 * _HUGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(size, dtype=torch.uint8)
    size = -(-size // _HUGE) * _HUGE
    pages = mmap.mmap(-1, size + _HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without them
        pages.madvise(mmap.MADV_HUGEPAGE)
    tensor = torch.frombuffer(pages, dtype=torch.uint8)
    return tensor[-tensor.data_ptr() % _HUGE :][:size]


class _Lent:
    """What a tensor from `large_like` holds on to; made for each size by `_lent`."""

    workspace: Tensor

    def __del__(self) -> None:
        workspaces.give(self.workspace)


@lru_cache(maxsize=64)
def _lent(size: int) -> type:
    return type("Lent", (ctypes.c_ubyte * size, _Lent), {})


def large_like(tensor: Tensor) -> Tensor:
    """`torch.empty_like` of a contiguous float32 tensor for what a step of training makes and drops each time.

    Large ones on the CPU come from the workspaces and go back when nobody holds them any more: the C library would hand 20 MB back to
    the system and fault them in again, page by page, which costs a millisecond a step.
    """
    return large_empty(tensor.shape, tensor)


def large_empty(shape: Sequence[int], like: Tensor) -> Tensor:
    """`like.new_empty(shape)`, in the same memory as `large_like`."""
    size = like.element_size() * math.prod(shape)
    if size < 2 * _HUGE or like.device.type != "cpu":
        return like.new_empty(shape)
    workspace = workspaces.take(size, like.device)
    lent = _lent(size).from_address(workspace.data_ptr())
    lent.workspace = workspace
    return torch.frombuffer(lent, dtype=like.dtype).view(*shape)


class Workspaces:
    """Byte tensors that are lent and come back, so that a training loop does not fault in fresh pages every step."""

    def __init__(self) -> None:
        self._free: dict[torch.device, list[Tensor]] = defaultdict(list)
        self._lock = threading.Lock()
        # The garbage collector may give a tensor back while this very thread holds the lock, so `give` takes none.
        self._returned: deque[Tensor] = deque()

    def take(self, size: int, device: torch.device) -> Tensor:
        """At least `size` bytes; the smallest free tensor that is not four times too large, else a new one.

        On CUDA torch's allocator does all this, knows about streams, and keeps the memory of captured graphs apart.
        """
        if device.type == "cuda":
            return torch.empty(size, dtype=torch.uint8, device=device)
        with self._lock:
            while self._returned:
                tensor = self._returned.popleft()
                self._free[tensor.device].append(tensor)
            free = self._free[device]
            del free[:-_MOST_FREE]
            fitting = [i for i, t in enumerate(free) if size <= t.numel() <= 4 * size + (1 << 20)]
            if fitting:
                return free.pop(min(fitting, key=lambda i: free[i].numel()))
        return _memory(size + size // 8)

    def give(self, tensor: Tensor) -> None:
        """Take back a tensor nobody reads any more."""
        if tensor.device.type != "cuda":
            self._returned.append(tensor)


workspaces = Workspaces()


class Saved:
    """A workspace that outlives its call; goes back to the pool when the graph that holds it dies."""

    def __init__(self, tensor: Tensor, capacity: int) -> None:
        self.tensor, self.capacity = tensor, capacity

    def __del__(self) -> None:
        workspaces.give(self.tensor)
