"""What every call needs: the library, where to run, and memory that is lent and comes back."""

from __future__ import annotations

import threading
from collections import defaultdict, deque

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
        return torch.empty(size + size // 8, dtype=torch.uint8, device=device)

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
