"""On a GPU: captured graphs, streams, and the operators through their Python front against the reference."""

from __future__ import annotations

import pytest
import torch

from cuda_ext import bench_rows_head, bench_rows_meshes, bench_rows_training, bench_rows_volumes, ops, reference
from cuda_ext.bench import LIMITS
from cuda_ext.library import open_library

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or open_library("cuda")[0] is None, reason="no CUDA device, or the CUDA kernels were not built"
)
NAMES = ("means", "quats", "scales", "opacities", "sh")
WIDTH, HEIGHT = 96, 64


def scene(n: int = 500, seed: int = 0) -> dict[str, torch.Tensor]:
    """A cloud in front of one camera, on the GPU."""
    g = torch.Generator().manual_seed(seed)
    tensors = {
        "means": 0.3 * torch.randn(n, 3, generator=g) + torch.tensor([0.0, 0.0, 2.0]),
        "quats": torch.randn(n, 4, generator=g),
        "scales": 0.03 * torch.exp(0.5 * torch.randn(n, 3, generator=g)),
        "opacities": torch.rand(n, generator=g) * 0.9 + 0.05,
        "sh": 0.3 * torch.randn(n, 16, 3, generator=g),
        "viewmats": torch.eye(4)[None],
        "Ks": torch.tensor([[[90.0, 0, 50], [0, 91, 30], [0, 0, 1]]]),
    }
    return {k: v.to("cuda").requires_grad_(k in NAMES) for k, v in tensors.items()}


def test_a_replayed_splat_follows_its_inputs():
    s = scene()
    v_color = torch.randn(1, HEIGHT, WIDTH, 3, device="cuda")

    def call():
        color = ops.splat(*s.values(), WIDTH, HEIGHT).color
        return color, torch.autograd.grad(color, [s[k] for k in NAMES], v_color)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        color, gradients = call()
    with torch.no_grad():
        s["means"].add_(0.02)
    graph.replay()
    expected, right = call()
    assert torch.equal(color, expected)
    for a, b in zip(gradients, right, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)  # atomics add in any order


def test_a_captured_training_step_is_the_eager_one():
    target = torch.rand(1, HEIGHT, WIDTH, 3, device="cuda")

    def make():
        params = {k: v.detach().clone().requires_grad_() for k, v in scene().items() if k in NAMES}
        cameras = {k: v for k, v in scene().items() if k not in NAMES}
        optimizer = ops.Adam(params, dict.fromkeys(NAMES, 1e-3), eps=1e-6, capturable=True)

        def step():
            image = ops.splat(*params.values(), *cameras.values(), WIDTH, HEIGHT, depth=False).color
            ops.l1_ssim(image, target).sum().backward()
            optimizer.step()
            optimizer.zero_grad()

        return params, step

    eager_params, eager = make()
    for _ in range(12):
        eager()
    params, step = make()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):  # records without running
        step()
    for _ in range(9):
        graph.replay()
    for k in NAMES:
        assert float((params[k] - eager_params[k]).detach().abs().max()) < 12 * 1e-3 * 0.2, k
        assert float((params[k] - eager_params[k]).detach().norm() / params[k].detach().norm()) < 1e-3, k


def test_the_front_door_gives_the_references_answers():
    s = scene(300, 1)
    exact = {k: v.detach().double().requires_grad_(k in NAMES) for k, v in s.items()}
    out = ops.splat(*s.values(), WIDTH, HEIGHT)
    color, *_, margin = reference.rasterize(*reference.project(*exact.values(), WIDTH, HEIGHT), WIDTH, HEIGHT)
    sure = (margin > 1e-4)[..., None]
    assert float(((out.color - color) * sure).detach().abs().max()) <= 1e-5
    v_color = torch.randn_like(out.color) * sure
    actual = torch.autograd.grad(out.color, [s[k] for k in NAMES], v_color)
    right = torch.autograd.grad(color, [exact[k] for k in NAMES], v_color.double())
    for a, b in zip(actual, right, strict=True):
        assert float((a - b).norm() / b.norm()) <= 1e-4
    a, b = torch.rand(2, 40, 50, 3, device="cuda", requires_grad=True), torch.rand(2, 40, 50, 3, device="cuda")
    loss = ops.l1_ssim(a, b)
    l1, ssim = reference.l1_and_ssim(a.detach().double(), b.double())
    torch.testing.assert_close(loss.double(), 0.8 * l1 + 0.2 * (1 - ssim), rtol=1e-5, atol=1e-6)


def test_work_goes_to_the_current_stream():
    s = scene()
    with torch.no_grad():
        expected = ops.splat(*s.values(), WIDTH, HEIGHT).color
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            color = ops.splat(*s.values(), WIDTH, HEIGHT).color
        side.synchronize()
    assert torch.equal(color, expected)


def test_growing_scenes_are_drawn_whole():
    for scale in (0.2, 1.0, 4.0):  # ever more tiles per Gaussian under one reservation
        s = {k: v.detach() for k, v in scene(900, 2).items()}
        s["scales"] = s["scales"] * scale
        out = ops.splat(*s.values(), WIDTH, HEIGHT)
        torch.cuda.synchronize()
        out = ops.splat(*s.values(), WIDTH, HEIGHT)
        exact = {k: v.double() for k, v in s.items()}
        color, *_, margin = reference.rasterize(*reference.project(*exact.values(), WIDTH, HEIGHT), WIDTH, HEIGHT)
        assert float(((out.color - color) * (margin > 1e-4)[..., None]).abs().max()) <= 1e-5


@pytest.mark.parametrize("family", [bench_rows_training, bench_rows_head, bench_rows_meshes, bench_rows_volumes])
def test_other_operators_give_the_references_answers(family):
    figures = family.gate("cuda")
    assert figures and all(v <= LIMITS.get(k, 1e-4) for k, v in figures.items()), figures


def test_nothing_waits_for_the_device_in_a_step():
    """What would stall a captured graph or a pipeline: synchronisations, which torch reports as errors here."""
    s, target = scene(), torch.rand(1, HEIGHT, WIDTH, 3, device="cuda")
    params = {k: s[k] for k in NAMES}
    optimizer = ops.Adam(params, dict.fromkeys(NAMES, 1e-3))

    def step() -> None:
        image = ops.splat(*s.values(), WIDTH, HEIGHT).color
        ops.l1_ssim(image, target).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    step()  # the first frame of its kind waits for its size
    torch.cuda.synchronize()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode(before)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_tensors_on_another_device_than_the_current_one():
    with torch.no_grad():
        here = {k: v.detach() for k, v in scene().items()}
        there = {k: v.to("cuda:1") for k, v in here.items()}
        expected = ops.splat(*here.values(), WIDTH, HEIGHT).color
        assert torch.cuda.current_device() == 0
        assert torch.equal(ops.splat(*there.values(), WIDTH, HEIGHT).color.to("cuda:0"), expected)
        assert torch.cuda.current_device() == 0


def test_a_factored_basis_moves_as_if_its_gradient_were_written_out():
    g = torch.Generator("cuda").manual_seed(0)
    start, *rest = (torch.randn(s, device="cuda", generator=g) for s in ((500, 10, 12), (12,), (500, 3), (500, 4), (500, 4, 3)))
    ends = []
    for factored in ((), ("basis",)):
        basis, weights = start.clone().requires_grad_(), rest[0].clone().requires_grad_()
        adam = ops.Adam({"basis": basis}, {"basis": 1e-2}, heads={"basis": 36}, tails={"basis": 1e-3}, factored=factored, halves=("basis",))
        for _ in range(3):
            sum(t.square().sum() for t in ops.blend(basis, weights, *rest[1:])).backward()
            assert (basis.grad is None) == bool(factored)
            adam.step()
            adam.zero_grad()
        ends.append(basis.detach())
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-6)
