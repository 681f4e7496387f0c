"""render, drive and export through the command line, on the toy avatar: files that open, flags that do what they say."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from avatars.__main__ import main
from avatars.avatar import Avatar
from avatars.drive import open_driver, save_codes
from avatars.playback import tracked_codes
from avatars.png import read_png_parameters
from avatars.sequence import TrackedSequence

av = pytest.importorskip("av")


def opened(path: Path) -> tuple[list[np.ndarray], float, float]:
    """Frames, rate, and seconds of sound (0: none)."""
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        sound = container.streams.audio[0] if container.streams.audio else None
        seconds = float(sound.duration * sound.time_base) if sound is not None else 0.0
        return [f.to_ndarray(format="rgb24") for f in container.decode(video=0)], float(video.average_rate), seconds


def test_stills_carry_their_parameters(toy_folder: Path, tmp_path: Path) -> None:
    neutral, smile = tmp_path / "neutral.png", tmp_path / "smile.png"
    assert main(["render", str(toy_folder), "--out", str(neutral), "--camera", "b", "--backend", "reference"]) == 0
    assert main(["render", str(toy_folder), "--out", str(smile), "--camera", "b", "--expression", "mouthSmileLeft=1", "jawOpen=1"]) == 0
    a, b = cv2.imread(str(neutral)), cv2.imread(str(smile))
    assert a.shape == b.shape == (56, 48, 3) and np.abs(a.astype(int) - b).max() > 10
    parameters = read_png_parameters(smile)
    assert parameters["moment"]["expression"] == ["mouthSmileLeft=1", "jawOpen=1"] and parameters["shot"]["camera"] == "b"
    assert len(parameters["viewmat"]) == 4


def test_transparent_stills(toy_folder: Path, tmp_path: Path) -> None:
    assert main(["render", str(toy_folder), "--transparent", "--out", str(tmp_path / "a.png"), "--height", "112"]) == 0
    picture = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)
    assert picture.shape == (112, 96, 4) and picture[0, 0, 3] == 0 and picture[..., 3].max() > 200


def test_a_sequence_is_replayed_with_its_sound(toy_folder: Path, tmp_path: Path) -> None:
    assert main(["render", str(toy_folder), "--sequence", "ONE", "--path", "orbit", "--out", str(tmp_path / "a.mp4")]) == 0
    frames, fps, sound = opened(tmp_path / "a.mp4")
    assert len(frames) == 4 and fps == 24 and frames[0].shape == (56, 48, 3)
    assert sound == pytest.approx(4 / 24, abs=0.07)
    assert main(["render", str(toy_folder), "--sequence", "ONE", "--no-sound", "--out", str(tmp_path / "b.mp4")]) == 0
    assert opened(tmp_path / "b.mp4")[2] == 0


def test_a_turntable_of_the_neutral_face(toy_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "round.mp4"
    assert (
        main(
            [
                "render",
                "--path",
                "turntable",
                str(toy_folder),
                "--seconds",
                "0.5",
                "--fps",
                "12",
                "--background",
                "black",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    frames, fps, _ = opened(out)
    assert len(frames) == 6 and fps == 12 and frames[0][0, 0].max() < 25
    assert np.abs(frames[0].astype(int) - frames[3]).mean() > 3


@pytest.mark.parametrize("suffix", [".csv", ".json", ".npz"])
def test_drive_follows_the_codes(toy_folder: Path, toy_avatar: Avatar, tmp_path: Path, suffix: str) -> None:
    codes = tmp_path / f"take{suffix}"
    save_codes(codes, tracked_codes(toy_avatar, "ONE"))
    sound = toy_folder / "audio" / "ONE.wav"
    out = tmp_path / "clip.mp4"
    assert main(["drive", str(toy_folder), "--codes", str(codes), "--audio", str(sound), "--out", str(out), "--camera", "b"]) == 0
    frames, fps, seconds = opened(out)
    assert fps == (60 if suffix == ".csv" else 24) and len(frames) == round(fps * 4 / 24) and seconds == pytest.approx(4 / 24, abs=0.07)
    assert np.abs(frames[0].astype(int) - frames[len(frames) // 2]).mean() > 0.5, "the mouth opens"
    if suffix == ".npz":  # lossless: the same pictures as a replay
        assert main(["render", str(toy_folder), "--sequence", "ONE", "--camera", "b", "--out", str(tmp_path / "replay.mp4")]) == 0
        for a, b in zip(frames, opened(tmp_path / "replay.mp4")[0], strict=True):
            assert np.abs(a.astype(int) - b).mean() < 1


def test_drive_cuts_mirrors_and_saves(toy_folder: Path, toy_avatar: Avatar, tmp_path: Path) -> None:
    codes = tracked_codes(toy_avatar, "ONE")
    save_codes(tmp_path / "take.npz", codes)
    arguments = ["drive", str(toy_folder), "--codes", str(tmp_path / "take.npz"), "--out", str(tmp_path / "c.mp4")]
    extra = ["--start", str(1 / 24), "--end", str(3 / 24), "--mirror", "--save-codes", str(tmp_path / "used.npz"), "--fps", "48"]
    assert main([*arguments, *extra]) == 0
    used = open_driver(tmp_path / "used.npz")
    assert len(used) == 4 and used.fps == 48 and "eyeBlinkRight" in used.names
    np.testing.assert_allclose(used.weight("jawOpen")[0], codes.weight("jawOpen")[1], atol=1e-6)
    assert len(opened(tmp_path / "c.mp4")[0]) == 4


def test_drive_with_the_codes_of_another_folder(
    toy_folder: Path, tiny_tracked: TrackedSequence, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for source in (toy_folder, tiny_tracked.folder):
        assert main(["drive", str(toy_folder), "--codes", str(source), "--sequence", "TWO", "--out", str(tmp_path / "c.mp4")]) == 0
        assert len(opened(tmp_path / "c.mp4")[0]) == 2
    capsys.readouterr()
    drive = ["drive", str(toy_folder), "--codes", str(toy_folder), "--sequence", "ONE", "--out", str(tmp_path / "e.mp4")]
    assert main(drive) == 0 and "with sound" in capsys.readouterr().out  # the sequence's own
    assert main([*drive, "--no-sound"]) == 0 and "with sound" not in capsys.readouterr().out
    assert main(["drive", str(toy_folder), "--codes", str(toy_folder), "--sequence", "FIVE", "--out", str(tmp_path / "d.mp4")]) == 2
    assert "no sequence 'FIVE'; it has ONE, TWO" in capsys.readouterr().err
    assert main(["drive", str(toy_folder), "--codes", str(tmp_path), "--out", str(tmp_path / "d.mp4")]) == 2
    assert "a folder without codes" in capsys.readouterr().err


def test_exports(toy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["export", str(toy_folder), "--sequence", "ONE", "--frame", "2", "--out", str(tmp_path / "a.ply")]) == 0
    assert (tmp_path / "a.ply").read_bytes().startswith(b"ply\n") and "gaussians" in capsys.readouterr().out
    assert main(["export", str(toy_folder), "--format", "avatar", "--out", str(tmp_path / "copy")]) == 0
    assert main(["render", str(tmp_path / "copy"), "--out", str(tmp_path / "copy.png")]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["render", "AVATAR", "--out", "a.gif"], "a.gif: give a still (.png) or a video (.mp4)"),
        (["render", "AVATAR", "--camera", "z", "--out", "a.png"], "--camera z: the avatar knows a, b, c, d"),
        (["render", "AVATAR", "--sequence", "FIVE", "--out", "a.png"], "no sequence 'FIVE'; known: ONE, TWO"),
        (["render", "AVATAR", "--sequence", "ONE", "--frame", "4", "--out", "a.png"], "ONE has 4 frames"),
        (["render", "AVATAR", "--frame", "2", "--out", "a.png"], "--frame 2 is a frame of which sequence? Give --sequence: ONE, TWO."),
        (["render", "AVATAR", "--expression", "jawOpne=1", "--out", "a.png"], "Did you mean jawOpen?"),
        (["render", "AVATAR", "--expression", "jawOpen", "--out", "a.png"], "write jawOpen=WEIGHT"),
        (["render", "AVATAR", "--expression", "jawOpen=9", "--out", "a.png"], "between 0 and 1"),
        (["render", "AVATAR", "--background", "mauve", "--out", "a.png"], "'mauve' is no colour"),
        (["render", "AVATAR", "--path", "orbti", "--out", "a.mp4"], "Did you mean orbit?"),
        (["render", "AVATAR", "--path", "none.json", "--out", "a.mp4"], "none.json: there is no such file"),
        (["render", "AVATAR", "--width", "4", "--out", "a.png"], "--width 4"),
        (["render", "AVATAR", "--zoom", "0", "--out", "a.png"], "--zoom 0.0"),
        (["drive", "AVATAR", "--codes", "none.csv"], "none.csv: there is no such file"),
        (["drive", "AVATAR", "--codes", "take.fbx"], "do not know how to read '.fbx'"),
        (["drive", "AVATAR", "--codes", "a.csv", "--audio", "none.wav"], "--audio none.wav"),
        (["drive", "AVATAR", "--codes", "a.csv", "--out", "clip.avi"], "must end in .mp4"),
        (["drive", "AVATAR", "--codes", "a.csv", "--start", "2", "--end", "1"], "must come after"),
        (["export", "AVATAR", "--format", "fbx"], "'fbx' is unknown; known: avatar, ga, html, ply"),
        (["export", "AVATAR", "--out", "a.splat"], "end in .ply"),
    ],
)
def test_wrong_arguments_get_one_clear_line(
    arguments: list[str], message: str, toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([str(toy_folder) if a == "AVATAR" else a for a in arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1, error
    assert list(tmp_path.iterdir()) == [], "nothing may be left"


def test_a_damaged_avatar_is_named(toy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    shutil.copytree(toy_folder, tmp_path / "avatar")
    (tmp_path / "avatar" / "avatar.safetensors").write_bytes(b"half")
    assert main(["render", str(tmp_path / "avatar"), "--out", str(tmp_path / "a.png")]) == 2
    assert "avatar.safetensors" in capsys.readouterr().err
