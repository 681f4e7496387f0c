"""What every operator asks of its arguments before any kernel sees them; ValueError says what was received."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def check_scene(means, quats, scales, opacities, sh, viewmats, Ks, width, height, near, sh_degree) -> int:
    N, C = means.shape[0], viewmats.shape[0]
    expect("means", means, (N, 3))
    expect("quats", quats, (N, 4))
    expect("scales", scales, (N, 3))
    expect("opacities", opacities, (N,))
    if sh.dim() != 3 or sh.shape[0] != N or sh.shape[2] != 3 or sh.shape[1] not in (1, 4, 9, 16):
        raise ValueError(f"sh must be [N,K,3] with N={N} and K in 1, 4, 9, 16, got {tuple(sh.shape)}")
    expect("viewmats", viewmats, (C, 4, 4))
    expect("Ks", Ks, (C, 3, 3))
    check_size(width, height)
    if not near > 0:
        raise ValueError(f"near must be in front of the camera, got {near}")
    same_device(means, quats, scales, opacities, sh, viewmats, Ks)
    dtype = means.dtype
    for name, tensor in zip(
        ("quats", "scales", "opacities", "sh", "viewmats", "Ks"), (quats, scales, opacities, sh, viewmats, Ks), strict=True
    ):
        if tensor.dtype != dtype:
            raise ValueError(f"{name} must be {dtype} like means, got {tensor.dtype}")
    stored = math.isqrt(sh.shape[1]) - 1
    if sh_degree is not None and not 0 <= sh_degree <= stored:
        raise ValueError(f"sh_degree must be 0..{stored} for sh {tuple(sh.shape)}, got {sh_degree}")
    return stored if sh_degree is None else sh_degree


def check_backgrounds(backgrounds: Tensor | None, C: int, like: Tensor) -> Tensor | None:
    if backgrounds is None:
        return None
    expect("backgrounds", backgrounds, (C, 3))
    same_device(backgrounds, like)
    return backgrounds


def check_size(width: int, height: int) -> None:
    if not (0 < width < 32768 and 0 < height < 32768):
        raise ValueError(f"the image must have 1..32767 pixels per side, got width {width}, height {height}")


def expect(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> None:
    if tensor.shape != shape:
        raise ValueError(f"{name} must be {list(shape)}, got {list(tensor.shape)}")
    if dtype is not None and tensor.dtype != dtype:
        raise ValueError(f"{name} must be {dtype}, got {tensor.dtype}")


def same_device(first: Tensor, *others: Tensor) -> None:
    device = first.device
    for other in others:
        if other.device != device:
            raise ValueError(f"all tensors must be on one device, got {first.device} and {other.device}")
