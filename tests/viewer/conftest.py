"""A real browser for the viewer's tests, and pages opened in it. Screenshots stay in test-artifacts/viewer."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
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


@contextmanager
def _opened(browser, viewer, width: int, height: int) -> Iterator[object]:
    from viewer.browser import open_viewer

    context = browser.new_context(viewport={"width": width, "height": height}, accept_downloads=True)
    try:
        page = context.new_page()
        page.problems = []
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        open_viewer(page, viewer.url)
        yield page
    finally:
        context.close()


@pytest.fixture
def open_page(browser) -> Iterator[Callable]:
    """open_page(viewer, width, height) → a new page whose first picture has arrived."""
    with ExitStack() as stack:
        yield lambda viewer, width=900, height=560: stack.enter_context(_opened(browser, viewer, width, height))


@pytest.fixture(scope="module")
def desktop(browser, viewer) -> Iterator[tuple]:
    """One page of 1280×720 that the tests of a module share (opening one takes seconds on one core), and its guest."""
    with _opened(browser, viewer, 1280, 720) as page:
        yield page, viewer.guests[max(viewer.guests)]


@pytest.fixture
def fresh(desktop) -> Iterator[tuple]:
    """The shared page as a newcomer finds it: paused at the start, in front, nothing held; it must not report a problem."""
    page, guest = desktop
    session = guest.session
    with session.lock:
        session.transport.pause()
        session.transport.select("EXP-1")
        session.transport.set_bounds(0, 40)
        session.desk.release()
        session.against, session.mode, session.wipe = "Truth", "Render", 0.5
        session.look_from("Front")
    session.touch()
    page.get_by_role("tab", name="Face").click()
    page.mouse.move(5, 5)
    page.locator("#av-line").focus()
    yield page, guest
    assert page.problems == []


@pytest.fixture
def keep(request: pytest.FixtureRequest) -> Callable:
    """keep(page, name): a screenshot as a test artefact."""

    def shoot(page, name: str) -> Path:
        ARTIFACTS.mkdir(parents=True, exist_ok=True)
        path = ARTIFACTS / f"{name}.png"
        page.screenshot(path=str(path))
        return path

    return shoot
