"""Metrics against known values."""

from __future__ import annotations

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from avatars import metrics
from avatars.errors import UserError
from avatars.head import HeadModel
from avatars.types import Cameras


def _pair(h: int = 40, w: int = 52) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    a = torch.rand(2, h, w, 3, generator=g)
    return a, (a + 0.1 * torch.randn(2, h, w, 3, generator=g)).clamp(0, 1)


def test_psnr_of_a_known_error() -> None:
    a = torch.full((2, 8, 8, 3), 0.5)
    b = a.clone()
    b[1] += 0.1
    assert metrics.psnr(a, b).tolist() == pytest.approx([100.0, 20.0], abs=1e-3)


def test_psnr_over_a_region_sees_only_the_region() -> None:
    a = torch.full((1, 8, 8, 3), 0.5)
    b = a.clone()
    b[:, :4] += 0.1
    mask = torch.zeros(1, 8, 8)
    mask[:, :4] = 1
    assert float(metrics.psnr(a, b, mask)) == pytest.approx(20, abs=1e-3)
    assert float(metrics.psnr(a, b, 1 - mask)) == pytest.approx(100, abs=1e-3)
    assert math.isnan(float(metrics.psnr(a, b, torch.zeros(1, 8, 8))))


def test_ssim_matches_a_direct_evaluation() -> None:
    # Wang et al. 2004 in numpy, "valid" window positions only, which is what torchmetrics averages.
    a, b = _pair()
    x = np.arange(11) - 5
    kernel = np.exp(-(x**2) / (2 * 1.5**2))
    kernel = np.outer(kernel, kernel) / kernel.sum() ** 2

    def blur(image: np.ndarray) -> np.ndarray:
        windows = np.lib.stride_tricks.sliding_window_view(image, (11, 11))
        return (windows * kernel).sum((-1, -2))

    for i in range(2):
        values = []
        for c in range(3):
            p, q = a[i, ..., c].double().numpy(), b[i, ..., c].double().numpy()
            mp, mq = blur(p), blur(q)
            vp, vq, cov = blur(p * p) - mp**2, blur(q * q) - mq**2, blur(p * q) - mp * mq
            values.append(((2 * mp * mq + 1e-4) * (2 * cov + 9e-4)) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)))
        assert float(metrics.ssim(a, b)[i]) == pytest.approx(np.mean(values), abs=2e-4)


def test_ssim_over_a_region_and_of_identical_pictures() -> None:
    a, b = _pair()
    b[:, :, 26:] = a[:, :, 26:]
    mask = torch.zeros(a.shape[:3])
    mask[:, :, 40:] = 1
    assert torch.allclose(metrics.ssim(a, b, mask), torch.ones(2), atol=1e-4)
    assert (metrics.ssim(a, b) < 0.99).all()
    assert torch.isnan(metrics.ssim(a, b, torch.zeros_like(mask))).all()


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"\[B,H,W,3\]"):
        metrics.psnr(torch.zeros(8, 8, 3), torch.zeros(8, 8, 3))
    with pytest.raises(ValueError, match="weights"):
        metrics.ssim(torch.zeros(1, 20, 20, 3), torch.zeros(1, 20, 20, 3), torch.zeros(1, 5, 5))


def test_regions_lie_where_the_mesh_shows_them(tiny_head: HeadModel, tiny_cameras: Cameras) -> None:
    cameras = tiny_cameras
    foreground = torch.zeros(4, cameras.height, cameras.width)
    foreground[:, 5:-5, 5:-5] = 1
    regions = metrics.region_masks(tiny_head, tiny_head.template, cameras, foreground)
    assert regions["image"] is None
    mouth, eyes = regions["mouth"], regions["eyes"]
    assert mouth is not None and eyes is not None
    for mask in (mouth, eyes):
        assert mask.sum() > 20 and (mask * (1 - foreground)).sum() == 0
    rows = torch.arange(cameras.height)[None, :, None]
    assert (eyes * rows).sum() / eyes.sum() < (mouth * rows).sum() / mouth.sum()  # eyes above the mouth
    behind = metrics.region_masks(tiny_head, tiny_head.template * torch.tensor([-1, 1, -1.0]), cameras, foreground)
    assert behind["mouth"] is not None and behind["mouth"].sum() == 0


def _lpips_weights() -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    shapes = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
    state = {}
    for i, (index, (out, into, size)) in enumerate(shapes.items()):
        state[f"features.{index}.weight"] = torch.randn(out, into, size, size, generator=g) / (into * size * size) ** 0.5
        state[f"features.{index}.bias"] = torch.zeros(out)
        state[f"lin{i}.model.1.weight"] = torch.rand(1, out, 1, 1, generator=g)
    return state


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_lpips_is_a_distance(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"alex{suffix}"
    save_file(_lpips_weights(), path) if suffix == ".safetensors" else torch.save(_lpips_weights(), path)
    distance = metrics.load_lpips(path)
    a, b = _pair(64, 64)
    a.requires_grad_()
    assert torch.allclose(distance(a, a), torch.zeros(2), atol=1e-6)
    near, far = distance(a, 0.9 * a + 0.1 * b), distance(a, b)
    assert (near < far).all() and (far > 0).all()
    far.sum().backward()
    assert a.grad is not None and a.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="63"):
        distance(*_pair(40, 40))


def test_lpips_weights_must_be_given_and_whole(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="never downloaded"):
        metrics.load_lpips(None)
    with pytest.raises(UserError, match="do not exist"):
        metrics.load_lpips(tmp_path / "none.pth")
    state = _lpips_weights()
    del state["lin3.model.1.weight"]
    save_file(state, tmp_path / "part.safetensors")
    with pytest.raises(UserError, match="lin3"):
        metrics.load_lpips(tmp_path / "part.safetensors")


class _Evil:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.target,))


@pytest.mark.parametrize(
    "kind", ["text", "empty", "folder", "cut", "plain pickle", "pickle in an archive", "module", "list", "shape", "safetensors"]
)
def test_what_are_no_lpips_weights_is_one_line_of_ours(tmp_path: Path, kind: str, recwarn: pytest.WarningsRecorder) -> None:
    path, target = tmp_path / f"w.{'safetensors' if kind == 'safetensors' else 'pth'}", tmp_path / "executed"
    if kind == "folder":
        path.mkdir()
    elif kind == "plain pickle":
        path.write_bytes(pickle.dumps({"a": _Evil(target)}))
    elif kind == "cut":
        torch.save(_lpips_weights(), path)
        path.write_bytes(path.read_bytes()[:5000])
    elif kind in ("text", "empty", "safetensors"):
        path.write_text("" if kind == "empty" else "no such thing\n" * 9)
    else:
        values = {
            "pickle in an archive": {"a": _Evil(target)},
            "module": torch.nn.Linear(2, 2),
            "list": [1, 2],
            "shape": {"features.0.weight": torch.zeros(3)},
        }
        torch.save(values[kind], path)
    with pytest.raises(UserError, match=r"^LPIPS weights .*w\..*Give [^\n]*\.$") as caught:
        metrics.load_lpips(path)
    text = str(caught.value)
    assert "weights_only" not in text and "torch.load" not in text and "\n" not in text and len(text) < 260 + len(str(path))
    assert not target.exists() and not recwarn.list
