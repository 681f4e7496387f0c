"""Image metrics: PSNR, SSIM, LPIPS, over whole pictures and over regions.

Pictures are float [B, H, W, 3] in 0–1, masks [B, H, W] weights in 0–1; results are per picture [B], NaN where a mask is empty.
PSNR averages the squared error over channels and pixels first. SSIM is Wang et al. 2004 with an 11×11 Gaussian window of σ 1.5,
its map averaged without the border of 5 pixels over the whole picture (as torchmetrics does), or weighted over a region.
"""

from __future__ import annotations

import math
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from avatars.errors import UserError
from avatars.head import HeadModel
from avatars.losses import EYES, MOUTH
from avatars.transforms import transform
from avatars.types import Cameras
from cuda_ext import ops

REGIONS = ("image", "foreground", "mouth", "eyes")


def psnr(a: Tensor, b: Tensor, weights: Tensor | None = None) -> Tensor:
    """[B] decibels; at most 100, for identical pictures."""
    _check(a, b, weights)
    error = (a - b).square().mean(-1)
    if weights is None:
        mse = error.mean((1, 2))
    else:
        total = weights.sum((1, 2))
        mse = torch.where(total > 0, (error * weights).sum((1, 2)) / total.clamp_min(1e-12), math.nan)
    return -10 * mse.clamp_min(1e-10).log10()


def ssim(a: Tensor, b: Tensor, weights: Tensor | None = None) -> Tensor:
    """[B] structural similarity in −1…1."""
    _check(a, b, weights)
    with torch.no_grad():
        if weights is None:
            return ops.ssim(a.contiguous(), b.contiguous(), valid=min(a.shape[1:3]) > 10)
        total = weights.mean((1, 2))
        value = ops.ssim(a.contiguous(), b.contiguous(), weights=weights.contiguous())
        return torch.where(total > 0, value / total.clamp_min(1e-12), math.nan)


@torch.no_grad()
def region_masks(head: HeadModel, vertices: Tensor, cameras: Cameras, foreground: Tensor) -> dict[str, Tensor | None]:
    """Weights [C, H, W] per name in REGIONS, for one pose: vertices [V, 3], mattes [C, H, W] in 0–1.

    Mouth and eyes are what one sees of those parts of the fitted mesh, occlusion included, grown by 4 mm; None is the
    whole picture.
    """
    camera_vertices = transform(cameras.viewmats, vertices.expand(len(cameras), -1, -1))
    ids, _, depth = ops.rasterize_mesh(camera_vertices.contiguous(), head.faces, cameras.Ks, cameras.width, cameras.height)
    solid = (foreground > 0.5).to(foreground.dtype)
    result: dict[str, Tensor | None] = {"image": None, "foreground": solid}
    for name, parts in (("mouth", MOUTH), ("eyes", EYES)):
        wanted = torch.zeros(head.F + 1, dtype=torch.bool, device=ids.device)
        wanted[head.region_faces(*parts)] = True
        seen = wanted[ids.long()] & (ids >= 0)  # index −1 falls on the extra entry
        focal = float(cameras.Ks[:, 0, 0].mean())
        near = depth[ids >= 0]
        radius = max(1, round(0.004 * focal / float(near.median()))) if near.numel() else 1
        # A handful of stray pixels at a grazing angle is no view of the mouth.
        seen &= seen.sum((1, 2), keepdim=True) >= 12
        grown = F.max_pool2d(seen[:, None].float(), 2 * radius + 1, 1, radius)[:, 0]
        result[name] = grown.to(foreground.dtype) * solid
    return result


def load_lpips(path: str | Path | None) -> Callable[[Tensor, Tensor], Tensor]:
    """Learned perceptual distance (Zhang et al. 2018, LPIPS 0.1, AlexNet) → function of two [B,H,W,3] in 0–1, giving [B].

    path: a .safetensors or .pth (read with weights_only) that holds AlexNet's convolutions ("features.0.weight" …, or
    "net.slice1.0.weight" …) and the five linear layers ("lin0.model.1.weight" …, or "lin0.weight" …). Never downloaded.
    """
    if path is None:
        raise UserError("LPIPS needs network weights: give their file (lpips_weights). They are never downloaded.")
    path = Path(path)
    state = _read_weights(path)
    convolutions, linears = [], []
    slices = {0: 1, 3: 2, 6: 3, 8: 4, 10: 5}
    shapes = ((64, 3, 11, 11), (192, 64, 5, 5), (384, 192, 3, 3), (256, 384, 3, 3), (256, 256, 3, 3))  # AlexNet's
    for i, (index, shape) in enumerate(zip(slices, shapes, strict=True)):
        weight = _first(state, path, shape, f"features.{index}.weight", f"net.slice{slices[index]}.{index}.weight")
        bias = _first(state, path, shape[:1], f"features.{index}.bias", f"net.slice{slices[index]}.{index}.bias")
        convolutions.append((weight, bias))
        linears.append(_first(state, path, (1, shape[0], 1, 1), f"lin{i}.model.1.weight", f"lin{i}.weight", f"lins.{i}.model.1.weight"))
    shift = torch.tensor([-0.030, -0.088, -0.188]).reshape(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).reshape(1, 3, 1, 1)
    steps = ((4, 2), (1, 2), (1, 1), (1, 1), (1, 1))  # stride, padding

    def features(image: Tensor) -> list[Tensor]:
        x = (2 * image.permute(0, 3, 1, 2) - 1 - shift.to(image)) / scale.to(image)
        found = []
        for i, ((weight, bias), (stride, padding)) in enumerate(zip(convolutions, steps, strict=True)):
            if i in (1, 2):
                x = F.max_pool2d(x, 3, 2)
            x = F.conv2d(x, weight.to(x), bias.to(x), stride, padding).relu()
            found.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return found

    def distance(a: Tensor, b: Tensor) -> Tensor:
        _check(a, b, None)
        if min(a.shape[1:3]) < 63:
            raise ValueError(f"LPIPS needs pictures of at least 63 pixels, got {tuple(a.shape)}")
        pairs = zip(features(a), features(b), linears, strict=True)
        return sum((((fa - fb).square() * w.to(fa)).sum(1).mean((1, 2)) for fa, fb, w in pairs), start=a.new_zeros(len(a)))

    return distance


def _read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of the file; UserError in one line when it is none of ours to read. Nothing but tensors is ever unpickled."""
    remedy = "Give a .safetensors, or a state dict that torch.save wrote (.pth)."
    if not path.exists():
        raise UserError(f"LPIPS weights {path} do not exist. Give the path of AlexNet's LPIPS weights; they are never downloaded.")
    if path.is_dir():
        raise UserError(f"LPIPS weights {path} is a folder. {remedy}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with warnings.catch_warnings(action="ignore"):  # about the file's version of the protocol
            state = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise
    except pickle.UnpicklingError:  # torch's own text goes on for lines and advises to switch the protection off
        raise UserError(
            f"LPIPS weights {path} hold something other than tensors, which is never opened, or are damaged. {remedy}"
        ) from None
    except Exception as error:  # a damaged file shows as nearly anything
        raise UserError(f"LPIPS weights {path} are damaged or something else ({type(error).__name__}). {remedy}") from None
    state = state.get("state_dict", state) if isinstance(state, dict) else {}
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)} if isinstance(state, dict) else {}
    if not tensors:
        raise UserError(f"LPIPS weights {path} hold no state dict. {remedy}")
    return tensors


def _first(state: dict[str, Tensor], path: Path, shape: tuple[int, ...], *names: str) -> Tensor:
    """The float32 tensor of `shape` under the first of `names` that is there."""
    for name in names:
        if name in state:
            if state[name].numel() != math.prod(shape):
                raise UserError(
                    f"LPIPS weights {path}: {name} is {list(state[name].shape)}, AlexNet's is {list(shape)}. Give the weights for AlexNet."
                )
            return state[name].float().reshape(shape)
    raise UserError(f"LPIPS weights {path} lack {' or '.join(names)}. Give AlexNet's convolutions and the five linear layers in one file.")


def _check(a: Tensor, b: Tensor, weights: Tensor | None) -> None:
    if a.dim() != 4 or a.shape[-1] != 3 or a.shape != b.shape:
        raise ValueError(f"pictures must be two [B,H,W,3], got {tuple(a.shape)} and {tuple(b.shape)}")
    if weights is not None and weights.shape != a.shape[:3]:
        raise ValueError(f"weights must be {list(a.shape[:3])}, got {list(weights.shape)}")
