"""What all tests share: the device to run on, and the folder with larger data where a machine has it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> torch.device:
    """The CPU always; CUDA where there is a device."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(request.param)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder with captures/, heads/, models/, real/: AVATARS_TEST_DATA, else `shared` beside the repository."""
    folder = Path(os.environ.get("AVATARS_TEST_DATA", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder} (set AVATARS_TEST_DATA)")
    return folder
