"""Projection and compositing: the native kernels against the float64 reference, laws, and poison."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cuda_ext import ops, reference
from cuda_ext.bench_scenes import Scene, head_scene

WIDTH, HEIGHT = 61, 45


def cloud(n: int = 150, bases: int = 16, seed: int = 0) -> Scene:
    """Gaussians of very different sizes around the origin; two cameras with skew and off-centre principal points."""
    random = torch.Generator().manual_seed(seed)
    viewmats = torch.eye(4).repeat(2, 1, 1)
    viewmats[:, 2, 3] = 1.0
    angle = 0.3
    viewmats[1, :3, :3] = torch.tensor([[math.cos(angle), 0, -math.sin(angle)], [0, 1, 0], [math.sin(angle), 0, math.cos(angle)]])
    Ks = torch.tensor([[[70.0, 2.0, 31.0], [0, 75.0, 17.0], [0, 0, 1]], [[60.0, 0, 12.0], [0, 60.0, 30.0], [0, 0, 1]]])
    return Scene(
        0.25 * torch.randn(n, 3, generator=random),
        torch.randn(n, 4, generator=random),
        torch.exp(0.8 * torch.randn(n, 3, generator=random) - 3.5),
        torch.rand(n, generator=random),
        0.25 * torch.randn(n, bases, 3, generator=random),
        viewmats,
        Ks,
        WIDTH,
        HEIGHT,
    )


def relative(a: Tensor, b: Tensor) -> float:
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).norm() / (b.norm() + 1e-12))


def run(scene: Scene, dtype: torch.dtype = torch.float32, **options):
    """Everything a splat gives, forward and backward, under fixed random upstream gradients."""
    scene = scene.to(dtype)
    leaves = [t.clone().requires_grad_() for t in scene.tensors[:5]]
    backgrounds = torch.tensor([[0.1, 0.5, 0.9], [0.3, 0.2, 0.1]], dtype=dtype)[: len(scene.Ks)].requires_grad_()
    statistics = ops.SplatStatistics(*(torch.zeros(len(scene.means), dtype=dtype) for _ in range(4)))
    out = ops.splat(*leaves, *scene.tensors[5:], scene.width, scene.height, backgrounds=backgrounds, statistics=statistics, **options)
    random = torch.Generator().manual_seed(9)
    images = [out.color, out.alpha] + ([out.depth] if out.depth is not None else [])
    loss = sum((i * torch.rand(i.shape, generator=random, dtype=torch.float64).to(dtype)).sum() for i in images)
    loss.backward()
    return out, dict(zip(("means", "quats", "scales", "opacities", "sh"), (t.grad for t in leaves), strict=True)), backgrounds.grad


def compare(scene: Scene, **options) -> None:
    native, gradients, v_background = run(scene, **options)
    exact, expected, v_expected = run(scene, torch.float64, **options)
    leaves = [t.double() for t in scene.tensors]
    if options.get("log_scales"):
        leaves[2] = leaves[2].exp()
    if options.get("logit_opacities"):
        leaves[3] = leaves[3].sigmoid()
    projected = reference.project(
        *leaves, scene.width, scene.height, antialiased=options.get("antialiased", False), sh_degree=options.get("sh_degree")
    )
    margin = reference.rasterize(*projected, scene.width, scene.height)[4]
    clear = margin > 1e-5  # where rounding does not decide about the cut-off
    assert clear.float().mean() > 0.98
    assert (native.color - exact.color)[clear].abs().max() < 1e-5
    assert (native.alpha - exact.alpha)[clear].abs().max() < 1e-5
    if native.depth is not None:
        assert relative(native.depth[clear], exact.depth[clear]) < 1e-5
    assert (native.radii - exact.radii).abs().max() <= 1
    for name, gradient in gradients.items():
        assert relative(gradient, expected[name]) < 1e-4, name
    assert relative(v_background, v_expected) < 1e-5
    for name in ("grad_norm", "count", "contributions"):
        assert relative(getattr(native.statistics, name), getattr(exact.statistics, name)) < 1e-4, name


@pytest.mark.parametrize("policy", ["native", "reference"])
def test_statistics_that_nobody_asks_for_change_no_other(policy, monkeypatch):
    monkeypatch.setenv("AVATARS_KERNELS", policy)
    found = []
    for all_of_them in (True, False):
        scene = cloud(100).leaves()
        statistics = ops.SplatStatistics.zeros(100, max_radius=all_of_them, contributions=all_of_them)
        ops.splat(*scene.tensors, scene.width, scene.height, statistics=statistics).color.square().sum().backward()
        found.append([statistics.grad_norm, statistics.count, *(t.grad for t in scene.tensors[:5])])
        assert len(statistics.sums) == (4 if all_of_them else 2) and float(statistics.count.sum()) > 0
        statistics.reset()
        assert not any(t.any() for t in statistics.sums.values())
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"antialiased": True},
        {"depth": False, "sh_degree": 1},
        {"eps2d": 0.1, "near": 0.8},
    ],
    ids=str,
)
def test_splat_matches_the_reference(options):
    compare(cloud(), **options)


def test_raw_parameters():
    scene = cloud(80)
    raw = replace(scene, scales=scene.scales.log(), opacities=torch.logit(scene.opacities.clamp(0.01, 0.99)))
    compare(raw, log_scales=True, logit_opacities=True)


@pytest.mark.parametrize("bases", [1, 4, 9])
def test_fewer_harmonics(bases):
    compare(cloud(40, bases))


@pytest.mark.parametrize("n", [0, 1, 15, 17, 65])
def test_any_number(n):
    out, gradients, _ = run(cloud(n))
    exact, expected, _ = run(cloud(n), torch.float64)
    assert torch.allclose(out.color.double(), exact.color, atol=2e-5)
    for name, gradient in gradients.items():
        assert gradient.shape == expected[name].shape
        assert relative(gradient, expected[name]) < 1e-4 or n == 0


def test_long_queues_of_opaque_gaussians():
    """More than one chunk per tile, and pixels that stop early: the images still agree."""
    scene = cloud(700)
    scene = replace(scene, scales=scene.scales.clamp_min(0.05), opacities=0.5 + 0.5 * scene.opacities, means=0.5 * scene.means)
    compare(scene)


def test_alpha_clamp_and_saturation():
    scene = cloud(30)  # but none as large as the picture: far from its mean the exponent is a small difference of large numbers
    compare(replace(scene, opacities=torch.ones(30), scales=scene.scales.clamp_max(0.2)))


def test_turning_what_is_nearly_round_is_exact():
    """The gradient to a quaternion is a small difference there, which must not be one of rounding errors."""
    scene = cloud(150)
    round_ones = replace(scene, scales=0.03 + 3e-5 * torch.rand(150, 3, generator=torch.Generator().manual_seed(0)))
    gradients, expected = run(round_ones)[1], run(round_ones, torch.float64)[1]
    assert relative(gradients["quats"], expected["quats"]) < 1e-5


def test_project_and_rasterize_alone():
    scene = cloud(100)
    results = []
    for dtype in (torch.float32, torch.float64):
        s = scene.to(dtype)
        leaves = [t.clone().requires_grad_() for t in s.tensors[:5]]
        projected = ops.project(*leaves, *s.tensors[5:], WIDTH, HEIGHT, antialiased=True)
        image = ops.rasterize(projected, WIDTH, HEIGHT, torch.full((2, 3), 0.5, dtype=dtype))
        (image.color.square().sum() + image.depth.sum() + 0.1 * image.alpha.sum() + projected.depths.sum()).backward()
        results.append([projected.means2d, projected.conics, projected.colors, image.color, image.depth, image.contributions]
                       + [t.grad for t in leaves])  # fmt: skip
    for a, b in zip(*results, strict=True):
        assert relative(a, b) < 1e-4


def test_the_fused_and_the_separate_operators_agree():
    s = cloud(100)
    fused = ops.splat(*s.tensors, WIDTH, HEIGHT)
    image = ops.rasterize(ops.project(*s.tensors, WIDTH, HEIGHT), WIDTH, HEIGHT)
    assert torch.allclose(fused.color, image.color, atol=1e-5)
    assert torch.allclose(fused.depth, image.depth, atol=1e-5)


def test_any_number_of_threads_gives_the_same_bits():
    scene = head_scene(3000, 100, 90, cameras=2)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 4, 2):
            torch.set_num_threads(threads)
            out, gradients, _ = run(scene)
            results.append([out.color, out.alpha, out.depth, *gradients.values(), out.statistics.grad_norm])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)


def test_moving_world_and_cameras_together_changes_nothing():
    scene = cloud(60)
    moved_by = torch.eye(4)
    moved_by[:3, :3] = reference.quats_to_matrices(torch.tensor([0.8, 0.1, -0.5, 0.3]))
    moved_by[:3, 3] = torch.tensor([0.3, -2.0, 1.0])
    rotation = torch.nn.functional.normalize(torch.tensor([0.8, 0.1, -0.5, 0.3]), dim=0)
    moved = replace(
        scene,
        means=scene.means @ moved_by[:3, :3].T + moved_by[:3, 3],
        quats=reference.quat_multiply(rotation.expand(60, 4), scene.quats),
        viewmats=scene.viewmats @ torch.linalg.inv(moved_by),
        sh=torch.cat([scene.sh[:, :1], torch.zeros_like(scene.sh[:, 1:])], 1),
    )
    still = replace(scene, sh=moved.sh)
    a, b = (ops.splat(*s.tensors, WIDTH, HEIGHT).color for s in (still, moved))
    assert (a - b).abs().quantile(0.99) < 1e-4


def test_order_of_the_gaussians_does_not_matter():
    scene = cloud(200)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(3))
    shuffled = replace(scene, **{k: getattr(scene, k)[order] for k in ("means", "quats", "scales", "opacities", "sh")})
    a, b = (ops.splat(*s.tensors, WIDTH, HEIGHT) for s in (scene, shuffled))
    assert torch.equal(a.color, b.color)
    assert torch.equal(a.radii[:, order], b.radii)


def test_alpha_stays_in_its_range():
    scene = cloud(500)
    out = ops.splat(*scene.tensors, WIDTH, HEIGHT)
    assert 0 <= out.alpha.min() and out.alpha.max() <= 1 and out.depth.min() >= 0


@pytest.mark.parametrize("antialiased", [False, True])
def test_gradients_to_the_cameras_match_the_reference(antialiased):
    scene = cloud(120)
    results = []
    for dtype in (torch.float32, torch.float64):
        s = scene.to(dtype)
        leaves = [t.clone().requires_grad_() for t in s.tensors]
        statistics = ops.SplatStatistics(*(torch.zeros(120, dtype=dtype) for _ in range(4)))
        out = ops.splat(*leaves, WIDTH, HEIGHT, antialiased=antialiased, statistics=statistics)
        upstream = torch.rand(out.color.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
        ((out.color * upstream).sum() + out.depth.sum()).backward()
        projected = ops.project(*leaves, WIDTH, HEIGHT, antialiased=antialiased)
        leaves += torch.autograd.grad(projected.means2d.sum() + projected.conics.sum(), leaves[5:])
        results.append([out.color, statistics.grad_norm, statistics.contributions, *(t.grad for t in leaves[:7]), *leaves[7:]])
    for a, b in zip(*results, strict=True):
        assert relative(a, b) < 1e-4
    still = ops.splat(*scene.tensors, WIDTH, HEIGHT, antialiased=antialiased)
    assert (still.color - results[0][0]).abs().max() < 1e-5
    with torch.no_grad():
        moving = [t.clone().requires_grad_() for t in scene.tensors]
        assert torch.equal(ops.splat(*moving, WIDTH, HEIGHT, antialiased=antialiased).color, still.color)


def test_cameras_by_finite_differences():
    scene = cloud(4, 4).to(torch.float64)
    scene = replace(scene, scales=scene.scales.clamp_min(0.08), means=0.3 * scene.means)

    def render(viewmats: Tensor, Ks: Tensor) -> Tensor:
        out = ops.splat(*scene.tensors[:5], viewmats, Ks, 6, 4)
        return torch.cat([out.color.flatten(), out.alpha.flatten(), out.depth.flatten()])

    Ks = scene.Ks * torch.tensor([[0.1], [0.1], [1.0]]).double()
    leaves = [scene.viewmats.clone().requires_grad_(), Ks.requires_grad_()]
    assert torch.autograd.gradcheck(render, leaves, eps=1e-7, atol=1e-4, rtol=1e-3, fast_mode=True)


def test_reference_gradients_by_finite_differences():
    scene = cloud(3, 4).to(torch.float64)
    scene = replace(scene, viewmats=scene.viewmats[:1], Ks=scene.Ks[:1] * torch.tensor([[0.1], [0.1], [1.0]]).double())
    scene = replace(scene, scales=scene.scales.clamp_min(0.08), means=0.3 * scene.means)

    def render(*leaves: Tensor) -> Tensor:
        projected = reference.project(*leaves, *scene.tensors[5:], 6, 4)
        return torch.cat([t.flatten() for t in reference.rasterize(*projected, 6, 4)[:3]])

    leaves = [t.clone().requires_grad_() for t in scene.tensors[:5]]
    assert torch.autograd.gradcheck(render, leaves, eps=1e-7, atol=1e-4, rtol=1e-3, fast_mode=True)


POISON = {
    "nan mean": ("means", math.nan),
    "infinite mean": ("means", math.inf),
    "nan quaternion": ("quats", math.nan),
    "zero quaternion": ("quats", 0.0),
    "nan scale": ("scales", math.nan),
    "tiny scale": ("scales", 1e-8),
    "huge scale": ("scales", 1e3),
    "infinite scale": ("scales", math.inf),
    "nan opacity": ("opacities", math.nan),
    "zero opacity": ("opacities", 0.0),
    "negative opacity": ("opacities", -1.0),
    "nan colour": ("sh", math.nan),
    "behind the camera": ("means", -5.0),
    "far away": ("means", 1e30),
}


@pytest.mark.parametrize("case", POISON)
def test_poison_spoils_nothing_else(case):
    """A poisoned third of the Gaussians leaves a finite image and finite gradients for the others."""
    field, value = POISON[case]
    scene = cloud(90)
    tensor = getattr(scene, field).clone()
    tensor[::3] = value
    poisoned = replace(scene, **{field: tensor})
    out, gradients, _ = run(poisoned)
    for image in (out.color, out.alpha, out.depth, out.statistics.grad_norm):
        assert image.isfinite().all()
    for name, gradient in gradients.items():
        assert gradient.isfinite().all(), name
    if not (math.isfinite(value) and value > 0):
        kept = [i for i in range(90) if i % 3]
        alone = replace(scene, **{k: getattr(scene, k)[kept] for k in ("means", "quats", "scales", "opacities", "sh")})
        assert torch.equal(out.color, run(alone)[0].color)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n, cameras, width, height", [(0, 1, 5, 4), (0, 2, 1, 1), (7, 0, 5, 4), (7, 1, 1, 1), (7, 1, 4095, 3)])
@pytest.mark.parametrize("moving", [False, True])
def test_nothing_and_extremes_have_clean_images_and_gradients(dtype, n, cameras, width, height, moving):
    scene = cloud(n).to(dtype)
    for apart in (False, True):
        leaves = [t.clone().requires_grad_() for t in (*scene.tensors[:5], scene.viewmats[:cameras], scene.Ks[:cameras])]
        cams = leaves[5:] if moving else [t.detach() for t in leaves[5:]]
        if apart:
            out = ops.rasterize(ops.project(*leaves[:5], *cams, width, height), width, height)
        else:
            out = ops.splat(*leaves[:5], *cams, width, height)
        assert out.color.shape == (cameras, height, width, 3) and out.color.isfinite().all()
        (out.color.sum() + out.depth.sum()).backward()
        assert all(t.grad is not None and t.grad.isfinite().all() for t in leaves[: 7 if moving else 5])


def test_no_gaussians_say_nothing_about_cameras(monkeypatch: pytest.MonkeyPatch):
    scene = cloud(0)
    empty = torch.empty_like  # whatever lies in the memory that gradients are written to

    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: empty(*a, **k).fill_(float("nan")))
    cameras = [t.clone().requires_grad_() for t in (scene.viewmats, scene.Ks)]
    ops.splat(*scene.tensors[:5], *cameras, WIDTH, HEIGHT).color.sum().backward()
    projected = ops.project(*scene.tensors[:5], *cameras, WIDTH, HEIGHT)
    (ops.rasterize(projected, WIDTH, HEIGHT).color.sum() + projected.depths.sum()).backward()
    assert all(torch.equal(t.grad, torch.zeros_like(t)) for t in cameras)


def test_straddling_the_near_plane():
    scene = cloud(100)
    viewmats = scene.viewmats.clone()
    viewmats[:, 2, 3] = 0.0  # the camera stands inside the cloud
    out, gradients, _ = run(replace(scene, viewmats=viewmats))
    assert out.color.isfinite().all() and all(g.isfinite().all() for g in gradients.values())


@pytest.mark.parametrize("width, height", [(1, 1), (4095, 3), (3, 700), (17, 16)])
def test_odd_image_sizes(width, height):
    scene = cloud(50)
    Ks = scene.Ks.clone()
    Ks[:, 0] *= width / WIDTH
    Ks[:, 1] *= height / HEIGHT
    scene = replace(scene, Ks=Ks[:1], viewmats=scene.viewmats[:1], width=width, height=height)
    out, gradients, _ = run(scene)
    assert out.color.shape == (1, height, width, 3) and out.color.isfinite().all()
    exact = ops.splat(*scene.to(torch.float64).tensors, width, height, backgrounds=torch.tensor([[0.1, 0.5, 0.9]]).double())
    assert (out.color.detach() - exact.color).abs().quantile(0.99) < 2e-5


def test_wrong_shapes_are_named():
    s = cloud(5)
    with pytest.raises(ValueError, match=r"quats must be \[5, 4\], got \[4, 4\]"):
        ops.splat(s.means, s.quats[:4], *s.tensors[2:], 8, 8)
    with pytest.raises(ValueError, match="sh must be torch.float32 like means, got torch.float64"):
        ops.splat(*s.tensors[:4], s.sh.double(), *s.tensors[5:], 8, 8)
    with pytest.raises(ValueError, match="width 0"):
        ops.splat(*s.tensors, 0, 8)
    with pytest.raises(ValueError, match="sh_degree"):
        ops.splat(*s.tensors, 8, 8, sh_degree=4)
    with pytest.raises(ValueError, match="near"):
        ops.splat(*s.tensors, 8, 8, near=0.0)
