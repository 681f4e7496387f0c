"""The operators as torch.library operators with fake and autograd registrations, for torch.compile.

Eager code does not come here: a Function around the raw call costs a fifth of a library operator. Under the compiler an operator is
opaque, its shapes come from the fakes, and its backward is a second operator that runs the forward pass again (workspaces that depend
on the data cannot pass through a traced graph). Both halves run the eager path of `cuda_ext.ops`, so the results are the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from cuda_ext import adam, hash_grid, ops
from cuda_ext.ops.gaussians import numbered_statistics

_SCENE = "Tensor means, Tensor quats, Tensor scales, Tensor opacities, Tensor sh, Tensor viewmats, Tensor Ks"


def _define(
    name: str, schema: str, eager: Callable[..., Sequence[Tensor]], fake: Callable[..., Sequence[Tensor]], differentiable: Sequence[int]
) -> None:
    """Register avatars::name and avatars::name_backward; `differentiable` are the positions of tensors with gradients."""

    def forward(*args) -> list[Tensor]:
        with torch.no_grad():
            return [t.contiguous() for t in eager(*args)]

    def backward(upstream: list[Tensor], wanted: list[int], *args) -> list[Tensor]:
        values = [a.detach() if isinstance(a, Tensor) else a for a in args]
        leaves = []
        for i in wanted:
            values[i] = values[i].clone().requires_grad_()
            leaves.append(values[i])
        with torch.enable_grad():
            outputs = eager(*values)
            pairs = [(o, v) for o, v in zip(outputs, upstream, strict=True) if o.requires_grad]
            gradients = torch.autograd.grad([o for o, _ in pairs], leaves, [v for _, v in pairs], allow_unused=True)
        return [torch.zeros_like(t) if g is None else g.contiguous() for g, t in zip(gradients, leaves, strict=True)]

    torch.library.define(f"avatars::{name}", f"({schema}) -> Tensor[]")
    torch.library.impl(f"avatars::{name}", "CompositeExplicitAutograd", forward)
    torch.library.register_fake(f"avatars::{name}", lambda *args: list(fake(*args)))
    if not differentiable:
        return
    torch.library.define(f"avatars::{name}_backward", f"(Tensor[] upstream, int[] wanted, {schema}) -> Tensor[]")
    torch.library.impl(f"avatars::{name}_backward", "CompositeExplicitAutograd", backward)
    torch.library.register_fake(f"avatars::{name}_backward", lambda upstream, wanted, *args: [torch.empty_like(args[i]) for i in wanted])

    def setup_context(ctx, inputs, output) -> None:
        ctx.shapes = [tuple(o.shape) for o in output]
        ctx.save_for_backward(*[i for i in inputs if isinstance(i, Tensor)])
        ctx.others = [None if isinstance(i, Tensor) else (i,) for i in inputs]

    def differentiate(ctx, v_outputs):
        tensors = iter(ctx.saved_tensors)
        args = [next(tensors) if other is None else other[0] for other in ctx.others]
        upstream = [args[0].new_zeros(s) if v is None else v for v, s in zip(v_outputs, ctx.shapes, strict=True)]
        wanted = [i for i in differentiable if ctx.needs_input_grad[i]]
        gradients = getattr(torch.ops.avatars, f"{name}_backward")(upstream, wanted, *args)
        found = dict(zip(wanted, gradients, strict=True))
        return tuple(found.get(i) for i in range(len(args)))

    torch.library.register_autograd(f"avatars::{name}", differentiate, setup_context=setup_context)


def _splat(*args) -> list[Tensor]:
    names = ("near", "eps2d", "antialiased", "sh_degree", "log_scales", "logit_opacities")
    scene, backgrounds, size, options = args[:7], args[7], args[8:10], dict(zip(names, args[10:16], strict=True))
    statistics = numbered_statistics(args[16])
    # With gradients this is the forward pass again, of the backward half: its contributions have been counted.
    if statistics is not None and torch.is_grad_enabled():
        statistics = replace(statistics, contributions=None)
    out = ops.splat(*scene, *size, backgrounds=backgrounds, statistics=statistics, **options)
    assert out.depth is not None
    return [out.color, out.alpha, out.depth, out.radii]


def _splat_fake(means, quats, scales, opacities, sh, viewmats, Ks, backgrounds, width, height, *_) -> list[Tensor]:
    N, C = means.shape[0], viewmats.shape[0]
    images = [means.new_empty(C, height, width, channels) for channels in (3, 1, 1)]
    return [*images, means.new_empty(C, N, 2, dtype=torch.int32)]


def _project(*args) -> list[Tensor]:
    out = ops.project(*args[:9], **dict(zip(("near", "eps2d", "antialiased", "sh_degree"), args[9:], strict=True)))
    return [out.means2d, out.conics, out.depths, out.colors, out.opacities, out.radii]


def _project_fake(means, quats, scales, opacities, sh, viewmats, *_) -> list[Tensor]:
    N, C = means.shape[0], viewmats.shape[0]
    floats = [means.new_empty(shape) for shape in ((C, N, 2), (C, N, 3), (C, N), (C, N, 3), (C, N))]
    return [*floats, means.new_empty(C, N, 2, dtype=torch.int32)]


def _rasterize(*args) -> list[Tensor]:
    *projected, backgrounds, width, height = args
    out = ops.rasterize(ops.Projected(*projected), width, height, backgrounds)
    return [out.color, out.alpha, out.depth, out.contributions]


def _rasterize_fake(means2d, conics, depths, colors, opacities, radii, backgrounds, width, height) -> list[Tensor]:
    C, N = depths.shape
    return [*(means2d.new_empty(C, height, width, channels) for channels in (3, 1, 1)), means2d.new_empty(N)]


def _compose(images, matrices, backgrounds, windows, Ks, halve) -> list[Tensor]:
    return [t for t in ops.compose(images, matrices, backgrounds, windows=windows, Ks=Ks, halve=halve) if t is not None]


def _compose_fake(images, matrices, backgrounds, windows, Ks, halve) -> list[Tensor]:
    C, height, width, side = *images.shape[:3], 2 if halve else 1
    size = (C, height // side, width // side)
    return [matrices.new_empty(*size, 3), *(matrices.new_empty(size) for _ in range(1 if windows is None else 2))]


def _penalty(means, log_scales, logit_opacities, reach, position_weight, scale_weight, opacity_weight, max_scale) -> list[Tensor]:
    weights = {"position_weight": position_weight, "scale_weight": scale_weight, "opacity_weight": opacity_weight}
    return [ops.penalty(means, log_scales, logit_opacities, reach, **weights, max_scale=max_scale)]


def _carry(*args) -> list[Tensor]:
    *tensors, logit_opacities, reach, weights = args
    penalties = None if weights is None else ops.Penalties(*weights)
    return list(ops.carry(*tensors, penalties=penalties, logit_opacities=logit_opacities, reach=reach))


def _rasterize_mesh_fake(vertices, faces, Ks, width, height, *_) -> list[Tensor]:
    C = vertices.shape[0]
    ids = vertices.new_empty(C, height, width, dtype=torch.int32)
    return [ids, vertices.new_empty(C, height, width, 3), vertices.new_empty(C, height, width)]


def _march(*args) -> list[Tensor]:
    s = ops.march(*args[:4], **dict(zip(("step", "far", "near", "cone", "jitter", "capacity"), args[4:], strict=True)))
    assert s.needed is not None
    return [s.offsets, s.ray_ids, s.starts, s.ends, s.needed]


def _march_fake(origins, directions, occupancy, box, step, far, near, cone, jitter, capacity) -> list[Tensor]:
    integers = [origins.new_empty(shape, dtype=torch.int64) for shape in ((len(origins) + 1,), (capacity,), ())]
    return [*integers[:2], origins.new_empty(capacity), origins.new_empty(capacity), integers[2]]


def _composite(densities, colors, starts, ends, offsets, backgrounds, stop) -> list[Tensor]:
    samples = ops.Samples(offsets, torch.empty(0), starts, ends)  # a composite does not look at the ids
    out = ops.composite(samples, densities, colors, backgrounds=backgrounds, stop=stop)
    return [out.color, out.alpha, out.depth, out.weights]


def _composite_fake(densities, colors, starts, ends, offsets, *_) -> list[Tensor]:
    R = offsets.shape[0] - 1
    return [densities.new_empty(R, colors.shape[1]), densities.new_empty(R), densities.new_empty(R), torch.empty_like(densities)]


def _hash_encode(positions, table, scales, resolutions, offsets) -> list[Tensor]:
    grid = hash_grid.HashGrid(tuple(scales), tuple(resolutions), tuple(offsets), table.shape[1])
    return [hash_grid.hash_encode(grid, positions, table)]


def _hash_encode_blended(positions, tables, weights, scales, resolutions, offsets) -> list[Tensor]:
    grid = hash_grid.HashGrid(tuple(scales), tuple(resolutions), tuple(offsets), tables.shape[2])
    return [hash_grid.hash_encode_blended(grid, positions, tables, weights)]


def _skin(
    rest, joints, shapes, turns, skin_weights, pose_shapes, expression, angles, rotation, translation, parents, scale
) -> list[Tensor]:
    rig = ops.Rig(rest, joints, shapes, turns, skin_weights, tuple(parents), scale, pose_shapes)
    return [ops.skin(rig, expression, angles, rotation, translation)]


_define(
    "splat",
    f"{_SCENE}, Tensor? backgrounds, int width, int height, float near, float eps2d, bool antialiased, int? sh_degree, bool log_scales, "
    "bool logit_opacities, int statistics",
    _splat,
    _splat_fake,
    (0, 1, 2, 3, 4, 5, 6, 7),
)
_define(
    "project",
    f"{_SCENE}, int width, int height, float near, float eps2d, bool antialiased, int? sh_degree",
    _project,
    _project_fake,
    (0, 1, 2, 3, 4, 5, 6),
)
_define(
    "rasterize",
    "Tensor means2d, Tensor conics, Tensor depths, Tensor colors, Tensor opacities, Tensor radii, Tensor? backgrounds, int width, int height",
    _rasterize,
    _rasterize_fake,
    (0, 1, 2, 3, 4, 6),
)
_define(
    "bind",
    "Tensor vertices, Tensor faces, Tensor face_ids, Tensor local_means, Tensor local_quats, Tensor local_scales, bool log_scales",
    lambda *args: list(ops.bind(*args[:6], log_scales=args[6])),
    lambda vertices, faces, face_ids, means, quats, scales, log: [torch.empty_like(t) for t in (means, quats, scales)],
    (0, 3, 4, 5),
)
_define(
    "blend",
    "Tensor basis, Tensor weights, Tensor means, Tensor quats, Tensor sh, bool with_size",
    lambda *args: list(ops.blend(*args[:5], with_size=args[5])),
    lambda basis, weights, means, quats, sh, size: [
        *(torch.empty_like(t) for t in (means, quats, sh)),
        *([means.new_empty(())] if size else []),
    ],
    (0, 1, 2, 3, 4),
)
_define(
    "carry",
    "Tensor vertices, Tensor faces, Tensor face_ids, Tensor basis, Tensor weights, Tensor means, Tensor quats, Tensor log_scales, Tensor sh, "
    "Tensor? logit_opacities, Tensor? reach, float[]? penalties",
    _carry,
    lambda *args: [*(torch.empty_like(t) for t in args[5:9]), *([] if args[11] is None else [args[0].new_empty(())])],
    (0, 3, 4, 5, 6, 7, 8, 9),
)
_define(
    "penalty",
    "Tensor means, Tensor log_scales, Tensor logit_opacities, Tensor reach, float position_weight, float scale_weight, "
    "float opacity_weight, float max_scale",
    _penalty,
    lambda means, *_: [means.new_empty(())],
    (0, 1, 2),
)
_define(
    "l1_ssim",
    "Tensor a, Tensor b, Tensor? weights, float ssim_weight, bool valid",
    lambda a, b, weights, ssim_weight, valid: [ops.l1_ssim(a, b, ssim_weight=ssim_weight, weights=weights, valid=valid)],
    lambda a, *_: [a.new_empty(a.shape[0])],
    (0,),
)
_define(
    "ssim",
    "Tensor a, Tensor b, Tensor? weights, bool valid",
    lambda a, b, weights, valid: [ops.ssim(a, b, weights=weights, valid=valid)],
    lambda a, *_: [a.new_empty(a.shape[0])],
    (0,),
)
_define(
    "rasterize_mesh",
    "Tensor vertices, Tensor faces, Tensor Ks, int width, int height, float near, bool cull_back",
    lambda *args: list(ops.rasterize_mesh(*args[:5], near=args[5], cull_back=args[6])),
    _rasterize_mesh_fake,
    (0, 2),
)
_define(
    "interpolate",
    "Tensor attributes, Tensor faces, Tensor face_ids, Tensor barycentrics",
    lambda *args: [ops.interpolate(*args)],
    lambda attributes, faces, face_ids, _: [attributes.new_empty(*face_ids.shape, attributes.shape[-1])],
    (0, 3),
)
_define(
    "antialias",
    "Tensor image, Tensor depth, Tensor vertices, Tensor edges, Tensor Ks, float near, bool cull_back",
    lambda *args: [ops.antialias(*args[:5], near=args[5], cull_back=args[6])],
    lambda image, *_: [torch.empty_like(image)],
    (0, 2, 4),
)
_define(
    "hash_encode",
    "Tensor positions, Tensor table, float[] scales, int[] resolutions, int[] offsets",
    _hash_encode,
    lambda positions, table, scales, *_: [table.new_empty(positions.shape[0], len(scales) * table.shape[1])],
    (0, 1),
)
_define(
    "hash_encode_blended",
    "Tensor positions, Tensor tables, Tensor weights, float[] scales, int[] resolutions, int[] offsets",
    _hash_encode_blended,
    lambda positions, tables, weights, scales, *_: [tables.new_empty(positions.shape[0], len(scales) * tables.shape[2])],
    (0, 1, 2),
)
_define(
    "blend_tables",
    "Tensor tables, Tensor weights",
    lambda *args: [hash_grid.blend_tables(*args)],
    lambda tables, _: [tables.new_empty(tables.shape[0], tables.shape[2])],
    (0, 1),
)
_define(
    "compose",
    "Tensor images, Tensor matrices, Tensor backgrounds, Tensor? windows, Tensor? Ks, bool halve",
    _compose,
    _compose_fake,
    (),
)
_define(
    "picture_loss",
    "Tensor color, Tensor alpha, Tensor target, Tensor mattes, Tensor? weights, float ssim_weight, float matte_weight",
    lambda *args: [ops.picture_loss(*args[:4], weights=args[4], ssim_weight=args[5], matte_weight=args[6])],
    lambda color, *_: [color.new_empty(())],
    (0, 1),
)
_define(
    "skin",
    "Tensor rest, Tensor joints, Tensor shapes, Tensor turns, Tensor skin_weights, Tensor? pose_shapes, Tensor expression, Tensor angles, "
    "Tensor rotation, Tensor translation, int[] parents, float scale",
    _skin,
    lambda rest, *others: [rest.new_empty(others[5].shape[0], *rest.shape)],
    (6, 7, 8, 9),
)
_define(
    "march",
    "Tensor origins, Tensor directions, Tensor occupancy, float[] box, float step, float far, float near, float cone, Tensor? jitter, int capacity",
    _march,
    _march_fake,
    (),
)
_define(
    "composite",
    "Tensor densities, Tensor colors, Tensor starts, Tensor ends, Tensor offsets, Tensor? backgrounds, float stop",
    _composite,
    _composite_fake,
    (0, 1, 2, 3, 5),
)

# The optimiser is named by a number, so that rates and the step count are read when the graph runs, not when it is traced.
torch.library.define(
    "avatars::adam", "(int optimizer, str[] names, Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] m, Tensor(c!)[] v, Tensor? rows) -> ()"
)
torch.library.impl("avatars::adam", "CompositeExplicitAutograd", adam.step_of)
torch.library.register_fake("avatars::adam", lambda *_: None)
