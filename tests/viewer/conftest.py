"""A real browser for the viewer's tests, and pages opened in it. Screenshots stay in test-artifacts/viewer."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ARTIFACTS = ROOT / "test-artifacts" / "viewer"
sys.path[:0] = [str(Path(__file__).parent), str(ROOT)]  # for synthetic.py and the toy person

from tests.avatars.conftest import tiny_head, tiny_tracked  # noqa: E402, F401


@pytest.fixture(scope="session")
def toy_stage(request: pytest.FixtureRequest):
    """The toy person as an avatar that is exact by construction, on a stage with its pictures."""
    import torch

    from avatars.avatar import Avatar, Timeline
    from avatars.deform import DeformSettings
    from avatars.gaussians import sample_surface, with_colors
    from avatars.head import load_head
    from viewer.avatar_stage import AvatarStage

    tracked = request.getfixturevalue("tiny_tracked")
    head = load_head(tracked.folder / "head.npz")
    shaped = head.shape(tracked.identity)
    canonical = sample_surface(head, head.vertices(shaped, head.neutral())[0], 900, torch.Generator().manual_seed(0), {}, degree=0)
    where = shaped.vertices[head.faces[canonical.face_ids]].mean(1)
    canonical = with_colors(canonical, 0.5 + 0.4 * torch.sin(where * torch.tensor([60.0, 45.0, 80.0])))
    canonical = replace(canonical, logit_opacities=torch.full((len(canonical),), 3.0))
    line = Timeline(tracked.codes, tracked.segments, tracked.fps, tracked.cameras, str(tracked.folder), ("b",), ("TWO",))
    return AvatarStage(Avatar(head, tracked.identity, canonical, "binding", DeformSettings(), {}, {}, line), tracked, name="toy")


@pytest.fixture(scope="session")
def stage_folder(toy_stage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy person's avatar folder."""
    folder = tmp_path_factory.mktemp("toy") / "person" / "avatar"
    toy_stage.avatar.save(folder)
    return folder


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """Headless Chromium; skips where there is none, saying so."""
    from viewer.browser import chromium, missing

    reason = missing()
    if reason:
        pytest.skip(reason)
    with chromium() as started:
        yield started


@pytest.fixture
def open_page(browser) -> Iterator[Callable]:
    """open_page(viewer, width, height) → a page whose first exact picture has arrived."""
    from viewer.browser import open_viewer

    contexts = []

    def opener(viewer, width: int = 900, height: int = 560):
        context = browser.new_context(viewport={"width": width, "height": height}, accept_downloads=True)
        contexts.append(context)
        page = context.new_page()
        page.problems = []
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        open_viewer(page, viewer.url)
        return page

    yield opener
    for context in contexts:
        context.close()


@pytest.fixture
def keep(request: pytest.FixtureRequest) -> Callable:
    """keep(page, name): a screenshot as a test artefact."""

    def shoot(page, name: str) -> Path:
        ARTIFACTS.mkdir(parents=True, exist_ok=True)
        path = ARTIFACTS / f"{name}.png"
        page.screenshot(path=str(path))
        return path

    return shoot
