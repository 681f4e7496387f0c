"""What the tests of the CUDA kernels share: a library, emulated or real, and plain calls into it."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch


def _load(name: str) -> ModuleType:
    """A file beside this one as a module that the tests can find in sys.modules."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_load("cuda_calls")
_emulated = _load("emulated")


@pytest.fixture(scope="session", params=["emulation", "gpu"])
def backend(request: pytest.FixtureRequest) -> tuple[ctypes.CDLL, torch.device]:
    """A library and the device whose tensors it takes."""
    if request.param == "emulation":
        return _emulated.declare(ctypes.CDLL(str(_emulated.build_emulation()))), torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    path = Path(os.environ.get("AVATARS_CUDA_LIBRARY", _emulated.ROOT / "cuda_ext" / "libavatars_cuda.so"))
    if not path.exists():
        pytest.skip(f"{path} was not built")
    return _emulated.declare(ctypes.CDLL(str(path))), torch.device("cuda", torch.cuda.current_device())
