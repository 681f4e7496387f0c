"""The reservation of tile instances on CUDA, with the device played by the test."""

from __future__ import annotations

import pytest
import torch

from cuda_ext import capacity


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> capacity.Reservation:
    """A reservation for 1000 Gaussians whose pinned words are ordinary memory."""
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *a, pin_memory=False, **k: zeros(*a, **k))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)

    class Stream:
        def synchronize(self) -> None:
            pass

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream())
    return capacity.Reservation(1000)


def report(room: capacity.Reservation, needed: int) -> None:
    """What the kernels write."""
    room.pinned[0], room.pinned[1] = needed, int(needed > room.capacity)


DEVICE = torch.device("cuda:0")


def test_the_first_frame_is_drawn_again_when_the_guess_was_too_small(room):
    assert room.prepare() >= 8000
    report(room, 500_000)
    assert room.settle(DEVICE)
    assert room.prepare() == 1_000_000
    report(room, 500_000)
    assert not room.settle(DEVICE)


def test_growth_is_met_before_anything_is_dropped(room, recwarn):
    room.prepare()
    report(room, 100_000)
    room.settle(DEVICE)
    for needed in (int(100_000 * 1.33**i) for i in range(1, 20)):  # by a third a frame
        before = room.prepare()
        assert needed <= before
        report(room, needed)
    assert not recwarn.list


def test_a_dropped_frame_is_reported_once_and_the_next_has_room(room):
    room.prepare()
    report(room, 100_000)
    room.settle(DEVICE)
    report(room, 1_000_000)
    with pytest.warns(RuntimeWarning, match="were dropped"):
        assert room.prepare() == 2_000_000
    room.prepare()


def test_more_than_can_be_numbered_is_an_error(room):
    report(room, 2**31 - 1)
    with pytest.raises(ValueError, match="fewer cameras"):
        room.settle(DEVICE)


def test_frames_of_a_kind_share_a_reservation(room):
    a = capacity.reservation(DEVICE, 1000, 1, 64, 64)
    assert capacity.reservation(DEVICE, 1023, 1, 64, 64) is a
    assert capacity.reservation(DEVICE, 1024, 1, 64, 64) is not a
