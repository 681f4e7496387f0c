"""Plain calls into a CUDA library or its emulation, for tests: no autograd, workspaces filled with garbage and guarded.

The same code runs on host tensors against the emulation and on device tensors against the real library.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from cuda_ext import abi

GUARD = 64  # bytes behind each workspace that no kernel may touch


def pointer(tensor: Tensor | None) -> int | None:
    """The address of a contiguous tensor."""
    if tensor is None:
        return None
    assert tensor.is_contiguous()
    return tensor.data_ptr()


def check(library: ctypes.CDLL, status: int) -> None:
    """Raise with the library's words."""
    if status != abi.OK:
        raise RuntimeError(f"status {status}: {library.av_error().decode()}")


def launch_of(device: torch.device) -> abi.AvLaunch:
    """Current stream of a device; nothing on the host."""
    if device.type == "cpu":
        return abi.AvLaunch(None, 0, 1)
    return abi.AvLaunch(torch.cuda.current_stream(device).cuda_stream, device.index or 0, 1)


def to(device: torch.device, *tensors: Tensor | None) -> list:
    """Contiguous float32 copies on the device."""
    return [None if t is None else t.detach().to(device=device, dtype=torch.float32).contiguous() for t in tensors]


def close(actual: Tensor, expected: Tensor, relative: float, what: str) -> None:
    """The norm of the difference is within `relative` of the norm of `expected`."""
    error = (actual.double().cpu() - expected.detach().double().cpu()).norm()
    assert error <= relative * expected.detach().double().norm().cpu() + 1e-12, f"{what}: {error:.3g}"


class Workspace:
    """Bytes full of NaN patterns with a guard behind."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.size = size
        self.bytes = torch.full((size + GUARD,), 0xFF, dtype=torch.uint8, device=device)

    def verify(self) -> None:
        """No kernel wrote past the end."""
        assert bool((self.bytes[self.size :] == 0xFF).all()), "written past the end of a workspace"


class SplatCall:
    """One splat, forward and backward."""

    def __init__(self, library: ctypes.CDLL, scene: dict, width: int, height: int, *, backgrounds: Tensor | None = None,
                 antialiased: bool = False, log_scales: bool = False, logit_opacities: bool = False, degree: int | None = None,
                 depth: bool = True, contributions: bool = True, capacity: int = 1 << 16) -> None:  # fmt: skip
        self.library, self.keep = library, (scene, backgrounds)
        means, sh, viewmats = scene["means"], scene["sh"], scene["viewmats"]
        N, C, K, device = len(means), len(viewmats), sh.shape[1], means.device
        flags = abi.ANTIALIASED * antialiased | abi.LOG_SCALES * log_scales | abi.LOGIT_OPACITIES * logit_opacities
        stored = {1: 0, 4: 1, 9: 2, 16: 3}[K]
        names = ("means", "quats", "scales", "opacities", "sh", "viewmats", "Ks")
        self.scene = abi.AvScene(N, C, width, height, K, stored if degree is None else degree, flags, 0.01, 0.3, 0.0,
                                 *(pointer(scene[k]) for k in names), pointer(backgrounds))  # fmt: skip
        saved, scratch = ctypes.c_int64(), ctypes.c_int64()
        check(library, library.av_splat_sizes(self.scene, capacity, 1, saved, scratch))
        self.saved, self.scratch = Workspace(saved.value, device), Workspace(scratch.value, device)
        self.capacity, self.device, self.N, self.C, self.K = capacity, device, N, C, K

        def nan(*shape: int) -> Tensor:
            return torch.full(shape, torch.nan, device=device)

        self.color, self.alpha = nan(C, height, width, 3), nan(C, height, width)
        self.depth = nan(C, height, width) if depth else None
        self.contributions = nan(N) if contributions else None
        self.radii = torch.full((C, N, 2), -1, dtype=torch.int32, device=device)
        self.counters = torch.full((4,), -1, dtype=torch.int32, device=device)

    def forward(self) -> SplatCall:
        """Fill color, alpha, depth, radii, contributions, counters."""
        args = abi.AvSplatForward(
            launch_of(self.device), self.scene, self.capacity, pointer(self.color), pointer(self.alpha), pointer(self.depth),
            pointer(self.radii), pointer(self.contributions), pointer(self.counters), self.saved.bytes.data_ptr(),
            self.saved.size, self.scratch.bytes.data_ptr(), self.scratch.size,
        )  # fmt: skip
        check(self.library, self.library.av_splat_forward(args))
        return self

    def verify(self) -> None:
        """Workspaces were respected."""
        self.saved.verify()
        self.scratch.verify()

    def backward(
        self, v_color: Tensor, v_alpha: Tensor | None = None, v_depth: Tensor | None = None, cameras: bool = False
    ) -> dict[str, Tensor]:
        """Gradients and statistics; with `cameras` those to viewmats and Ks too."""
        self.scratch.bytes[: self.scratch.size].fill_(0xFF)
        N, device = self.N, self.device
        out = {
            "means": torch.full((N, 3), torch.nan, device=device),
            "quats": torch.full((N, 4), torch.nan, device=device),
            "scales": torch.full((N, 3), torch.nan, device=device),
            "opacities": torch.full((N,), torch.nan, device=device),
            "sh": torch.full((N, self.K, 3), torch.nan, device=device),
            "grad_norm": torch.zeros(N, device=device),
            "count": torch.zeros(N, device=device),
            "max_radius": torch.zeros(N, device=device),
        }
        args = abi.AvSplatBackward(
            launch_of(self.device), self.scene, self.capacity, pointer(self.color), pointer(self.alpha),
            pointer(self.depth if v_depth is not None else None), pointer(v_color), pointer(v_alpha), pointer(v_depth),
            *(pointer(t) for t in out.values()), self.saved.bytes.data_ptr(), self.saved.size,
            self.scratch.bytes.data_ptr(), self.scratch.size,
        )  # fmt: skip
        if cameras:
            out["viewmats"] = torch.full((self.C, 4, 4), torch.nan, device=device)
            out["Ks"] = torch.full((self.C, 3, 3), torch.nan, device=device)
            sums = torch.full((self.C, -(-N // abi.CAMERA_GROUP), abi.CAMERA_SUMS), torch.nan, device=device)
            args.v_viewmats, args.v_Ks, args.camera_sums = pointer(out["viewmats"]), pointer(out["Ks"]), pointer(sums)
        check(self.library, self.library.av_splat_backward(args))
        return out


def head_like(n: int, cameras: int, width: int, height: int, degree: int = 3, seed: int = 0, device: str = "cpu", hair: float = 0.3):
    """A shell plus hair seen by cameras on an arc, off-centre principal points; opacities and scales of a trained head."""
    g = torch.Generator().manual_seed(seed)
    direction = torch.nn.functional.normalize(torch.randn(n, 3, generator=g), dim=-1)
    strands = torch.rand(n, generator=g) < hair
    radius = 0.1 * (1 + 0.02 * torch.randn(n, generator=g)) + strands * 0.03 * torch.rand(n, generator=g)
    means = direction * radius[:, None] * torch.tensor([0.8, 1.1, 0.9])
    size = 0.1 * (4 * torch.pi / n) ** 0.5 * 0.34
    scales = size * torch.exp(0.4 * torch.randn(n, 3, generator=g))
    scales[strands, 0] *= 4
    scales[strands, 1:] *= 0.4
    focal = 1.6 * (width * height) ** 0.5
    angles = torch.linspace(-0.6, 0.6, cameras) if cameras > 1 else torch.zeros(1)
    viewmats = torch.eye(4).repeat(cameras, 1, 1)
    viewmats[:, 0, 0], viewmats[:, 0, 2] = angles.cos(), -angles.sin()
    viewmats[:, 2, 0], viewmats[:, 2, 2] = angles.sin(), angles.cos()
    viewmats[:, 2, 3] = 0.55
    Ks = torch.tensor([[focal, 0.0, 0.53 * width], [0, focal * 1.01, 0.47 * height], [0, 0, 1]]).repeat(cameras, 1, 1)
    scene = {
        "means": means,
        "quats": torch.randn(n, 4, generator=g),
        "scales": scales,
        "opacities": torch.sigmoid(1.5 * torch.randn(n, generator=g) + 0.5),
        "sh": torch.randn(n, (degree + 1) ** 2, 3, generator=g) * 0.25,
        "viewmats": viewmats,
        "Ks": Ks,
    }
    return {k: v.float().contiguous().to(device) for k, v in scene.items()}
