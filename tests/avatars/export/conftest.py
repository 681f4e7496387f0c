"""A toy avatar folder: the toy person's head with a few hundred Gaussians, corrections, camera colours and sound."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest
import torch

from avatars import deform
from avatars.avatar import Avatar, Timeline, load_avatar, save_avatar
from avatars.gaussians import sample_surface, with_colors
from avatars.sequence import TrackedSequence
from avatars.train import head_of


def write_sound(path: Path, seconds: float, rate: int = 16000) -> Path:
    """A tone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = (9000 * np.sin(2 * np.pi * 330 * np.arange(int(seconds * rate)) / rate)).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return path


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory, tiny_tracked: TrackedSequence) -> Path:
    """The avatar on disk; do not write into it."""
    folder = tmp_path_factory.mktemp("toy") / "avatar"
    head = head_of(tiny_tracked)
    generator = torch.Generator().manual_seed(0)
    neutral = head.vertices(tiny_tracked.identity, head.neutral())[0]
    gaussians = sample_surface(head, neutral, 700, generator, {}, degree=1)
    gaussians = with_colors(gaussians, torch.rand(len(gaussians), 3, generator=generator))
    settings = deform.DeformSettings(bases=3, hidden=0)
    size = deform.code_size(head.E, head.J)
    parameters = {
        k: v + 0.002 * torch.randn(v.shape, generator=generator)
        for k, v in deform.find("blendshapes").create(settings, gaussians, size, generator).items()
    }
    colors = {"a": torch.eye(3, 4), "b": torch.eye(3, 4) * 0.8}
    timeline = Timeline(tiny_tracked.codes, tiny_tracked.segments, 24.0, tiny_tracked.cameras, str(tiny_tracked.folder), ("d",), ("TWO",))
    save_avatar(
        Avatar(head, tiny_tracked.identity, gaussians, "blendshapes", settings, parameters, colors, timeline, {"seconds": 1.0}), folder
    )
    write_sound(folder / "audio" / "ONE.wav", 1.0)
    return folder


@pytest.fixture(scope="session")
def toy_avatar(toy_folder: Path) -> Avatar:
    """The same, loaded."""
    return load_avatar(toy_folder)
