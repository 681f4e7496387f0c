"""Readers: one contract over all that are found, the layouts they accept, and what they say about bad ones."""

from __future__ import annotations

import json
import wave
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from filming import SIZE, picture, ring, write_video

from avatars.errors import CaptureError
from capture.decode import extract_audio, probe_video, read_video
from capture.formats import Capture, formats, open_capture, select
from capture.sample import SAMPLE


def make_v2(folder: Path, studio: Callable[..., Path]) -> Path:
    return studio("v2", frames=5)


def make_v1(folder: Path, studio: Callable[..., Path]) -> Path:
    cameras = ring()
    path = folder / "v1"
    for t in range(3):
        images = path / "sequences" / "A" / "timesteps" / f"frame_{t:05d}" / "images-2x-73fps"
        images.mkdir(parents=True)
        for k, name in enumerate(cameras.names):
            cv2.imwrite(str(images / f"cam_{name}.png"), picture(cameras, k, seed=t)[0][..., ::-1])
    values = {
        "world_2_cam": {n: v.tolist() for n, v in zip(cameras.names, cameras.viewmats, strict=True)},
        "intrinsics": cameras.Ks[0].tolist(),
    }
    (path / "camera_params.json").write_text(json.dumps(values))
    return path


def make_video(folder: Path, studio: Callable[..., Path]) -> Path:
    return write_video(folder / "talk.mp4", (picture(ring(), 1, seed=t)[0] for t in range(5)))


def make_images(folder: Path, studio: Callable[..., Path]) -> Path:
    (folder / "pictures").mkdir()
    for t in (1, 2, 10):
        cv2.imwrite(str(folder / "pictures" / f"{t}.png"), np.full((SIZE[1], SIZE[0], 3), t, np.uint8))
    return folder / "pictures"


MAKERS = {"nersemble": make_v2, "nersemble_v1": make_v1, "video": make_video, "images": make_images}


def test_every_reader_is_tested() -> None:
    assert set(formats()) == set(MAKERS)


@pytest.mark.parametrize("name", MAKERS)
def test_contract(name: str, tmp_path: Path, studio: Callable[..., Path]) -> None:
    path = MAKERS[name](tmp_path, studio)
    capture: Capture = open_capture(path)
    assert capture.format == name and capture.path == path and capture.name
    assert capture.image_size == SIZE
    if capture.cameras is not None:
        assert capture.cameras.names == capture.camera_names
        assert (capture.cameras.width, capture.cameras.height) == SIZE
        assert capture.calibration_path is not None and capture.calibration_path.exists()
    for sequence in capture.sequences:
        count = capture.frame_count(sequence)
        for camera in capture.camera_names:
            assert all(source.exists() for source in capture.sources(sequence, camera))
            frames = list(capture.frames(sequence, camera))
            assert len(frames) == count
            assert all(f.shape == (SIZE[1], SIZE[0], 3) and f.dtype == np.uint8 for f in frames)
            np.testing.assert_array_equal(list(capture.frames(sequence, camera, 1, 3)), frames[1:3])
            luma = list(capture.luma(sequence, camera))
            assert len(luma) == count and luma[0].shape == (SIZE[1], SIZE[0])
        capture.audio(sequence)
    assert capture.clean_plate(capture.camera_names[0]) is None or name == "nersemble"
    assert capture.color_corrections == {} and capture.truth is None and capture.fps > 0
    fewer = select(capture, capture.camera_names[-1:], capture.sequences[:1])
    assert fewer.camera_names == capture.camera_names[-1:]
    assert fewer.cameras is None or fewer.cameras.names == fewer.camera_names
    with pytest.raises(CaptureError, match="no camera nobody.*known"):
        select(capture, ["nobody"])


def test_colours_survive_the_decoder(studio: Callable[..., Path]) -> None:
    capture = open_capture(studio("v2", frames=3))
    name = capture.camera_names[0]
    wall = np.s_[:12, :12]
    mean = np.mean([f[wall].astype(float) for f in capture.frames("A", name)], axis=(0, 1, 2))
    np.testing.assert_allclose(mean, capture.clean_plate(name)[wall].mean((0, 1)), atol=0.8)


def test_real_studio_agrees_with_its_plate(test_data: Path) -> None:
    path = test_data / "captures" / "studio-01"
    if not path.is_dir():
        pytest.skip(f"no {path}")
    capture = open_capture(path)
    assert len(capture.camera_names) == 16 and capture.sequences == ("EMO-1", "EXP-1", "SEN-1") and capture.fps == 24
    for name in ("100000009", "100000013"):
        wall = np.s_[5:60, 335:395]
        plate = capture.clean_plate(name)[wall].astype(float)
        difference = np.mean([f[wall] - plate for f in capture.frames("EXP-1", name, 0, 6)], axis=(0, 1, 2))
        assert np.abs(difference).max() < 0.8, difference


def test_numbers_order_pictures(tmp_path: Path, studio: Callable[..., Path]) -> None:
    capture = open_capture(make_images(tmp_path, studio))
    assert [f[0, 0, 0] for f in capture.frames(capture.sequences[0], "camera")] == [1, 2, 10]


@pytest.mark.parametrize(("change", "message"), [
    ({"world_2_cam": None}, "world_2_cam"),
    ({"intrinsics": [[1, 0], [0, 1]]}, "intrinsics must be 3×3"),
    ({"intrinsics": {"220000": np.eye(3).tolist()}}, "no intrinsics for camera 220001"),
    ({"image_size": [80, 80]}, "another shape"),
    ({"image_size": "big"}, r"must be \[width, height\], got big"),
    ({"image_size": {"w": 3}}, r"must be \[width, height\]"),
    ({"units": "furlongs"}, "unknown \"units\""),
    ({"world_2_cam": {"999": np.eye(4).tolist()}}, "no camera in common"),
])  # fmt: skip
def test_bad_calibrations_are_named(change: dict, message: str, studio: Callable[..., Path]) -> None:
    with pytest.raises(CaptureError, match=message) as error:
        open_capture(studio(frames=2, calibration=change))
    assert "camera_params.json" in str(error.value)


def test_damaged_calibration(studio: Callable[..., Path]) -> None:
    folder = studio(frames=2)
    (folder / "calibration" / "camera_params.json").write_text('{"world_2_cam": ')
    with pytest.raises(CaptureError, match="camera_params.json is damaged"):
        open_capture(folder)


def test_missing_calibration(studio: Callable[..., Path]) -> None:
    folder = studio(frames=2)
    (folder / "calibration" / "camera_params.json").unlink()
    with pytest.raises(CaptureError, match="no calibration/camera_params.json"):
        open_capture(folder)


def test_units_are_converted(studio: Callable[..., Path]) -> None:
    cameras = ring()
    views = cameras.viewmats.clone()
    views[:, :3, 3] *= 1000
    millimetres = {"units": "millimetres", "world_2_cam": {n: v.tolist() for n, v in zip(cameras.names, views, strict=True)}}
    capture = open_capture(studio(frames=2, calibration=millimetres))
    np.testing.assert_allclose(capture.cameras.viewmats, cameras.viewmats, atol=1e-6)


def test_intrinsics_of_twice_the_size_are_recognised(studio: Callable[..., Path]) -> None:
    cameras = ring()
    doubled = cameras.resized(2 * SIZE[0], 2 * SIZE[1])
    for extra in ({"image_size": None}, {"image_size": [2 * SIZE[0], 2 * SIZE[1]]}):
        capture = open_capture(studio(f"v{len(str(extra))}", frames=2, calibration={"intrinsics": doubled.Ks[0].tolist(), **extra}))
        np.testing.assert_allclose(capture.cameras.Ks, cameras.Ks, rtol=1e-5)
        assert len(capture.notes) == 1


def test_unknown_size_is_an_error_not_a_guess(studio: Callable[..., Path]) -> None:
    odd = ring().Ks[0].clone()
    odd[:2, 2] *= 1.5
    with pytest.raises(CaptureError, match="states no image_size"):
        open_capture(studio(frames=2, calibration={"intrinsics": odd.tolist(), "image_size": None}))


def test_cameras_without_video_or_calibration_are_left_out_with_a_note(studio: Callable[..., Path]) -> None:
    folder = studio(frames=2)
    (folder / "sequences" / "A" / "images" / "cam_220001.mp4").unlink()
    (folder / "sequences" / "A" / "images" / "cam_220002.mp4").rename(folder / "sequences" / "A" / "images" / "cam_777.mp4")
    capture = open_capture(folder)
    assert capture.camera_names == ("220000", "220003")
    assert "220001, 220002" in capture.notes[0] and "777" in capture.notes[1]


@pytest.mark.parametrize("layout", ["nersemble", "nersemble_v1"])
def test_sequences_without_pictures_are_left_out_with_a_note(layout: str, tmp_path: Path, studio: Callable[..., Path]) -> None:
    path = MAKERS[layout](tmp_path, studio)
    before = open_capture(path)
    (path / "sequences" / "SEN-99" / "images").mkdir(parents=True)
    (path / "sequences" / "BACKGROUND").mkdir(exist_ok=True)
    capture = open_capture(path)
    assert capture.format == layout and capture.sequences == before.sequences
    assert set(capture.notes) - set(before.notes) == {"without any picture, left out: sequence SEN-99"}


def test_colour_calibration_is_read(studio: Callable[..., Path]) -> None:
    folder = studio(frames=2)
    path = folder / "calibration" / "color_calibration.json"
    path.write_text(json.dumps({**{f"22000{k}": np.eye(3).tolist() for k in range(3)}, "220003": np.eye(4, 3).tolist(), "999": [[1]]}))
    capture = open_capture(folder)
    corrections = capture.color_corrections
    assert set(corrections) == set(capture.camera_names) and capture.notes == ()
    assert corrections["220000"].linear_light and not corrections["220003"].linear_light
    path.write_text(json.dumps({"220000": [[1]], "220001": np.eye(3).tolist()}))
    capture = open_capture(folder)
    assert set(capture.color_corrections) == {"220001"} and "estimated instead" in capture.notes[0]
    for bad in (np.zeros((3, 3)), np.full((3, 3), np.nan), np.full((4, 3), 0.5)):
        path.write_text(json.dumps({"220000": bad.tolist()}))
        with pytest.raises(CaptureError, match="color_calibration.json: the matrix of camera 220000"):
            open_capture(folder)
    path.write_text('{"220000": [[')
    with pytest.raises(CaptureError, match="color_calibration.json is damaged"):
        open_capture(folder)


def test_plates_may_be_a_sequence(studio: Callable[..., Path]) -> None:
    folder = studio(frames=2, plates=False, sequences=("A", "BACKGROUND"))
    capture = open_capture(folder)
    assert capture.sequences == ("A",) and capture.clean_plate("220001").shape == (SIZE[1], SIZE[0], 3)


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="does not exist"):
        open_capture(tmp_path / "nowhere")
    with pytest.raises(CaptureError, match="Known formats"):
        open_capture(tmp_path)
    with pytest.raises(CaptureError, match="unknown capture format 'tape'.*known"):
        open_capture(tmp_path, "tape")


def test_truncated_video(studio: Callable[..., Path]) -> None:
    folder = studio(frames=16)
    path = folder / "sequences" / "A" / "images" / "cam_220001.mp4"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    capture = open_capture(folder)
    with pytest.raises(CaptureError, match=r"cam_220001.mp4 is (truncated|damaged).*Copy it"):
        list(capture.frames("A", "220001"))
    path.write_bytes(content[:200])
    with pytest.raises(CaptureError, match="cam_220001.mp4 (cannot be opened|holds no pictures): truncated"):
        list(capture.frames("A", "220001"))
    path.unlink()
    with pytest.raises(CaptureError, match="cam_220001.mp4 does not exist"):
        list(capture.frames("A", "220001"))


def test_wrong_size_in_one_camera(studio: Callable[..., Path]) -> None:
    folder = studio(frames=3)
    write_video(folder / "sequences" / "A" / "images" / "cam_220002.mp4", [np.zeros((40, 32, 3), np.uint8)] * 3)
    with pytest.raises(CaptureError, match="cam_220002.mp4 is 32×40, the capture is 64×80"):
        list(open_capture(folder).frames("A", "220002"))


def test_pictures_of_two_sizes(tmp_path: Path, studio: Callable[..., Path]) -> None:
    folder = make_images(tmp_path, studio)
    cv2.imwrite(str(folder / "2.png"), np.zeros((9, 9, 3), np.uint8))
    capture = open_capture(folder)
    with pytest.raises(CaptureError, match="2.png is 9×9, the capture is 64×80"):
        list(capture.frames("pictures", "camera"))


def test_probe(tmp_path: Path) -> None:
    info = probe_video(write_video(tmp_path / "a.mp4", [np.zeros((80, 64, 3), np.uint8)] * 7, fps=30))
    assert (info.width, info.height, info.fps, info.frame_count, info.has_audio) == (64, 80, 30, 7, False)


def test_grey_frames_are_the_luma(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", [np.full((80, 64, 3), 128, np.uint8)] * 2)
    assert abs(int(next(read_video(path, "gray"))[5, 5]) - 126) <= 1  # BT.601, limited range


def test_sound_comes_out_of_a_video(tmp_path: Path) -> None:
    tone = tmp_path / "tone.wav"
    with wave.open(str(tone), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(44100)
        file.writeframes((8000 * np.sin(np.arange(2 * 44100) / 20)).astype("<i2").tobytes())
    out = extract_audio(tone, tmp_path / "out.wav", 16000)
    with wave.open(str(out)) as file:
        assert (file.getnchannels(), file.getframerate()) == (1, 16000)
        assert abs(file.getnframes() - 16000) < 200
    silent = write_video(tmp_path / "silent.mp4", [np.zeros((80, 64, 3), np.uint8)] * 2)
    with pytest.raises(CaptureError, match="has no sound"):
        extract_audio(silent, tmp_path / "none.wav")
    assert not (tmp_path / "none.wav").exists()


def test_the_sample_has_everything() -> None:
    capture = open_capture(SAMPLE)
    assert capture.sequences == ("EMO-1", "EXP-1", "SEN-1") and len(capture.camera_names) == 10
    assert [capture.frame_count(s) for s in capture.sequences] == [32, 40, 48]
    assert capture.audio("SEN-1") is not None and capture.audio("EXP-1") is None
    assert all(capture.clean_plate(c) is not None for c in capture.camera_names)
    size = sum(f.stat().st_size for f in SAMPLE.rglob("*") if f.is_file())
    truth_size = sum(f.stat().st_size for f in (SAMPLE / "truth").rglob("*") if f.is_file())
    assert size < 12e6 and truth_size < 3e6
    assert "CC BY 3.0" in (SAMPLE / "ATTRIBUTION.md").read_text() and "Lee Perry-Smith" in (SAMPLE / "ATTRIBUTION.md").read_text()


def test_the_sample_s_truth_lies_on_its_pictures() -> None:
    capture = open_capture(SAMPLE)
    truth = capture.truth
    vertices = truth.vertices("EMO-1")
    assert vertices.shape[0] == 32 and vertices.dtype == np.float32
    assert truth.faces.max() < vertices.shape[1] and (truth.landmark_vertex_ids >= 0).all()
    assert 0.1 < np.ptp(vertices[0, :, 1]) < 0.2  # a face is that high, in metres
    assert np.abs(np.diff(vertices, axis=0)).max() < 0.03  # no jump from frame to frame
    assert truth.motion("EMO-1")["head_rotation"].shape == (32, 3, 3)
    assert set(truth.color_affines()) == set(capture.camera_names)
    for camera in ("100000009", "100000006"):
        k = capture.camera_names.index(camera)
        alpha = list(truth.alpha("EMO-1", camera))
        homogeneous = np.concatenate([vertices[20], np.ones((vertices.shape[1], 1))], 1) @ capture.cameras.viewmats[k].numpy().T
        pixels = homogeneous[:, :3] @ capture.cameras.Ks[k].numpy().T
        x, y = (pixels[:, :2] / pixels[:, 2:]).astype(int).T
        assert len(alpha) == 32 and (alpha[20][y, x] > 100).mean() > 0.97


def test_results_of_ours_are_no_captures(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "sheet.jpg"), np.zeros((8, 8, 3), np.uint8))
    open_capture(tmp_path)  # a folder of pictures
    for kind, says in (
        ("tracked_sequence", "a tracked sequence: go on with `avatars train`"),
        ("avatar", "an avatar: go on with `avatars view`"),
    ):
        (tmp_path / "manifest.json").write_text(f'{{"kind": "avatars.{kind}"}}')
        with pytest.raises(CaptureError, match=f"is {says}. Give the capture itself"):
            open_capture(tmp_path)
    for other in ('{"kind": "someone else"}', "[]", "{"):
        (tmp_path / "manifest.json").write_text(other)
        assert open_capture(tmp_path).format == "images"
    (tmp_path / "stages").mkdir()
    (tmp_path / "check.json").write_text("{}")
    with pytest.raises(CaptureError, match="is what `avatars demo` wrote"):
        open_capture(tmp_path)
