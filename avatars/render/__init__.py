"""Render Gaussians with one of several backends behind one function.

A backend is a module in this folder with `render(gaussians, cameras, backgrounds) -> Image`, differentiable in the Gaussians, and
`available(device) -> str | None` (None when it can run there, else the reason why not). All agree on the semantics
that `cuda_ext.ops` states. `mesh.py` draws meshes and is no backend.
"""

from __future__ import annotations

import importlib
from typing import Literal, Protocol, cast

import torch
from torch import Tensor

from avatars.errors import UserError
from avatars.types import Cameras, Gaussians, Image

BACKENDS = ("native", "gsplat", "reference")
Backend = Literal["auto", "native", "gsplat", "reference"]


class Renderer(Protocol):
    """What a backend's module offers."""

    def render(self, gaussians: Gaussians, cameras: Cameras, backgrounds: Tensor) -> Image: ...

    def available(self, device: torch.device) -> str | None: ...


def find(name: str) -> Renderer:
    """The backend called `name`; UserError lists the known ones."""
    if name not in BACKENDS:
        raise UserError(f"renderer {name!r} is unknown; known: auto, {', '.join(BACKENDS)}.")
    return cast(Renderer, importlib.import_module(f"{__name__}.{name}"))


def render(gaussians: Gaussians, cameras: Cameras, backgrounds: Tensor | None = None, backend: str = "auto") -> Image:
    """Draw N Gaussians as C cameras see them, on the device of the Gaussians; differentiable.

    backgrounds: [C, 3], [3] or None (black). backend: auto takes the native kernels. UserError when the backend asked for cannot run.
    """
    device = gaussians.means.device
    backend = "native" if backend == "auto" else backend
    module = find(backend)
    reason = module.available(device)
    if reason is not None:
        raise UserError(f"The {backend} renderer cannot run on {device}: {reason}")
    cameras = cameras.to(device=device, dtype=gaussians.means.dtype)
    color = torch.zeros(3) if backgrounds is None else backgrounds
    if tuple(color.shape) not in ((3,), (len(cameras), 3)):
        raise ValueError(f"backgrounds must be [3] or [{len(cameras)}, 3], got {list(color.shape)}")
    return module.render(gaussians, cameras, color.to(gaussians.means).expand(len(cameras), 3).contiguous())
