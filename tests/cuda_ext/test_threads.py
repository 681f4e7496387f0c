"""Threads of the kernels, apart from torch's."""

from __future__ import annotations

import threading

import pytest
import torch

from cuda_ext import native
from cuda_ext.native.calls import Workspaces
from cuda_ext.threads import kernel_threads, serial_torch


def test_kernels_keep_their_threads_while_torch_has_one():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with pytest.raises(ZeroDivisionError):
            with serial_torch(), serial_torch():
                assert torch.get_num_threads() == 1 and kernel_threads() == 3
                assert native.launch_of(torch.device("cpu")).threads == 3
                raise ZeroDivisionError
        assert torch.get_num_threads() == 3 and kernel_threads() == 3
        torch.set_num_threads(2)
        assert kernel_threads() == 2 and native.launch_of(torch.device("cpu")).threads == 2
    finally:
        torch.set_num_threads(before)


def test_other_threads_are_left_alone():
    seen = []
    with serial_torch():
        other = threading.Thread(target=lambda: seen.append(kernel_threads() == torch.get_num_threads()))
        other.start()
        other.join()
    assert seen == [True]


def test_workspaces_come_back_even_while_one_is_taken() -> None:
    own, cpu = Workspaces(), torch.device("cpu")
    lent = [own.take(1 << 20, cpu) for _ in range(20)]
    with own._lock:  # as when a collection during `take` ends a graph that holds one
        for tensor in lent:
            own.give(tensor)
    again = own.take(1 << 20, cpu)
    assert any(again is tensor for tensor in lent)
    assert len(own._free[cpu]) < 8  # the rest goes back to the system
    assert own.take(1 << 24, cpu).numel() >= 1 << 24
