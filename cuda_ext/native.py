"""Calls into the shared libraries: torch allocates, the library fills, autograd connects. No checks here: see ops.py."""

from __future__ import annotations

import torch
from torch import Tensor

from cuda_ext import abi
from cuda_ext.library import native


def pick(function: str, *tensors: Tensor):
    """The library for these tensors, or None when the reference must run (other dtypes, devices, policy)."""
    if any(t.dtype != torch.float32 for t in tensors):
        return None
    return native(tensors[0].device.type, function)


def flags(antialiased: bool, log_scales: bool, logit_opacities: bool) -> int:
    """The AvFlags of a scene."""
    return abi.ANTIALIASED * antialiased | abi.LOG_SCALES * log_scales | abi.LOGIT_OPACITIES * logit_opacities


def project(*args):
    raise NotImplementedError


def rasterize(*args):
    raise NotImplementedError


def splat(*args):
    raise NotImplementedError


def bind(*args):
    raise NotImplementedError


def l1_and_ssim(*args):
    raise NotImplementedError


def adam(*args):
    raise NotImplementedError


def rasterize_mesh(*args):
    raise NotImplementedError
