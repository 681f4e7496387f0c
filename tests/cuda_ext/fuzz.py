"""Hostile inputs for every CPU operator; `python tests/cuda_ext/fuzz.py` under a sanitized library, see test_sanitizers.py.

Nothing is compared here: what counts is that no access is out of bounds, nothing undefined happens, and images are finite.
"""

from __future__ import annotations

import random
import sys

import torch

from cuda_ext import hash_grid, ops

VALUES = (float("nan"), float("inf"), -float("inf"), 0.0, -1.0, 1e-8, 1e-38, 1e3, 1e30, 3e38)


def poisoned(tensor: torch.Tensor, dice: random.Random) -> torch.Tensor:
    """A few entries replaced by the worst floats."""
    flat = tensor.clone().flatten()
    for _ in range(dice.randint(0, 1 + flat.numel() // 20) if flat.numel() else 0):
        flat[dice.randrange(flat.numel())] = dice.choice(VALUES)
    return flat.reshape(tensor.shape)


def splat_once(dice: random.Random) -> None:
    """Any number of Gaussians, any image, any scale."""
    n, cameras, bases = dice.choice((0, 1, 15, 16, 17, 200)), dice.choice((1, 2)), dice.choice((1, 4, 9, 16))
    width, height = dice.choice(((1, 1), (16, 16), (17, 33), (4095, 3), (3, 300), (64, 48)))
    spread = 10 ** dice.uniform(-2, 1)
    leaves = [
        spread * torch.randn(n, 3), torch.randn(n, 4), torch.exp(torch.randn(n, 3) * dice.uniform(0, 6) - 4), torch.rand(n),
        torch.randn(n, bases, 3),
    ]  # fmt: skip
    leaves = [poisoned(t, dice).requires_grad_() for t in leaves]
    viewmats = torch.eye(4).repeat(cameras, 1, 1)
    viewmats[:, 2, 3] = dice.uniform(-0.5, 2)
    f = 10 ** dice.uniform(-1, 1) * max(width, height)
    Ks = torch.tensor([[f, dice.uniform(-5, 5), dice.uniform(-1, 2) * width], [0, f, height / 2], [0, 0, 1]]).repeat(cameras, 1, 1)
    flags = {k: dice.random() < 0.5 for k in ("antialiased", "log_scales", "logit_opacities", "depth")}
    statistics = ops.SplatStatistics.zeros(n, contributions=dice.random() < 0.5) if dice.random() < 0.5 else None
    out = ops.splat(*leaves, viewmats, Ks, width, height, statistics=statistics, **flags)
    assert out.color.isfinite().all() and out.alpha.isfinite().all()
    (out.color.sum() + out.alpha.square().sum()).backward()
    projected = ops.project(*(t.detach() for t in leaves), viewmats, Ks, width, height)
    rogue = [poisoned(t, dice) for t in (projected.means2d, projected.conics, projected.depths, projected.colors, projected.opacities)]
    rogue = [t.requires_grad_() for t in rogue]
    image = ops.rasterize(ops.Projected(*rogue, radii=projected.radii), width, height)
    image.color.sum().backward()


def others_once(dice: random.Random) -> None:
    """bind, l1_ssim, Adam, blend, carry, penalty, meshes."""
    V, F, n = dice.choice((3, 50)), dice.choice((1, 15, 100)), dice.choice((0, 1, 33, 500))
    vertices, faces = poisoned(torch.randn(V, 3), dice), torch.randint(V, (F, 3))
    local = [poisoned(torch.randn(n, k), dice).requires_grad_() for k in (3, 4, 3)]
    bound = ops.bind(vertices.requires_grad_(), faces, torch.randint(F, (n,)), *local, log_scales=dice.random() < 0.5)
    sum(t.sum() for t in bound).backward()
    height, width = dice.choice(((1, 1), (5, 200), (12, 11), (40, 33)))
    a = poisoned(torch.rand(2, height, width, 3), dice).requires_grad_()
    weights = torch.rand(2, height, width) if dice.random() < 0.5 else None
    ops.l1_ssim(a, torch.rand(2, height, width, 3), weights=weights, valid=min(height, width) > 10).sum().backward()
    alpha = poisoned(torch.rand(2, height, width, 1), dice).requires_grad_(dice.random() < 0.7)
    ops.picture_loss(a, alpha, torch.rand(2, height, width, 3), torch.rand(2, height, width), weights=weights, matte_weight=0.1).backward()
    K = dice.choice((1, 5, 16, 20, 64))
    basis = torch.randn(n, 10, K).requires_grad_()
    factored = ["basis"] if K <= 20 else []
    optimizer = (
        ops.Adam({"basis": basis}, {"basis": 1e-3}, heads={"basis": 3 * K}, tails={"basis": 1e-4}, factored=factored) if K <= 20 else None
    )
    blended = ops.blend(basis, torch.randn(K).requires_grad_(), torch.randn(n, 3), torch.randn(n, 4), torch.randn(n, 4, 3))
    sum(t.sum() for t in blended).backward()
    if optimizer is not None:
        optimizer.step()
        if n:
            optimizer.zero_grad()
            basis.grad = poisoned(torch.randn(n, 10, K), dice)
            optimizer.step(torch.unique(torch.randint(n, (5,))))
    carry_once(vertices.detach(), faces, n, dice)
    raw = [poisoned(torch.randn(n, 3), dice), poisoned(torch.randn(n, 3), dice), poisoned(torch.randn(n), dice)]
    if n:
        penalty = {"position_weight": 1.0, "scale_weight": 1.0, "opacity_weight": 1.0, "max_scale": 0.5}
        ops.penalty(*(t.requires_grad_() for t in raw), torch.ones(n), **penalty).backward()
    posed = poisoned(torch.randn(2, V, 3), dice)
    Ks = torch.tensor([[30.0, 0, 16], [0, 30.0, 16], [0, 0, 1]]).repeat(2, 1, 1)
    cull = dice.random() < 0.5
    ids, barycentrics, depth = ops.rasterize_mesh(posed.requires_grad_(), faces, Ks, width, height, cull_back=cull)
    assert depth.isfinite().all()
    painted = ops.interpolate(posed.detach() if dice.random() < 0.5 else torch.rand(V, 5), faces, ids, barycentrics)
    smooth = ops.antialias(painted, depth.detach(), posed, ops.mesh_edges(faces), Ks, cull_back=cull)
    (smooth.sum() + depth.sum()).backward()


def carry_once(vertices: torch.Tensor, faces: torch.Tensor, n: int, dice: random.Random) -> None:
    """carry, and the basis moving within its backward pass."""
    K, bases = dice.choice((1, 7, 12, 20, 64)), dice.choice((1, 4, 9, 16))
    local = [poisoned(torch.randn(n, *s), dice).requires_grad_() for s in ((3,), (4,), (3,), (bases, 3), ())]
    basis, weights = poisoned(torch.randn(n, 10, K), dice).requires_grad_(), torch.randn(K).requires_grad_()
    penalties = ops.Penalties(1.0, 1.0, 1.0, 0.5, 1.0) if dice.random() < 0.5 else None
    options = {} if penalties is None else {"logit_opacities": local[4], "reach": torch.ones(n)}
    mesh = vertices.requires_grad_(dice.random() < 0.5), faces, torch.randint(len(faces), (n,))
    out = ops.carry(*mesh, basis, weights, *local[:4], penalties=penalties, **options)
    optimizer = ops.Adam(
        {"basis": basis}, {"basis": 1e-3}, heads={"basis": 3 * K}, tails={"basis": 1e-4}, factored=("basis",) if dice.random() < 0.7 else (),
        halves=("basis",) if dice.random() < 0.5 else (),
    )  # fmt: skip
    optimizer.descend(sum(t.sum() for t in out))


def skin_once(dice: random.Random) -> None:
    """Any number of vertices, shapes, joints and poses."""
    V, E, J, B = dice.choice((0, 1, 31, 32, 33, 200)), dice.choice((0, 1, 20)), dice.choice((1, 2, 5, 64)), dice.choice((1, 2, 5))
    shapes = torch.randn(E, V, 3) * (torch.rand(E, V, 1) > 0.7)
    parents = tuple(dice.randrange(-1, j) if j else -1 for j in range(J))
    weights, pose_shapes = torch.rand(V, J + 1), torch.randn(9 * J, V, 3) if dice.random() < 0.3 else None
    rest, shapes = poisoned(torch.randn(V, 3), dice), poisoned(shapes, dice)
    rig = ops.Rig(rest, torch.randn(J, 3), shapes, torch.randn(E, J, 3), weights, parents, 1.0, pose_shapes)
    pose = [poisoned(torch.randn(*s), dice).requires_grad_() for s in ((B, E), (B, J, 3), (B, 3), (B, 3))]
    ops.skin(rig, *pose).sum().backward()


def pictures_once(dice: random.Random) -> None:
    """Any picture, any window."""
    height, width = dice.choice(((1, 1), (5, 200), (12, 11), (40, 1033)))
    images = torch.randint(0, 256, (2, height, width, 4), dtype=torch.uint8)
    windows, Ks = torch.rand(2, dice.choice((0, 1, 3)), 5) * torch.tensor([width, height, width, height, 2.0]), torch.eye(3).repeat(2, 1, 1)
    windows, halve = poisoned(windows, dice).clamp(max=1e9), min(height, width) > 1 and dice.random() < 0.5
    matrices, backgrounds = poisoned(torch.randn(2, 3, 4), dice), poisoned(torch.rand(2, 3), dice)
    weights = ops.compose(images, matrices, backgrounds, windows=windows, Ks=Ks, halve=halve)[2]
    assert weights is not None and weights.isfinite().all()


def volumes_once(dice: random.Random) -> None:
    """march and composite."""
    n, levels = dice.choice((0, 1, 63, 64, 65, 300)), dice.choice((1, 2, 4))
    cells = [4 * dice.randint(1, 4) if levels > 1 else dice.randint(1, 9) for _ in range(3)]
    low = [dice.uniform(-2, 1) for _ in range(3)]
    box = [*low, *(x + 10 ** dice.uniform(-3, 1) for x in low)]
    origins, directions = (poisoned(torch.randn(n, 3), dice) for _ in range(2))
    jitter = poisoned(torch.rand(n), dice) if dice.random() < 0.5 else None
    near, far = dice.uniform(-1, 1), dice.uniform(1, 5)
    samples = ops.march(
        origins, directions, torch.rand(levels, *cells) < dice.random(), box, near=near, far=far, step=10 ** dice.uniform(-2.5, 0),
        jitter=jitter, capacity=dice.choice((None, 0, 100, 10000)),
    )  # fmt: skip
    assert samples.starts.isfinite().all() and (samples.offsets.diff() >= 0).all()
    S, D = len(samples.starts), dice.choice((1, 3, 4, 16))
    starts, ends = (poisoned(t, dice).requires_grad_() for t in (samples.starts, samples.ends))
    densities, colors = poisoned(torch.randn(S) * 10, dice).requires_grad_(), poisoned(torch.randn(S, D), dice).requires_grad_()
    given = ops.Samples(samples.offsets, samples.ray_ids, starts, ends)
    out = ops.composite(given, densities, colors, backgrounds=torch.rand(n, D), stop=dice.choice((0.0, 1e-3, 0.5, 1.0)))
    (out.color.sum() + out.alpha.sum() + out.weights.sum()).backward()
    assert out.alpha.isfinite().all() and out.weights.isfinite().all() and densities.grad is not None


def hash_once(dice: random.Random) -> None:
    """Hash grids and ensembles, also ones whose numbers do not belong together."""
    levels, features, heads = dice.randint(1, 4), dice.choice((1, 2, 4, 8)), dice.choice((0, 1, 3, 8, 11))
    if dice.random() < 0.5:
        grid = hash_grid.HashGrid.build(levels, features, dice.randint(3, 12), dice.randint(1, 9), dice.uniform(1, 3))
    else:
        offsets = [0]
        for _ in range(levels):
            offsets.append(offsets[-1] + dice.choice((1, 2, 7, 8, 64, 100, 1000)))
        scales = tuple(dice.choice((0.0, 0.5, 3.2, 40.0, 1e6, 1e9)) for _ in range(levels))
        grid = hash_grid.HashGrid(scales, tuple(dice.choice((1, 2, 4, 41, 1 << 20)) for _ in range(levels)), tuple(offsets), features)
    n = dice.choice((0, 1, 15, 16, 17, 33, 300, 2050))
    shape = (grid.rows, heads, features) if heads else (grid.rows, features)
    positions, table, weights = (
        poisoned(t, dice).requires_grad_() for t in (torch.rand(n, 3), torch.randn(shape), torch.rand(n, max(heads, 1)))
    )
    out = hash_grid.hash_encode_blended(grid, positions, table, weights) if heads else hash_grid.hash_encode(grid, positions, table)
    out.backward(poisoned(torch.randn(out.shape), dice))
    assert table.grad is not None and positions.grad is not None
    if heads:
        one = hash_grid.blend_tables(table, poisoned(torch.rand(heads), dice).requires_grad_())
        one.backward(poisoned(torch.randn(one.shape), dice))


def main(rounds: int, seed: int) -> None:
    """`rounds` of each."""
    dice = random.Random(seed)
    for i in range(rounds):
        torch.manual_seed(seed + i)
        torch.set_num_threads(dice.choice((1, 2, 3)))
        splat_once(dice)
        others_once(dice)
        skin_once(dice)
        pictures_once(dice)
        volumes_once(dice)
        hash_once(dice)
    print(f"{rounds} rounds, {ops.available()['cpu']}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50, int(sys.argv[2]) if len(sys.argv) > 2 else 0)
