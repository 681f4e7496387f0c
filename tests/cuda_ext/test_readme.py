"""The examples of the package's own README run as they stand, and reach what they promise."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import cuda_ext

README = (Path(__file__).parents[2] / "cuda_ext" / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=["gaussians", "volume"])
def test_example(example: str) -> None:
    torch.manual_seed(0)
    exec(compile(example, "README.md", "exec"), {})


def test_every_operator_is_listed() -> None:
    listed = set(re.findall(r"`(\w+)`", README))
    results = {
        name for name in cuda_ext.__all__ if name[0].isupper() and name not in ("Adam", "HashGrid")
    }  # what operators return or raise
    assert set(cuda_ext.__all__) - results - {"available"} <= listed
