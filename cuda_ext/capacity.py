"""How many Gaussian-tile instances to reserve on CUDA, found out without waiting for the device.

A kernel cannot ask for memory, and asking the device how much it needs would stall every frame. So the kernels write what
they needed into a few bytes of pinned host memory, which the host reads whenever the next frame is due: a scene that has
outgrown three quarters of its reservation gets twice its need, long before anything is dropped. Only the first frame of a
kind (device, number of Gaussians, cameras, image size) waits, and is drawn again if the guess was too small.
"""

from __future__ import annotations

import ctypes
import warnings

import torch

_GUESS = 8  # instances per Gaussian and camera, before anything is known
_LARGEST = 2**31 - 1


class Reservation:
    """The capacity for one kind of frame, and the pinned words that the kernels report to."""

    def __init__(self, count: int) -> None:
        self.capacity = min(_GUESS * count + 65536, _LARGEST)
        self.known = False  # whether a frame of this kind has been waited for
        self.pinned = torch.zeros(4, dtype=torch.int32, pin_memory=True)
        self.words = (ctypes.c_int32 * 4).from_address(self.pinned.data_ptr())  # reading these costs no torch call

    def prepare(self) -> int:
        """The capacity for the next frame, from what the frames that have finished by now needed."""
        needed = self.words[0]
        if self.known and 4 * needed > 3 * self.capacity:
            if self.words[1]:
                dropped = max(0, needed - self.capacity)
                warnings.warn(
                    f"a frame needed {needed} Gaussian-tile instances and {dropped} were dropped: the scene grew by more than a "
                    "third between two frames; the next ones have room",
                    RuntimeWarning,
                    stacklevel=2,
                )
                self.words[1] = 0
            self.capacity = min(2 * needed, _LARGEST)
        return self.capacity

    def settle(self, device: torch.device) -> bool:
        """After the first frame of a kind: wait, and say whether it must be drawn again with more room."""
        if self.known or torch.cuda.is_current_stream_capturing():
            return False
        torch.cuda.current_stream(device).synchronize()
        needed = self.words[0]
        if needed >= _LARGEST:
            raise ValueError("the scene needs more than 2^31 Gaussian-tile instances: fewer cameras, or smaller Gaussians")
        again = bool(self.words[1])
        self.known = True
        self.capacity = min(max(2 * needed, 65536), _LARGEST)
        return again


_reservations: dict[tuple, Reservation] = {}


def reservation(device: torch.device, N: int, C: int, width: int, height: int) -> Reservation:
    """The reservation for frames of this kind; N in powers of two, so that densification does not start anew each time."""
    key = (device, N.bit_length(), C, width, height)
    found = _reservations.get(key)
    if found is None:
        found = _reservations[key] = Reservation((1 << N.bit_length()) * C)
    return found
