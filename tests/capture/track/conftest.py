"""The toy head; what else tests of tracking are made of is in scene.py, which they import by that name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from avatars.head import HeadModel

sys.path.insert(0, str(Path(__file__).parent))
from scene import make_head  # noqa: E402


@pytest.fixture(scope="session")
def toy_head() -> HeadModel:
    """About 800 vertices, six identity modes, seven expressions, 478 landmarks on the front."""
    return make_head()
