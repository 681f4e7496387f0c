"""MP4s: pictures come back as they were, sound stays in step, and a name appears only when the file is whole."""

from __future__ import annotations

import errno
import wave
from pathlib import Path

import numpy as np
import pytest
import torch

from avatars.errors import UserError
from avatars.video import (
    VideoWriter,
    check_video_path,
    open_video,
    read_audio,
    rgb_to_yuv420,
    side_by_side,
    to_uint8,
    write_video,
)

av = pytest.importorskip("av")


def smooth(height: int, width: int, shift: float = 0.0) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    return np.stack([0.5 + 0.4 * np.sin(x / 23 + shift), 0.5 + 0.4 * np.cos(y / 31), 0.5 + 0.3 * np.sin((x + y) / 37)], -1)


def sound(path: Path, seconds: float, rate: int = 22050, channels: int = 1) -> Path:
    samples = (8000 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.repeat(samples, channels).tobytes())
    return path


def upsampled(c: np.ndarray) -> np.ndarray:
    """Chroma [h, w] → [2h, 2w]: sited on the even columns, halfway between the rows."""
    c = c.astype(np.float64)
    wide = np.repeat(c, 2, 1)
    wide[:, 1:-1:2] = (c[:, :-1] + c[:, 1:]) / 2
    up, down = np.vstack([wide[:1], wide[:-1]]), np.vstack([wide[1:], wide[-1:]])
    return np.stack([0.75 * wide + 0.25 * up, 0.75 * wide + 0.25 * down], 1).reshape(-1, wide.shape[1])


def decoded(path: Path) -> list[np.ndarray]:
    """Frames as float RGB in 0–255, converted exactly: swscale's own conversion is the thing not to trust."""
    frames = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            frames.append(to_rgb(*(np.frombuffer(p, np.uint8).reshape(p.height, p.line_size)[:, : p.width] for p in frame.planes)))
    return frames


def to_rgb(y: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The inverse of BT.709 limited range, unrounded."""
    luma, cb, cr = (y - 16.0) / 219, (upsampled(u) - 128) / 224, (upsampled(v) - 128) / 224
    r, b = luma + 1.5748 * cr, luma + 1.8556 * cb
    return 255 * np.stack([r, (luma - 0.2126 * r - 0.0722 * b) / 0.7152, b], -1)


def test_what_the_file_system_refuses_names_the_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object) -> None:
        raise av.error.OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(VideoWriter, "write", full)
    with pytest.raises(OSError) as caught, open_video(tmp_path / "a.mp4", 25) as video:
        video.write(None)
    assert caught.value.filename == str(tmp_path / "a.mp4") and not list(tmp_path.iterdir())


def test_the_conversion_has_no_colour_cast() -> None:
    error = to_rgb(*rgb_to_yuv420(to_uint8(smooth(64, 96)))) - 255 * smooth(64, 96)
    assert np.abs(error.mean((0, 1))).max() < 0.15
    assert np.abs(error).mean() < 0.7


@pytest.mark.parametrize("size", [(64, 96), (63, 95)])
def test_pictures_come_back(tmp_path: Path, size: tuple[int, int]) -> None:
    pictures = [smooth(*size, shift=i / 5) for i in range(6)]
    assert write_video(tmp_path / "a.mp4", pictures, 24) == 6
    frames = decoded(tmp_path / "a.mp4")
    assert len(frames) == 6 and frames[0].shape == (64, 96, 3)
    for frame, picture in zip(frames, pictures, strict=True):
        error = frame[: size[0], : size[1]] - 255 * picture
        assert np.abs(error.mean((0, 1))).max() < 1.2, "more than the encoder's own quantisation"
        assert np.abs(error).mean() < 2


def test_primary_colours_have_the_matrix_that_the_tags_claim(tmp_path: Path) -> None:
    for rgb in ([255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0]):
        write_video(tmp_path / "a.mp4", [np.full((32, 32, 3), rgb, np.uint8)] * 2, 30)
        assert np.abs(decoded(tmp_path / "a.mp4")[0] - rgb).max() < 4
    with av.open(str(tmp_path / "a.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_range, context.color_primaries, context.color_trc) == (1, 1, 1, 1)
        assert context.pix_fmt == "yuv420p" and context.name == "h264"


def test_luma_of_known_colours() -> None:
    y, u, v = rgb_to_yuv420(np.array([[[255, 255, 255], [255, 255, 255]], [[255, 255, 255], [255, 255, 255]]], np.uint8))
    assert (y == 235).all() and u == 128 and v == 128
    y, u, v = rgb_to_yuv420(np.zeros((3, 5, 3), np.uint8))
    assert y.shape == (4, 6) and u.shape == (2, 3) and (y == 16).all()
    y, u, v = rgb_to_yuv420(np.full((2, 2, 3), [255, 0, 0], np.uint8))
    assert v[0, 0] == 240 and y[0, 0] == round(0.2126 * 219 + 16)


@pytest.mark.parametrize(("seconds", "expected"), [(3.0, 1.0), (0.5, 0.5)])
def test_sound_ends_with_the_picture(tmp_path: Path, seconds: float, expected: float) -> None:
    write_video(tmp_path / "a.mp4", [smooth(32, 32)] * 24, 24, sound(tmp_path / "a.wav", seconds))
    with av.open(str(tmp_path / "a.mp4")) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert float(video.duration * video.time_base) == pytest.approx(1.0, abs=1e-3)
        # AAC comes in blocks of 1024 samples.
        assert float(audio.duration * audio.time_base) == pytest.approx(expected, abs=1024 / 22050)
        assert audio.codec_context.name == "aac"


def test_sound_is_in_step(tmp_path: Path) -> None:
    rate = 16000
    samples = np.zeros(rate * 2, "<i2")
    samples[rate : rate + 160] = 20000  # a click at one second
    with wave.open(str(tmp_path / "click.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    for start, at in ((0.0, 1.0), (0.5, 0.5)):
        with open_video(tmp_path / "a.mp4", 25, tmp_path / "click.wav", audio_start=start) as video:
            for _ in range(50):
                video.write(smooth(32, 32))
        with av.open(str(tmp_path / "a.mp4")) as container:
            heard = [(float(f.pts * f.time_base), f.to_ndarray()[0]) for f in container.decode(audio=0)]
        times = np.concatenate([t + np.arange(len(s)) / rate for t, s in heard])
        values = np.concatenate([s for _, s in heard])
        assert times[np.abs(values).argmax()] == pytest.approx(at + 0.005, abs=0.02)


def test_stereo_and_sound_out_of_a_video(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", [smooth(32, 32)] * 10, 10, sound(tmp_path / "a.wav", 1, 44100, 2))
    samples, rate = read_audio(tmp_path / "a.mp4")
    assert rate == 44100 and samples.shape[0] == 2 and samples.shape[1] / rate == pytest.approx(1, abs=0.06)


def test_nothing_half_written_under_the_final_name(tmp_path: Path) -> None:
    def broken():
        yield smooth(32, 32)
        raise RuntimeError("lost the renderer")

    with pytest.raises(RuntimeError):
        write_video(tmp_path / "a.mp4", broken(), 24)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="at least one frame"):
        write_video(tmp_path / "a.mp4", [], 24)
    assert list(tmp_path.iterdir()) == []


def test_wrong_input(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must end in .mp4"):
        check_video_path(tmp_path / "clip.avi")
    with pytest.raises(UserError, match="folder"):
        (tmp_path / "x.mp4").mkdir()
        check_video_path(tmp_path / "x.mp4")
    with pytest.raises(UserError, match="none.wav does not exist"):
        write_video(tmp_path / "a.mp4", [smooth(32, 32)], 24, tmp_path / "none.wav")
    (tmp_path / "bad.wav").write_bytes(b"RIFF no sound")
    with pytest.raises(UserError, match="bad.wav"):
        write_video(tmp_path / "a.mp4", [smooth(32, 32)], 24, tmp_path / "bad.wav")
    write_video(tmp_path / "mute.mp4", [smooth(32, 32)], 24)
    with pytest.raises(UserError, match="holds no sound"):
        read_audio(tmp_path / "mute.mp4")
    with pytest.raises(ValueError, match="frame 1 is 32×16"):
        write_video(tmp_path / "a.mp4", [smooth(32, 32), smooth(16, 32)], 24)


def test_pictures_as_bytes() -> None:
    assert to_uint8(torch.tensor([[[0.0, 0.5, 1.5]]])).tolist() == [[[0, 128, 255]]]
    with pytest.raises(ValueError, match=r"\[H, W, 3\]"):
        to_uint8(np.zeros((3, 4)))
    with pytest.raises(ValueError, match="not numbers"):
        to_uint8(np.full((1, 1, 3), np.nan))
    a, b = np.zeros((4, 3, 3), np.uint8), np.ones((4, 5, 3), np.uint8)
    assert side_by_side([a, b], gap=2).shape == (4, 10, 3)
    with pytest.raises(ValueError, match="one height"):
        side_by_side([a, b[:2]])
