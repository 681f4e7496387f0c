"""Memory that operators lend and take back: large pieces lie on huge pages, and nobody gets what somebody still holds."""

from __future__ import annotations

import mmap

import pytest
import torch

from cuda_ext import ops
from cuda_ext.bench_scenes import head_scene
from cuda_ext.native.calls import Workspaces, large_like

CPU = torch.device("cpu")


@pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="this system has no huge pages to ask for")
def test_large_workspaces_are_private_and_start_with_a_huge_page():
    tensor = Workspaces().take(5 << 20, CPU)
    assert tensor.numel() >= 5 << 20 and tensor.data_ptr() % (1 << 21) == 0
    tensor.fill_(7)
    assert int(tensor[-1]) == 7
    with open("/proc/self/maps") as maps:
        for line in maps:
            span, permissions = line.split()[:2]
            first, last = (int(x, 16) for x in span.split("-"))
            if first <= tensor.data_ptr() < last:
                assert permissions == "rw-p"  # a forked child gets a copy
                return
    raise AssertionError("the workspace is mapped nowhere")


def test_a_workspace_comes_back_only_when_nobody_holds_it():
    like = torch.empty(30_000, 16, 3)
    first = large_like(like)
    view, address = first.view(-1)[5:9], first.data_ptr()
    del first
    second = large_like(like)
    assert second.data_ptr() != address  # the view still reads the first
    del view
    third = large_like(like)
    assert third.data_ptr() == address
    assert third.shape == like.shape and third.dtype == torch.float32 and third.is_contiguous()


def test_gradients_that_are_kept_are_not_overwritten():
    scene = head_scene(22_000, 64, 64).leaves()
    kept = []
    for scale in (1.0, 2.0, 1.0):
        ops.splat(*scene.tensors, 64, 64, depth=False).color.mul(scale).sum().backward()
        assert scene.sh.grad is not None
        kept.append(scene.sh.grad)
        scene.sh.grad = None
    assert torch.equal(kept[0], kept[2]) and torch.equal(2 * kept[0], kept[1])
