"""`carry`, what of it Adam takes within the backward pass, and moments kept in halves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from cuda_ext import native, ops
from cuda_ext.native import basis_step
from cuda_ext.ops.binding import _carry_in_parts

PENALTIES = ops.Penalties(0.3, 2.0, 0.1, 0.4, 5.0)


def relative(a: Tensor, b: Tensor) -> float:
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).norm() / (b.norm() + 1e-12))


def scene(n: int, K: int = 12, bases: int = 4, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(n + K)
    V, F = 40, 60
    faces = torch.stack([torch.randperm(V, generator=g)[:3] for _ in range(F)])
    floats = {
        "vertices": torch.randn(V, 3, generator=g), "basis": torch.randn(n, 10, K, generator=g), "weights": torch.randn(K, generator=g),
        "means": torch.randn(n, 3, generator=g), "quats": torch.randn(n, 4, generator=g), "log_scales": 0.5 * torch.randn(n, 3, generator=g) - 1,
        "sh": torch.randn(n, bases, 3, generator=g), "logit_opacities": torch.randn(n, generator=g),
    }  # fmt: skip
    leaves = {k: v.to(dtype).requires_grad_() for k, v in floats.items()}
    ids = torch.randint(F, (n,), generator=g)
    return leaves | {"faces": faces, "face_ids": ids, "reach": (1 + torch.rand(n, generator=g)).to(dtype)}


def carried(s: dict[str, Tensor], penalties: ops.Penalties | None = PENALTIES, **changed: Tensor) -> tuple[Tensor, ...]:
    s = s | changed
    names = ("vertices", "faces", "face_ids", "basis", "weights", "means", "quats", "log_scales", "sh")
    costly = {} if penalties is None else {"logit_opacities": s["logit_opacities"], "reach": s["reach"]}
    return ops.carry(*(s[k] for k in names), penalties=penalties, **costly)


def total(out: tuple[Tensor, ...], seed: int = 9) -> Tensor:
    """A loss that depends on everything."""
    g = torch.Generator().manual_seed(seed)
    return sum(((o * torch.randn(o.shape, generator=g).to(o)).sum() for o in out[:4]), torch.zeros((), dtype=out[0].dtype)) + 10 * sum(
        out[4:]
    )


@pytest.mark.parametrize("costly", [False, True])
@pytest.mark.parametrize(
    "n,K,bases", [(0, 3, 1), (1, 1, 4), (37, 5, 1), (300, 12, 4), (515, 20, 9), (260, 16, 16), (70, 64, 4), (64, 33, 1)]
)
def test_carry_matches_the_reference(n, K, bases, costly):
    results = []
    for dtype in (torch.float32, torch.float64):
        s = scene(n, K, bases, dtype)
        out = carried(s, PENALTIES if costly else None)
        assert len(out) == 4 + costly
        total(out).backward()
        results.append([*out, *(v.grad for v in s.values() if v.requires_grad and (costly or v is not s["logit_opacities"]))])
    for a, b in zip(*results, strict=True):
        assert a.shape == b.shape and relative(a, b) < 2e-5


def test_carry_is_blend_then_bind():
    s = scene(333)
    with torch.no_grad():
        out = carried(s)
        means, quats, sh, size = ops.blend(s["basis"], s["weights"], s["means"], s["quats"], s["sh"], with_size=True)
        world = ops.bind(s["vertices"], s["faces"], s["face_ids"], means, quats, s["log_scales"], log_scales=True)
        cost = ops.penalty(
            means,
            s["log_scales"],
            s["logit_opacities"],
            s["reach"],
            position_weight=0.3,
            scale_weight=2.0,
            opacity_weight=0.1,
            max_scale=0.4,
        )
    for a, b in zip(out, (*world, sh, cost + 5 * size), strict=True):
        assert relative(a, b) < 1e-6


@pytest.mark.parametrize("n", [0, 50])
@pytest.mark.parametrize("penalties", [None, PENALTIES])
def test_in_parts_as_on_cuda_it_is_the_same(n, penalties):
    whole, parts = scene(n), scene(n)
    names = ("vertices", "faces", "face_ids", "basis", "weights", "means", "quats", "log_scales", "sh")
    outs = [
        carried(whole, penalties),
        _carry_in_parts(tuple(parts[k] for k in names), penalties, parts["logit_opacities"], parts["reach"]),
    ]
    for out in outs:
        total(out).backward()
    for a, b in zip(*outs, strict=True):
        assert relative(a, b) < 1e-6
    for name in ("vertices", "basis", "weights", "means", "quats", "log_scales", "sh"):
        assert relative(whole[name].grad, parts[name].grad) < 1e-5, name


def test_carry_gives_the_same_bits_on_any_number_of_threads():
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            s = scene(2000)
            adam = ops.Adam({"basis": s["basis"]}, {"basis": 1e-2}, factored=("basis",), halves=("basis",))
            for _ in range(2):
                out = carried(s)
                adam.descend(total(out))
            results.append([*out, *(v.grad for v in s.values() if v.grad is not None), s["basis"], adam.m["basis"], adam.v["basis"]])
    finally:
        torch.set_num_threads(before)
    assert len(results[0]) == 15
    for others in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], others, strict=True))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_poison_stays_in_its_gaussian(value):
    clean, bad = scene(100), scene(100)
    with torch.no_grad():
        bad["basis"][17, 4, 3] = bad["means"][40, 1] = bad["log_scales"][41, 1] = bad["sh"][42, 2, 1] = value
    rest = torch.ones(100, dtype=torch.bool)
    rest[[17, 40, 41, 42]] = False
    outs = [carried(s, None) for s in (clean, bad)]
    for a, b in zip(*outs, strict=True):
        assert torch.equal(a[rest], b[rest])
    for out in outs:
        sum((o[rest] * 0.5).sum() for o in out).backward()
    for name in ("means", "quats", "log_scales", "sh", "basis"):
        assert torch.equal(clean[name].grad[rest], bad[name].grad[rest]), name


def test_degenerate_triangles_and_wrong_indices():
    s = scene(50)
    total(carried(s, vertices=(flat := torch.zeros(40, 3, requires_grad=True)))).backward()
    assert all(t.grad.isfinite().all() for t in (flat, s["means"], s["quats"], s["log_scales"], s["basis"], s["weights"]))
    with pytest.raises(RuntimeError, match="face_ids must index the faces"):
        carried(s, face_ids=torch.full((50,), 60))
    with pytest.raises(RuntimeError, match="faces must index the vertices"):
        carried(s, vertices=torch.zeros(5, 3))
    with pytest.raises(ValueError, match="detach"):
        carried(s, reach=torch.ones(50, requires_grad=True))
    with pytest.raises(ValueError, match="penalties need"):
        ops.carry(
            *(s[k] for k in ("vertices", "faces", "face_ids", "basis", "weights", "means", "quats", "log_scales", "sh")),
            penalties=PENALTIES,
        )


def optimizer_of(s: dict[str, Tensor], halves: bool = False, factored: bool = True) -> ops.Adam:
    names, K = ("basis", "means", "weights"), s["basis"].shape[2]
    basis = ("basis",)
    return ops.Adam(
        {k: s[k] for k in names}, dict.fromkeys(names, 1e-2), heads={"basis": 3 * K}, tails={"basis": 1e-3},
        factored=basis if factored else (), halves=basis if halves else (),
    )  # fmt: skip


@pytest.mark.parametrize("K", [1, 3, 12, 16, 20, 33, 64])
def test_descending_is_backward_then_step(K):
    """Moved within the backward pass, moved by its factors, moved by a gradient that was written out: all the same."""
    ends = []
    for way in ("descend", "factors", "written out"):
        s = scene(301, K)
        adam = optimizer_of(s, factored=way != "written out")
        for step in range(3):
            loss = total(carried(s), step)
            if way == "descend":
                adam.descend(loss)
                assert s["basis"].grad is None
            else:
                loss.backward()
                adam.step()
                adam.zero_grad()
        assert adam.step_count == 3
        ends.append([s["basis"], s["means"], s["weights"], adam.m["basis"], adam.v["basis"]])
    for others in ends[1:]:
        for a, b in zip(ends[0], others, strict=True):
            assert relative(a, b) < 1e-5


@contextmanager
def counted_moves() -> Iterator[list[str]]:
    """The names of tensors that move within backward passes."""
    calls: list[str] = []

    def step(optimizer: ops.Adam, name: str, *others):
        calls.append(name)
        return basis_step(optimizer, name, *others)

    with patch.object(native, "basis_step", step):
        yield calls


@pytest.mark.parametrize("case", ["two uses", "collected before", "a gradient", "a use without gradients"])
def test_descending_moves_a_basis_only_when_nothing_else_reads_it(case):
    ends, moved = [], []
    for fused in (True, False):
        s = scene(200)
        adam = optimizer_of(s, factored=fused)
        loss = total(carried(s), 1)
        kept: list[Tensor] = []
        if case == "two uses":
            loss = loss + total(carried(s, weights=2 * s["weights"]), 2)
        elif case == "collected before":
            total(carried(s), 2).backward()
        elif case == "a gradient":
            s["basis"].grad = torch.ones_like(s["basis"])
        else:
            kept.append(total(carried(s), 2))  # its backward pass might follow
        with counted_moves() as calls:
            adam.descend(loss)
        moved.append(calls)
        ends.append([s["basis"], s["means"], s["weights"]])
    assert moved == [[], []]
    for a, b in zip(*ends, strict=True):
        assert relative(a, b) < 1e-5


def test_a_second_backward_pass_through_a_moved_basis_is_refused():
    s = scene(40)
    adam = optimizer_of(s)
    first = carried(s)

    class Twice:
        def backward(self) -> None:
            total(first).backward(retain_graph=True)
            total(first).backward()

    with pytest.raises(RuntimeError, match="second backward pass"):
        adam.descend(Twice())


def test_a_graph_that_died_does_not_keep_a_basis_from_moving():
    s = scene(40)
    adam = optimizer_of(s)
    carried(s)
    with counted_moves() as calls:
        adam.descend(total(carried(s)))
    assert calls == ["basis"]


def test_halves_of_moments_lead_where_floats_lead():
    """Also over thousands of steps, where rounding to the nearest would hold the second moment for ever."""
    starts = torch.randn(40, 16, generator=torch.Generator().manual_seed(0))
    ends, seconds = [], []
    for policy, halves in (("native", ()), ("native", ("a",)), ("reference", ("a",))):
        with patch.dict(os.environ, AVATARS_KERNELS=policy):
            p = starts.clone().requires_grad_()
            adam = ops.Adam({"a": p}, {"a": 1e-3}, halves=halves)
            g = torch.Generator().manual_seed(1)
            for step in range(2500 if policy == "native" else 300):
                size = 1.0 if step < 100 else 0.01  # the second moment then has a long way down
                p.grad = size * (p.detach() + torch.randn(p.shape, generator=g))
                adam.step()
                if step == 299:
                    early = p.detach().clone(), adam.v["a"].float()
            ends.append((p.detach() - starts, *early))
            seconds.append(adam.v["a"].float())
    assert adam.m["a"].dtype == torch.bfloat16
    assert relative(seconds[1], seconds[0]) < 0.03
    assert relative(ends[1][0], ends[0][0]) < 0.03
    assert relative(ends[2][1] - starts, ends[1][1] - starts) < 1e-2 and relative(ends[2][2], ends[1][2]) < 1e-2


@pytest.mark.parametrize("rows", [None, torch.tensor([2, 11])])
def test_halves_follow_the_reference_rules(rows):
    results = []
    for policy in ("native", "reference"):
        with patch.dict(os.environ, AVATARS_KERNELS=policy):
            g = torch.Generator().manual_seed(0)
            p = torch.randn(13, 7, generator=g)
            adam = ops.Adam({"a": p}, {"a": 1e-2}, halves=("a",))
            for _ in range(5):
                p.grad = torch.randn(13, 7, generator=g)
                adam.step(rows)
            results.append((p, adam.m["a"].float(), adam.v["a"].float()))
    for a, b in zip(*results, strict=True):
        assert relative(a, b) < 3e-3
    assert (results[0][2] == results[1][2]).float().mean() > 0.9


def test_halves_are_saved_and_taken_up():
    p = torch.ones(5, 4)
    adam = ops.Adam({"a": p}, {"a": 0.1}, halves=("a",))
    p.grad = torch.ones(5, 4)
    adam.step()
    twin = ops.Adam({"a": p.clone()}, {"a": 0.1}, halves=("a",))
    twin.load_state_dict(adam.state_dict())
    assert twin.m["a"].dtype == twin.v["a"].dtype == torch.bfloat16
    old = {k: v.float() for k, v in adam.state_dict().items() if k != "step"} | {"step": torch.tensor(1)}
    twin.load_state_dict(old)  # as checkpoints were before moments were halved
    assert torch.equal(twin.m["a"], adam.m["a"]) and twin.m["a"].dtype == torch.bfloat16
