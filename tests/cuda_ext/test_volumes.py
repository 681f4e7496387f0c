"""march and composite: the CPU kernels, and the CUDA ones (emulated, or on a GPU), against the float64 reference; laws, poison."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor

from cuda_ext import native, ops

close = sys.modules["cuda_calls"].close
BOX = (-1.0, -0.8, -1.2, 1.0, 0.9, 1.1)


def rays(n: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Origins inside and outside of the box, directions of any length, jitter."""
    g = torch.Generator().manual_seed(seed)
    origins = 2.5 * torch.nn.functional.normalize(torch.randn(n, 3, generator=g), dim=-1)
    origins[::5] *= 0.1
    aims = 0.8 * torch.randn(n, 3, generator=g)
    directions = (aims - origins) * torch.exp(0.3 * torch.randn(n, 1, generator=g))
    directions[::7, 1] = 0.0  # along a face of the cells
    directions[3::35, 0] = 0.0
    directions[14::35, 2] = 0.0  # along an edge
    return origins, directions, torch.rand(n, generator=g)


def grid(levels: int = 1, seed: int = 0, filled: float = 0.2) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.rand(levels, 16, 8, 12, generator=g) < filled


def check_march(device: torch.device, levels: int, jittered: bool, cone: float = 0.0) -> None:
    origins, directions, jitter = rays(400)
    occupancy = grid(levels)
    options = {"step": 0.013, "near": 0.05, "far": 3.0, "cone": cone}
    exact = ops.march(origins.double(), directions.double(), occupancy, BOX, jitter=jitter.double() if jittered else None, **options)
    where = [t.to(device) for t in (origins, directions, occupancy)]
    fast = ops.march(*where, BOX, jitter=jitter.to(device) if jittered else None, **options)
    assert int(exact.offsets[-1]) > (3000 if cone == 0 else 250)
    counts, right = fast.offsets.cpu().diff(), exact.offsets.diff()
    assert (counts - right).abs().sum() <= 0.002 * right.sum()  # midpoints on a border may fall to either side
    same = (counts == right).nonzero()[:, 0]
    assert len(same) > 0.9 * len(origins)
    ids = fast.ray_ids.cpu()
    assert torch.equal(ids, torch.repeat_interleave(torch.arange(400), counts))
    keep, keep_exact = torch.isin(ids, same), torch.isin(exact.ray_ids, same)
    for a, b in ((fast.starts, exact.starts), (fast.ends, exact.ends)):
        off = (a.cpu()[keep] - b[keep_exact]).abs()
        assert (off > 1e-5).float().mean() < 0.002 and off.max() < 0.1


@pytest.mark.parametrize(
    "levels, jittered, cone",
    [(1, False, 0.0), (1, True, 0.0), (3, True, 0.0), (3, True, 0.02), (1, False, 0.3), (3, True, 1.0), (5, True, 0.004), (16, False, 0.1)],
)
def test_march_matches_the_reference(levels, jittered, cone):
    check_march(torch.device("cpu"), levels, jittered, cone)


@pytest.mark.parametrize("levels, cone", [(1, 0.0), (3, 0.0), (3, 0.02)])
def test_cuda_march_matches_the_reference(backend, levels, cone, monkeypatch):
    library, device = backend
    monkeypatch.setattr(native, "pick", lambda _, *tensors: library if tensors[0].dtype == torch.float32 else None)
    check_march(device, levels, True, cone)


def test_steps_grow_with_the_distance_and_leave_no_gap():
    full = torch.ones(1, 16, 8, 12, dtype=torch.bool)
    origins, directions = torch.tensor([[0.0, 0.0, -0.9]]), torch.tensor([[0.0, 0.0, 1.0]])
    for near in (0.0, 0.4):
        s = ops.march(origins, directions, full, BOX, step=0.01, far=2.0, near=near, cone=0.05)
        lengths = s.ends - s.starts
        assert torch.equal(s.starts[1:], s.ends[:-1]) and float(s.starts[0]) == pytest.approx(near)
        small = s.ends <= 0.2  # step / cone
        assert bool(small.any()) == (near < 0.2)
        torch.testing.assert_close(lengths[small], torch.full_like(lengths[small], 0.01), rtol=1e-3, atol=0)
        grown = s.starts >= 0.2
        torch.testing.assert_close(lengths[grown], 0.05 * s.starts[grown], rtol=1e-3, atol=0)
        even = ops.march(origins, directions, full, BOX, step=0.01, far=2.0, near=near)
        assert 2 * len(s.starts) < len(even.starts)


def comb(device: torch.device) -> None:
    """Rays through every other cell: more runs of samples than are noted, at a capacity too."""
    occupancy = torch.zeros(1, 64, 4, 4, dtype=torch.bool)
    occupancy[:, ::2] = True
    origins = torch.tensor([[-1.5, 0.0, 0.0], [-1.5, 0.01, 0.0], [1.4, 0.0, 0.02]])
    directions = torch.tensor([[1.0, 0, 0], [1.0, 0.001, 0], [-1.0, 0, 0]])
    given = [t.to(device) for t in (origins, directions, occupancy)]
    exact = ops.march(origins.double(), directions.double(), occupancy, BOX, step=0.0071, far=3.0)
    whole = ops.march(*given, BOX, step=0.0071, far=3.0)
    assert int(exact.offsets[1]) > 100 and torch.equal(whole.offsets.cpu(), exact.offsets)
    torch.testing.assert_close(whole.starts.cpu().double(), exact.starts, rtol=0, atol=1e-5)
    assert int((exact.starts[:100].diff() > 0.0072).sum()) > 8
    size = int(exact.offsets[1]) + 30
    part = ops.march(*given, BOX, step=0.0071, far=3.0, capacity=size)
    assert torch.equal(part.starts, whole.starts[:size]) and torch.equal(part.ray_ids, whole.ray_ids[:size])


def test_rays_with_many_runs_of_samples():
    comb(torch.device("cpu"))


def test_cuda_rays_with_many_runs_of_samples(backend, monkeypatch):
    library, device = backend
    monkeypatch.setattr(native, "pick", lambda _, *tensors: library if tensors[0].dtype == torch.float32 else None)
    comb(device)


def packed(n: int = 60, seed: int = 0, channels: int = 3) -> tuple[ops.Samples, list[Tensor]]:
    """Rays of 0 to 90 samples, some long enough to be opaque; a few samples behind the last ray's."""
    g = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, 90, (n,), generator=g)
    counts[::6] = 0
    counts[1::6] = torch.tensor([1, 16, 17, 32, 33, 64, 65])[torch.arange(len(counts[1::6])) % 7]
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    size = int(offsets[-1]) + 5
    lengths = 0.01 + 0.05 * torch.rand(size, generator=g)
    starts = 1 + torch.rand(size, generator=g)
    densities = torch.exp(2.0 * torch.randn(size, generator=g))
    colors, backgrounds = torch.randn(size, channels, generator=g), torch.rand(n, channels, generator=g)
    samples = ops.Samples(offsets, torch.zeros(0, dtype=torch.int64), starts, starts + lengths)
    return samples, [densities, colors, starts, starts + lengths, backgrounds]


def run(
    samples: ops.Samples, tensors: list[Tensor], dtype: torch.dtype, device: torch.device, stop: float
) -> tuple[list[Tensor], list[Tensor]]:
    """Results and gradients under fixed upstream gradients."""
    leaves = [t.detach().to(device=device, dtype=dtype).requires_grad_() for t in tensors]
    densities, colors, starts, ends, backgrounds = leaves
    given = ops.Samples(samples.offsets.to(device), samples.ray_ids, starts, ends)
    out = ops.composite(given, densities, colors, backgrounds=backgrounds, stop=stop)
    results = [out.color, out.alpha, out.depth, out.weights]
    g = torch.Generator().manual_seed(3)
    loss = sum((r * torch.randn(r.shape, generator=g).to(device=device, dtype=dtype)).sum() for r in results)
    loss.backward()
    return [r.detach() for r in results], [leaf.grad for leaf in leaves if leaf.grad is not None]


def check_composite(device: torch.device, stop: float, channels: int) -> None:
    samples, tensors = packed(channels=channels)
    fast, gradients = run(samples, tensors, torch.float32, device, stop)
    exact, expected = run(samples, tensors, torch.float64, torch.device("cpu"), stop)
    for a, b, what in zip(fast, exact, ("color", "alpha", "depth", "weights"), strict=True):
        assert float((a.cpu() - b).abs().max()) <= 1e-5, what
    for a, b, what in zip(gradients, expected, ("densities", "colors", "starts", "ends", "backgrounds"), strict=True):
        close(a, b, 1e-5, what)
    last = int(samples.offsets[-1])
    assert all(not bool(t[last:].any()) for t in (fast[3], *gradients[:2]))


@pytest.mark.parametrize("stop, channels", [(0.0, 3), (0.02, 3), (0.0, 1), (1e-4, 9)])
def test_composite_matches_the_reference(stop, channels):
    check_composite(torch.device("cpu"), stop, channels)


@pytest.mark.parametrize("stop, channels", [(0.0, 3), (0.02, 5)])
def test_cuda_composite_matches_the_reference(backend, stop, channels, monkeypatch):
    library, device = backend
    monkeypatch.setattr(native, "pick", lambda _, *tensors: library if tensors[0].dtype == torch.float32 else None)
    check_composite(device, stop, channels)


def test_reference_gradients_by_finite_differences():
    samples, tensors = packed(5)
    leaves = [t.double().requires_grad_() for t in tensors]

    def all_of(densities, colors, starts, ends, backgrounds):
        out = ops.composite(ops.Samples(samples.offsets, samples.ray_ids, starts, ends), densities, colors, backgrounds=backgrounds)
        return out.color, out.alpha, out.depth, out.weights

    assert torch.autograd.gradcheck(all_of, leaves, fast_mode=True)


def test_a_ray_through_fog_is_the_exponential_law():
    """Constant density and colour: alpha = 1 - exp(-σ·length), however the ray is cut, and the depth that the integral gives."""
    sigma, origin, direction = 1.7, torch.tensor([[0.0, 0.0, -3.0]]), torch.tensor([[0.0, 0.0, 2.0]])
    for step in (0.5, 0.01):
        s = ops.march(origin, direction, torch.ones(8, 8, 8, dtype=torch.bool), (-1, -1, -1, 1, 1, 1), step=step, far=10.0)
        assert abs(float((s.ends - s.starts).sum()) - 1.0) < 1e-4  # two units of space are one length of the direction
        out = ops.composite(s, torch.full_like(s.starts, sigma), torch.ones(len(s.starts), 1))
        assert abs(float(out.alpha) - (1 - 2.718281828 ** (-sigma))) < 1e-5
        assert torch.allclose(out.color[:, 0], out.alpha)
    mean = 1 + 1 / sigma - 1 / (2.718281828**sigma - 1)  # of the truncated exponential distribution on 1..2
    assert abs(float(out.depth) - mean) < 1e-4


def test_skipping_empty_cells_changes_nothing():
    """Samples of a sparse grid are those of the full one whose cells are occupied."""
    origins, directions, jitter = rays(200, 1)
    options = {"step": 0.02, "far": 3.0, "jitter": jitter}
    sparse, full = grid(3, filled=0.05), torch.ones(3, 16, 8, 12, dtype=torch.bool)
    some, every = (ops.march(origins, directions, occupancy, BOX, **options) for occupancy in (sparse, full))
    points = origins[every.ray_ids] + every.middles[:, None] * directions[every.ray_ids]
    from cuda_ext.reference.volumes import occupied

    expected = int(occupied(points, sparse, BOX).sum())
    assert abs(len(some.starts) - expected) <= 0.001 * expected


def test_a_capacity_fixes_the_shape_and_drops_from_the_end():
    origins, directions, _ = rays(50)
    for dtype in (torch.float32, torch.float64):
        whole = ops.march(origins.to(dtype), directions.to(dtype), grid(), BOX, step=0.02, far=2.0)
        total = len(whole.starts)
        for capacity in (0, total // 2, total + 10):
            part = ops.march(origins.to(dtype), directions.to(dtype), grid(), BOX, step=0.02, far=2.0, capacity=capacity)
            kept = min(total, capacity)
            assert len(part.starts) == len(part.ray_ids) == capacity and int(part.needed) == total
            assert torch.equal(part.offsets, whole.offsets.clamp_max(capacity))
            assert torch.equal(part.starts[:kept], whole.starts[:kept]) and not part.ends[kept:].any()
            out = ops.composite(part, torch.ones(capacity, dtype=dtype), torch.ones(capacity, 3, dtype=dtype))
            assert out.color.isfinite().all() and not out.weights[kept:].any()


def test_any_number_of_threads_gives_the_same_bits():
    samples, tensors = packed(300)
    origins, directions, jitter = rays(300)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            marched = ops.march(origins, directions, grid(2), BOX, step=0.02, far=2.0, jitter=jitter)
            out, gradients = run(samples, tensors, torch.float32, torch.device("cpu"), 0.01)
            results.append([marched.starts, marched.offsets, *out, *gradients])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_nothing_to_do():
    none = torch.zeros(0, 3)
    for occupancy in (grid(), torch.zeros(1, 4, 4, 4, dtype=torch.bool)):
        s = ops.march(none, none, occupancy, BOX, step=0.1, far=1.0)
        assert s.offsets.tolist() == [0] and len(s.starts) == 0
        out = ops.composite(s, torch.zeros(0), none)
        assert out.color.shape == (0, 3)
    origins, directions, _ = rays(4)
    s = ops.march(origins, directions, torch.zeros(4, 4, 4, dtype=torch.bool), BOX, step=0.1, far=1.0)
    out = ops.composite(s, torch.zeros(0), none, backgrounds=torch.full((4, 3), 0.5))
    assert torch.equal(out.color, torch.full((4, 3), 0.5)) and not out.alpha.any() and not out.depth.any()


def check_poison(device: torch.device) -> None:
    origins, directions, jitter = rays(40)
    origins[0, 1], origins[1, 0], directions[2], directions[3, 2] = torch.nan, torch.inf, 0.0, -torch.inf
    jitter[4], origins[5], directions[6] = torch.nan, 1e30, 1e-30
    s = ops.march(origins.to(device), directions.to(device), grid(2).to(device), BOX, step=0.02, far=2.0, jitter=jitter.to(device))
    assert not s.offsets.diff()[:6].any() and s.starts.isfinite().all()
    samples, tensors = packed()
    clean, _ = run(samples, tensors, torch.float32, device, 0.0)
    densities, colors = tensors[:2]
    hit = samples.offsets[:-1][samples.offsets.diff() > 20][:7]
    for at, value in zip(hit.tolist(), (torch.nan, torch.inf, -torch.inf, 1e38, -3.0), strict=False):
        densities[at] = value
    colors[hit[5]], colors[hit[6], 0] = torch.nan, torch.inf
    fast, gradients = run(samples, tensors, torch.float32, device, 0.0)
    assert all(t.isfinite().all() for t in [*fast, *gradients])
    touched = torch.isin(samples.offsets[:-1], hit) & (samples.offsets.diff() > 0)
    assert all(torch.equal(a.cpu()[~touched], b.cpu()[~touched]) for a, b in zip(fast[:3], clean[:3], strict=True))
    exact, expected = run(samples, tensors, torch.float64, torch.device("cpu"), 0.0)
    for a, b in zip([*fast, *gradients], [*exact, *expected], strict=True):
        close(a, b, 1e-5, "poisoned")


def test_poison_spoils_nothing_else():
    check_poison(torch.device("cpu"))


def test_cuda_poison_spoils_nothing_else(backend, monkeypatch):
    library, device = backend
    monkeypatch.setattr(native, "pick", lambda _, *tensors: library if tensors[0].dtype == torch.float32 else None)
    check_poison(device)
    samples, tensors = packed(4)
    wild = ops.Samples(torch.tensor([-5, 3, 10**9, 2, 2], device=device), samples.ray_ids, *(t.to(device) for t in tensors[2:4]))
    assert ops.composite(wild, tensors[0].to(device), tensors[1].to(device)).color.isfinite().all()  # held within the samples


def test_wrong_arguments_are_named():
    origins, directions, _ = rays(4)
    options = {"step": 0.1, "far": 1.0}
    for bad, match in (
        ({"box": (0, 0, 0, 1, 0, 1)}, "lowest below its highest"),
        ({"occupancy": grid().float()}, r"occupancy must be bool .* got torch.float32"),
        ({"occupancy": torch.ones(2, 6, 4, 4, dtype=torch.bool)}, "multiples of 4"),
        ({"step": 0.0}, "step must be positive"),
        ({"near": 2.0}, "near ≤ far"),
        ({"step": 1e-8}, "may hold 4194304 steps"),
        ({"directions": directions[:3]}, r"directions must be \[4, 3\], got \[3, 3\]"),
        ({"capacity": -1}, "capacity"),
        ({"cone": 1.5}, "cone must be in 0..1"),
        ({"cone": 0.1, "near": -1.0}, "near ≥ 0"),
    ):
        arguments = {"origins": origins, "directions": directions, "occupancy": grid(), "box": BOX} | options | bad
        with pytest.raises(ValueError, match=match):
            ops.march(**arguments)
    samples, (densities, colors, *_) = packed(4)
    with pytest.raises(ValueError, match=r"starts must be \[3\]"):
        ops.composite(samples, densities[:3], colors)
    with pytest.raises(ValueError, match="transmittance"):
        ops.composite(samples, densities, colors, stop=2.0)
    wrong = ops.Samples(samples.offsets.flip(0), samples.ray_ids, samples.starts, samples.ends)
    for dtype in (torch.float32, torch.float64):
        typed = ops.Samples(wrong.offsets, wrong.ray_ids, wrong.starts.to(dtype), wrong.ends.to(dtype))
        with pytest.raises((ValueError, RuntimeError), match="offsets must rise"):
            ops.composite(typed, densities.to(dtype), colors.to(dtype))
