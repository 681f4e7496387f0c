"""Performances in and out, and films: read back from the files themselves."""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic import RED, SKIN, BallStage

from avatars.drive import open_driver
from avatars.errors import UserError
from avatars.types import HeadPose
from viewer.film import MOVEMENTS, Film, even_size, film, length, moved
from viewer.stage import Request
from viewer.takes import read_take, unused_name, write_take


def front() -> Request:
    view = BallStage().view("front <1>", 1.0)[0]
    return Request(121, 90, view, 0.4, background=(0, 0, 0))


def decode(content: bytes) -> list[np.ndarray]:
    import av

    with av.open(io.BytesIO(content)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_a_film_holds_the_range_as_it_was_seen() -> None:
    stage, state, got = BallStage(), Film(12), []
    for _ in film(stage, front(), (4, 16), "As seen", 0, state, got.append):
        pass
    assert state.finished and state.failed is None and state.done == 12
    frames = decode(got[0])
    assert len(frames) == 12 and frames[0].shape == (90, 120, 3)
    truth = stage.render(replace(front(), width=120, time=9.0))
    assert np.abs(frames[5].astype(int) - truth).mean() < 3
    assert [r.time for r in stage.drawn[:12]] == list(range(4, 16))


def test_giving_up_and_failing_leave_no_film() -> None:
    stage, got = BallStage(), []
    state = Film(12)
    task = film(stage, front(), (0, 12), "As seen", 0, state, got.append)
    next(task)
    state.given_up = True
    assert list(task) == [] and state.finished and got == [] and state.failed is None
    stage.fail, state = "lost", Film(12)
    assert list(film(stage, front(), (0, 12), "As seen", 0, state, got.append)) == []
    assert state.finished and "lost" in state.failed and got == []


def test_movements_return_and_the_turntable_sees_the_back() -> None:
    stage = BallStage()
    for movement in MOVEMENTS:
        for phase in (0.0, 1.0):
            assert np.allclose(moved(front(), stage.place, movement, phase).viewmat, front().viewmat, atol=1e-9)
    behind = stage.render(moved(front(), stage.place, "Turntable", 0.5))
    assert (np.abs(behind.astype(int) - RED).max(-1) < 20).sum() == 0 and (np.abs(behind.astype(int) - SKIN).max(-1) < 20).sum() > 500
    quarter = np.reshape(moved(front(), stage.place, "Turntable", 0.25).viewmat, (4, 4))
    eye = -quarter[:3, :3].T @ quarter[:3, 3]
    assert np.allclose(eye, (1, 0, 0), atol=1e-6)  # to the subject's left first
    with pytest.raises(ValueError):
        next(film(stage, front(), (0, 2), "Spiral", 0, Film(2), print))


def test_sizes_are_even_and_a_still_avatar_turns_for_some_seconds() -> None:
    assert even_size(121, 91, 0) == (120, 90) and even_size(1000, 500, 720) == (1440, 720) and even_size(1, 1, 0) == (16, 16)
    stage = BallStage()
    assert length(stage, (4, 16)) == 12
    stage.timeline = None
    assert length(stage, (0, 1)) == 120


# Takes -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def head(tiny_tracked):
    from avatars.head import load_head

    return load_head(tiny_tracked.folder / "head.npz")


@pytest.mark.parametrize("suffix", [".csv", ".json", ".npz"])
def test_a_saved_sequence_can_be_loaded_again(head, tiny_tracked, suffix: str) -> None:
    codes = HeadPose.cat([tiny_tracked.codes] * 12)  # three seconds: a CSV tells its rate by its timecodes
    content = write_take(codes, {"eyeBlinkLeft": 0.75}, head, 24.0, suffix)
    poses, fps = read_take(f"mine{suffix}", content, head, head.neutral(), None)
    assert fps == pytest.approx(24.0, rel=0.02) and len(poses) == len(codes)
    names = head.expression_names
    assert np.allclose(poses.expression[:, names.index("eyeBlinkLeft")], 0.75, atol=1e-3)
    saved = codes.expression[:, names.index("jawOpen")]
    assert np.allclose(poses.expression[:, names.index("jawOpen")], saved, atol=2e-2)


def test_a_take_is_resampled_to_the_timeline(head, tiny_tracked, tmp_path: Path) -> None:
    content = write_take(tiny_tracked.codes, {}, head, 24.0, ".npz")
    poses, fps = read_take("x.npz", content, head, head.neutral(), 48.0)
    assert fps == 48.0 and len(poses) == 2 * len(tiny_tracked.codes)
    (tmp_path / "x.npz").write_bytes(content)
    assert open_driver(tmp_path / "x.npz").fps == pytest.approx(24.0)


BOMB = io.BytesIO()
with zipfile.ZipFile(BOMB, "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr("expression.npy", bytes(500_000_000 // 10) * 10)


@pytest.mark.parametrize(("name", "content"), [
    ("a.csv", b""), ("a.csv", b"\x00\xff" * 50), ("a.csv", b"JawOpen\n1\nx\n"), ("a.json", b"{"), ("a.json", b"[]"), ("a.npz", b"PK\x03\x04rubbish"),
    ("a.npz", b"no archive"), ("a.npz", BOMB.getvalue()), ("a.exe", b"MZ"), ("noname", b"x"), ("../../etc/passwd", b"root"), ("x" * 300 + ".csv", b"1"),
    ("a.csv", b"x" * 33_000_000),
])  # fmt: skip
def test_bad_takes_are_refused_by_name(head, name: str, content: bytes) -> None:
    with pytest.raises(UserError) as refused:
        read_take(name, content, head, head.neutral(), 24.0)
    assert "/tmp" not in str(refused.value)


def test_names_do_not_clash() -> None:
    assert unused_name("smile.csv", set()) == "smile"
    assert unused_name("smile.csv", {"smile", "smile 2"}) == "smile 3" and unused_name(".csv", set()) != ""
