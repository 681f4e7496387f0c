"""torch.compile takes the operators into one graph and gives the eager results."""

from __future__ import annotations

import torch

from cuda_ext import ops
from cuda_ext.bench import head_like_mesh
from cuda_ext.bench_scenes import head_scene


def test_a_training_step_compiles_into_one_graph():
    scene = head_scene(200, 40, 32)
    vertices, faces = head_like_mesh(6, 8)
    face_ids = torch.arange(200) % len(faces)
    target, background = torch.rand(1, 32, 40, 3), torch.rand(1, 3)
    basis, weights = 0.01 * torch.randn(200, 10, 5), torch.randn(5)

    def step(means, quats, scales, opacities, sh, basis, weights):
        means, quats, sh = ops.blend(basis, weights, means, quats, sh)
        means, quats, scales = ops.bind(vertices, faces, face_ids, means, quats, scales)
        image = ops.splat(means, quats, scales, opacities, sh, scene.viewmats, scene.Ks, 40, 32, backgrounds=background)
        return ops.l1_ssim(image.color, target).sum() + image.depth.mean()

    results = []
    for function in (step, torch.compile(step, backend="aot_eager", fullgraph=True)):
        leaves = [t.clone().requires_grad_() for t in (*scene.tensors[:5], basis, weights)]
        loss = function(*leaves)
        loss.backward()
        results.append([loss.detach(), *(t.grad for t in leaves)])
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-8)


def test_fakes_agree_with_the_operators():
    scene = head_scene(50, 20, 16, cameras=2)
    options = (None, 20, 16, 0.01, 0.3, False, None, False, False)
    torch.library.opcheck(
        torch.ops.avatars.splat.default, (*scene.tensors, *options), test_utils=("test_schema", "test_faketensor", "test_autograd_registration")
    )
    a, b = torch.rand(2, 12, 13, 3), torch.rand(2, 12, 13, 3)
    torch.library.opcheck(torch.ops.avatars.l1_ssim.default, (a, b, None, 0.2, False), test_utils=("test_schema", "test_faketensor"))
