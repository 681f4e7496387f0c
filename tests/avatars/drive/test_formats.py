"""Every driver: what is written reads back, foreign dialects mean what they say, and bad files get one clear line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from avatars.drive import ARKIT_NAMES, Codes, drivers, open_driver, save_codes
from avatars.drive.codes import constant_rate, yaw_pitch_roll
from avatars.errors import UserError


def clip(frames: int = 20, fps: float = 60.0) -> Codes:
    rng = np.random.default_rng(3)
    weights = rng.random((frames, 52)).astype(np.float32)
    head = yaw_pitch_roll(*(rng.normal(size=(3, frames)) * 0.3))
    return Codes(ARKIT_NAMES, weights, constant_rate(frames, fps), {"head": head}, nominal_fps=fps)


def livelink(rows: list[list], columns: list[str] | None = None) -> str:
    names = columns or ["Timecode", "BlendshapeCount", *(n[0].upper() + n[1:] for n in ARKIT_NAMES)]
    return "\n".join(",".join(str(v) for v in row) for row in [names, *rows]) + "\n"


@pytest.mark.parametrize("suffix", [".csv", ".json", ".npz"])
def test_what_is_written_reads_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"take{suffix}"
    save_codes(path, clip())
    back = open_driver(path)
    assert back.fps == 60 and len(back) == 20 and back.duration == pytest.approx(1 / 3)
    for name in ARKIT_NAMES:
        np.testing.assert_allclose(back.weight(name), clip().weight(name), atol=1e-6)
    np.testing.assert_allclose(back.joints["head"], clip().joints["head"], atol=1e-5)
    assert [p.name for p in tmp_path.iterdir()] == [path.name], "nothing temporary may be left"


@pytest.mark.parametrize(("frames", "fps", "expected"), [(72, 24.0, 24), (20, 24.0, 60), (100, 17.0, 60)])
def test_csv_is_written_at_a_rate_that_readers_can_tell(tmp_path: Path, frames: int, fps: float, expected: float) -> None:
    save_codes(tmp_path / "a.csv", clip(frames, fps))
    back = open_driver(tmp_path / "a.csv")
    assert back.fps == expected and back.duration == pytest.approx(frames / fps, abs=0.02)
    np.testing.assert_allclose(
        back.at(0.5).weight("jawOpen"), clip(frames, fps).at(0.5).weight("jawOpen"), atol=1e-5 if fps == expected else 0.5
    )


def test_every_writer_belongs_to_a_reader() -> None:
    found = drivers()
    assert {"livelink_csv", "arkit_json", "codes_npz"} <= set(found)
    for module in found.values():
        assert module.SUFFIXES and all(s.startswith(".") for s in module.SUFFIXES)


def test_npz_keeps_everything(tmp_path: Path) -> None:
    codes = clip(5)
    codes = Codes(
        codes.names, codes.weights, codes.times, {"jaw": codes.joints["head"]}, codes.joints["head"], codes.joints["head"] + 1, 60
    )
    save_codes(tmp_path / "a.npz", codes)
    back = open_driver(tmp_path / "a.npz")
    for a, b in ((back.rotation, codes.rotation), (back.translation, codes.translation), (back.joints["jaw"], codes.joints["jaw"])):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("keep", [51, 52])
def test_csv_column_counts_and_case(tmp_path: Path, keep: int) -> None:
    columns = ["timeCode", "blendshapecount", *(f"blendShapes.{n.upper()}" for n in ARKIT_NAMES[:keep])]
    rows = [[f"00:00:01:{i:02d}.000", keep, *([i / 10] * keep)] for i in range(5)]
    (tmp_path / "a.csv").write_text(livelink(rows, columns))
    codes = open_driver(tmp_path / "a.csv")
    assert codes.names == ARKIT_NAMES[:keep]
    np.testing.assert_allclose(codes.weight("jawOpen"), np.arange(5) / 10, atol=1e-6)


def test_csv_extra_columns_are_ignored_and_order_is_free(tmp_path: Path) -> None:
    columns = ["JawOpen", "Smell", "HeadRoll", "Timecode", "HeadYaw", "HeadPitch"]
    (tmp_path / "a.csv").write_text(livelink([[0.5, "roses", 0.0, "00:00:00:00.000", 0.25, 0.0]], columns))
    codes = open_driver(tmp_path / "a.csv")
    assert codes.names == ("jawOpen",)
    np.testing.assert_allclose(codes.joints["head"], [[0, 0.25, 0]], atol=1e-6)


def test_csv_without_header_is_in_arkits_order(tmp_path: Path) -> None:
    rows = [[0.0] * 61, [0.0] * 61]
    rows[1][ARKIT_NAMES.index("mouthPucker")] = 1.0
    rows[1][53] = 0.5  # the second angle: the head's pitch
    (tmp_path / "a.csv").write_text("\n".join(",".join(map(str, r)) for r in rows))
    codes = open_driver(tmp_path / "a.csv")
    assert codes.weight("mouthPucker").tolist() == [0, 1] and codes.fps == 60
    np.testing.assert_allclose(codes.joints["head"][1], [0.5, 0, 0], atol=1e-6)


def test_csv_timecodes_keep_dropped_frames_midnight_and_the_rate(tmp_path: Path) -> None:
    stamps = [f"23:59:{s}:{f:02d}.000" for s in (58, 59) for f in range(30)] + [f"00:00:00:{f:02d}.500" for f in range(0, 30, 2)]
    (tmp_path / "a.csv").write_text(livelink([[t, 1, 0.1] for t in stamps], ["Timecode", "BlendshapeCount", "JawOpen"]))
    codes = open_driver(tmp_path / "a.csv")
    assert codes.fps == 30 and len(codes) == 75
    assert codes.times[-1] == pytest.approx(2 + 28.5 / 30)
    assert codes.times[61] - codes.times[60] == pytest.approx(2 / 30)


def test_csv_timecodes_that_stand_still(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(livelink([["00:00:00:00.000", 1, 0.1]] * 4, ["Timecode", "BlendshapeCount", "JawOpen"]))
    with pytest.warns(UserWarning, match="stand still"):
        assert len(open_driver(tmp_path / "a.csv")) == 4


def test_csv_timecodes_that_are_no_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(livelink([[t, 0.1] for t in ("nan", "1", "2")], ["Time", "JawOpen"]))
    with pytest.warns(UserWarning, match="unreadable timecodes"):
        codes = open_driver(tmp_path / "a.csv")
    assert len(codes) == 3 and codes.duration == pytest.approx(3 / 60)


@pytest.mark.parametrize("key", ["times", "joints", "rotation", "translation"])
def test_npz_tracks_that_are_no_numbers(tmp_path: Path, key: str) -> None:
    arrays = {"names": np.array(["jawOpen"]), "weights": np.zeros((3, 1)), "times": np.arange(3.0), "joint_names": np.array(["head"])}
    arrays |= {"joints": np.zeros((3, 1, 3)), "rotation": np.zeros((3, 3)), "translation": np.zeros((3, 3))}
    arrays[key].reshape(-1)[-1] = np.nan
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError, match="a.npz: .* of frame 2 hold a value that is no number"):
        open_driver(tmp_path / "a.npz")


def test_csv_gaze_weights_silence_the_eye_angles(tmp_path: Path) -> None:
    columns = ["JawOpen", "EyeLookUpLeft", "LeftEyeYaw", "LeftEyePitch", "LeftEyeRoll"]
    (tmp_path / "a.csv").write_text(livelink([[0, 0.5, 0.1, 0.1, 0]], columns))
    assert "eye_left" not in open_driver(tmp_path / "a.csv").joints
    (tmp_path / "b.csv").write_text(livelink([[0, 0.0, 0.1, 0.2, 0]], columns))
    np.testing.assert_allclose(open_driver(tmp_path / "b.csv").joints["eye_left"], [[0.2, 0.1, 0]], atol=0.011)


def test_csv_last_line_cut_off_is_left_out(tmp_path: Path) -> None:
    text = livelink(
        [["00:00:00:00.0", 1, 0.1], ["00:00:00:01.0", 1, 0.2], ["00:00:00:02.0", 1]], ["Timecode", "BlendshapeCount", "JawOpen"]
    )
    (tmp_path / "a.csv").write_text(text)
    with pytest.warns(UserWarning, match="line 4: cut off"):
        assert len(open_driver(tmp_path / "a.csv")) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("Timecode,BlendshapeCount,JawOpen\n", "no frames"),
        ("time,nose\n0,1\n", "no column is an ARKit expression"),
        ("Timecode,JawOpen\n0,0.1\n0.1\n0.2,0.3\n", "line 3: 1 values under 2 columns"),
        ("Timecode,JawOpen\n0,much\n", "line 2: 'much' under JawOpen"),
        ("Timecode,JawOpen\n0,nan\n", "line 2: JawOpen is nan"),
        ("1,2,3\n", "no header"),
    ],
)
def test_bad_csv(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "take.csv").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        open_driver(tmp_path / "take.csv")
    assert "take.csv" in str(error.value) and "\n" not in str(error.value)


def test_mediapipe_json(tmp_path: Path) -> None:
    def frame(value: float) -> list[dict]:
        return [{"index": 0, "score": 0.9, "categoryName": "_neutral"}, {"index": 25, "score": value, "categoryName": "jawOpen"}]

    shapes = {
        "plain": [frame(0.1), frame(0.7)],
        "landmarker": [{"faceBlendshapes": [{"categories": frame(v)}], "timestampMs": t} for v, t in ((0.1, 0), (0.7, 40))],
        "wrapped": {"fps": 25, "frames": [{"blendshapes": {"jawOpen": v}} for v in (0.1, 0.7)]},
    }
    for name, content in shapes.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        codes = open_driver(tmp_path / f"{name}.json")
        np.testing.assert_allclose(codes.weight("jawOpen"), [0.1, 0.7], atol=1e-6)
        assert codes.fps == pytest.approx(30 if name == "plain" else 25)


def test_lam_and_audio2face_json(tmp_path: Path) -> None:
    frames = [{"weights": [0.2, 0.4], "time": 0.0, "rotation": []}, {"weights": [0.3, 0.5], "time": 1 / 30, "rotation": []}]
    (tmp_path / "lam.json").write_text(json.dumps({"names": ["JawOpen", "mouthFunnel"], "frames": frames}))
    lam = open_driver(tmp_path / "lam.json")
    assert lam.names == ("jawOpen", "mouthFunnel") and lam.fps == pytest.approx(30) and not lam.joints
    for frame in frames:
        frame["rotation"] = [0.3, 0.0, 0.0]
    (tmp_path / "beat.json").write_text(json.dumps({"names": ["jawOpen", "mouthFunnel"], "frames": frames}))
    np.testing.assert_allclose(open_driver(tmp_path / "beat.json").joints["head"], [[0.3, 0, 0]] * 2, atol=1e-6)
    (tmp_path / "a2f.json").write_text(json.dumps({"exportFps": 50, "facsNames": ["jawOpen"], "weightMat": [[0.1], [0.2], [0.3]]}))
    assert open_driver(tmp_path / "a2f.json").duration == pytest.approx(0.06)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2", "not valid JSON"),
        ("[]", "no frames"),
        ('{"names": ["jawOpen"], "frames": [{"weights": [1, 2]}]}', "frame 0 has 2 weights for 1 names"),
        ('[[{"categoryName": "ears", "score": 1}]]', "frame 0 has no expression"),
        ('{"weightMat": [[1]]}', "facsNames"),
        ("17", "Known"),
    ],
)
def test_bad_json(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "take.json").write_text(text)
    with pytest.raises(UserError, match=message):
        open_driver(tmp_path / "take.json")


def test_arkit_npz_dialects(tmp_path: Path) -> None:
    weights = np.random.default_rng(0).random((4, 52)).astype(np.float32)
    np.savez(tmp_path / "bare.npz", blendshapes=weights, fps=25)
    assert open_driver(tmp_path / "bare.npz").names == ARKIT_NAMES and open_driver(tmp_path / "bare.npz").fps == 25
    np.savez(tmp_path / "ict.npz", expression_weights=weights[:, :2], expression_names=np.array(["jawOpen", "eyeBlink_L"]))
    assert open_driver(tmp_path / "ict.npz").names == ("jawOpen", "eyeBlinkLeft")


def test_codes_of_a_tracked_folder_take_the_names_of_its_manifest(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "codes.npz",
        expression=np.ones((3, 2), np.float32),
        joints=np.zeros((3, 5, 3)),
        rotation=np.zeros((3, 3)),
        translation=np.zeros((3, 3)),
    )
    (tmp_path / "manifest.json").write_text(
        json.dumps({"kind": "avatars.tracked_sequence", "fps": 24, "expression_names": ["jawOpen", "cheekPuff"]})
    )
    codes = open_driver(tmp_path / "codes.npz")
    assert (
        codes.names == ("jawOpen", "cheekPuff")
        and codes.fps == 24
        and set(codes.joints) == {"neck", "head", "jaw", "eye_left", "eye_right"}
    )


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"faces": np.zeros(3)}, "holds faces"),
        ({"weights": np.zeros((3, 7))}, "no names are given"),
        ({"weights": np.zeros((3, 7)), "names": np.array(["jawOpen"])}, "expected \\[T, 1\\]"),
        ({"weights": np.full((3, 52), np.nan)}, "frame 0"),
        ({"weights": np.array([{}], dtype=object)}, "holds pickled objects"),
        ({"weights": np.zeros((3, 52)), "joints": np.zeros((2, 5, 3))}, "neck must be"),
    ],
)
def test_bad_npz(tmp_path: Path, arrays: dict, message: str) -> None:
    np.savez(tmp_path / "take.npz", **arrays)
    with pytest.raises(UserError, match=message):
        open_driver(tmp_path / "take.npz")


def test_truncated_npz_and_wrong_paths(tmp_path: Path) -> None:
    save_codes(tmp_path / "a.npz", clip())
    (tmp_path / "cut.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:200])
    for path, message in (("cut.npz", "is damaged"), ("none.csv", "no such file"), ("take.fbx", "do not know how to read '.fbx'")):
        with pytest.raises(UserError, match=message):
            open_driver(tmp_path / path)
    with pytest.raises(UserError, match="write '.bvh'"):
        save_codes(tmp_path / "a.bvh", clip())
