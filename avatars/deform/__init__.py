"""Deformation models: what the codes of a frame add to the canonical Gaussians before these follow their triangles.

A model is a module in this folder, found by its file name; `deformation = "<file name>"` in the configuration chooses it.
It defines

    create(settings, gaussians, code_size, generator) -> {name: tensor}   parameters to train; names that begin with
                                                        "each_" have one row per Gaussian and follow densification
    learning_rates(settings, rates) -> {name: Rate}     for every parameter that `create` makes
    apply(parameters, gaussians, code) -> CanonicalGaussians
    settle(parameters, codes) -> {name: tensor}         after training, with all trained codes [T, D]: what an avatar keeps

and may define, when its corrections are a weighted sum of a basis,

    blend(parameters, code) -> (basis [N, 10, K], weights [K])     such that `apply` is `ops.blend` of these: `carried` then corrects
                                                        and binds in one pass, and can penalise the size of the corrections
    FACTORED                                            names of the parameters that are such a basis and used nowhere else: their
                                                        gradient is then never written out

`rates` are the current learning rates of the canonical Gaussians ("means", "quats", "sh" …), for those that follow them.
A code is what `frame_code` makes of one frame; the neutral pose has code zero, and there `apply` must return the
canonical Gaussians unchanged.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, cast

import torch
from torch import Tensor

from avatars.errors import ConfigError
from avatars.gaussians import CanonicalGaussians
from avatars.train_config import DeformSettings
from avatars.types import HeadPose
from cuda_ext import ops

PER_GAUSSIAN = "each_"
ANGLE_SCALE = 3.0  # radians of a joint count as much as 1/3 of an expression's range


@dataclass(frozen=True)
class Rate:
    """Learning rate of a parameter; columns from `head` on (trailing dimensions flattened) move at `tail` instead."""

    lr: float
    head: int | None = None
    tail: float = 0.0


class Deformation(Protocol):
    """What a module of this folder offers."""

    def create(
        self, settings: DeformSettings, gaussians: CanonicalGaussians, code_size: int, generator: torch.Generator
    ) -> dict[str, Tensor]: ...

    def learning_rates(self, settings: DeformSettings, rates: Mapping[str, float]) -> dict[str, Rate]: ...

    def apply(self, parameters: dict[str, Tensor], gaussians: CanonicalGaussians, code: Tensor) -> CanonicalGaussians: ...

    def settle(self, parameters: dict[str, Tensor], codes: Tensor) -> dict[str, Tensor]: ...


def names() -> tuple[str, ...]:
    """The models that exist, by file name."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__)))


def find(name: str) -> Deformation:
    """The model called `name`; ConfigError lists the known ones."""
    if name not in names():
        raise ConfigError(f"deformation = {name!r} is unknown; known: {', '.join(names())}.")
    return cast(Deformation, importlib.import_module(f"{__name__}.{name}"))


def carried(
    model: Deformation | None,
    parameters: dict[str, Tensor],
    gaussians: CanonicalGaussians,
    code: Tensor,  # [D]
    vertices: Tensor,  # [V, 3]
    faces: Tensor,  # [F, 3]
    penalties: ops.Penalties | None = None,
    reach: Tensor | None = None,  # [N], with penalties
) -> tuple[Tensor, ...]:
    """Corrected Gaussians in the world: means [N,3], quats [N,4], scales [N,3], sh [N,S,3]; with `penalties` also their cost, a scalar.

    Without a model there are no corrections. Differentiable.
    """
    blend = getattr(model, "blend", None)
    if blend is not None:
        basis, weights = blend(parameters, code)
        g = gaussians
        return ops.carry(
            vertices, faces, g.face_ids, basis, weights, g.means, g.quats, g.log_scales, g.sh, penalties=penalties,
            logit_opacities=g.logit_opacities, reach=reach,
        )  # fmt: skip
    g = gaussians if model is None else model.apply(parameters, gaussians, code)
    world = ops.bind(vertices, faces, g.face_ids, g.means, g.quats, g.log_scales, log_scales=True)
    if penalties is None:
        return (*world, g.sh)
    assert reach is not None
    cost = ops.penalty(
        g.means, g.log_scales, g.logit_opacities, reach, position_weight=penalties.position, scale_weight=penalties.scale,
        opacity_weight=penalties.opacity, max_scale=penalties.max_scale,
    )  # fmt: skip
    return (*world, g.sh, cost)


def frame_code(pose: HeadPose) -> Tensor:
    """[D] code of one frame: expressions, joint angles and the root's rotation (shading changes with it). Zero when neutral."""
    if len(pose) != 1:
        raise ValueError(f"frame_code takes one frame, got {len(pose)}")
    E, J = pose.expression.shape[1], pose.joints.shape[1]
    # Views: what indexing would scatter into zeros on the way back is handed on.
    parts = (pose.expression.reshape(-1), pose.joints.reshape(-1), pose.rotation.reshape(-1))
    return torch.cat(parts) * _scales(E, J, pose.expression.dtype, pose.expression.device)


@lru_cache(maxsize=8)
def _scales(expressions: int, joints: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[D] what the elements of a code are multiplied by."""
    angles = torch.full((3 * joints + 3,), ANGLE_SCALE, dtype=dtype, device=device)
    return torch.cat([torch.ones(expressions, dtype=dtype, device=device), angles])


def code_size(expressions: int, joints: int) -> int:
    """Length of a code for a head of that many expressions and joints."""
    return expressions + 3 * joints + 3
