"""Reading video files frame by frame with the right colours, and taking their sound out.

Conventions: frames are uint8 RGB [H, W, 3] in display order. Everything streams: one decoded frame is alive at a time.

swscale's fast YUV→RGB path (what OpenCV and a plain ffmpeg use) darkens by one to two levels; with accurate rounding and full
chroma interpolation the wall of a test capture agrees with its clean plate to .6/255, so that is always asked for here.
"""

from __future__ import annotations

import wave
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from avatars.errors import CaptureError
from avatars.files import atomic_path

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v")


@dataclass(frozen=True)
class VideoInfo:
    """What the header of a video promises."""

    path: Path
    width: int
    height: int
    fps: float
    frame_count: int
    has_audio: bool


def probe_video(path: str | Path) -> VideoInfo:
    """Read the header of a video (and count packets where the header has no count); CaptureError when it cannot be opened."""
    path = Path(path)
    with _open(path) as container:
        stream = container.streams.video[0]
        count = stream.frames
        if not count:
            count = sum(1 for packet in container.demux(stream) if packet.size)
        rate = stream.average_rate or stream.base_rate or Fraction(25)
        width, height = stream.codec_context.width, stream.codec_context.height
        if not width or not height:
            raise CaptureError(f"{path} states no image size: it is not a video that can be decoded. Convert or copy it again.")
        return VideoInfo(path, width, height, float(rate), int(count), bool(container.streams.audio))


def read_video(path: str | Path, pixels: str = "rgb24", start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
    """Yield the frames [start, stop) of a video in order.

    `pixels` "rgb24" gives uint8 [H, W, 3]; "gray" gives uint8 [H, W] (the luma as stored: fast, for statistics and mattes).
    CaptureError when the video is missing, damaged, or ends before the number of frames that its header promises.
    """
    import av
    from av.video.reformatter import Interpolation

    accurate = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
    path = Path(path)
    index = 0
    with _open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"  # cameras are decoded side by side; threads within one only add latency
        promised = stream.frames
        try:
            for frame in container.decode(stream):
                if stop is not None and index >= stop:
                    return
                if frame.is_corrupt:
                    raise CaptureError(f"{path} is damaged at frame {index}. {_AGAIN}")
                if index >= start:
                    if pixels == "gray":
                        picture = _luma(frame)
                    else:
                        picture = frame.to_ndarray(format=pixels, interpolation=accurate, threads=1)
                    yield _upright(picture, frame)
                index += 1
        except av.FFmpegError as error:
            raise CaptureError(f"{path} is damaged at frame {index} ({error.strerror}). {_AGAIN}") from None
    if promised and index < promised:
        raise CaptureError(f"{path} is truncated: its header promises {promised} frames, {index} can be decoded. {_AGAIN}")


def extract_audio(path: str | Path, out: str | Path, rate: int = 22050) -> Path:
    """Write the sound of a video (or any sound file) as a 16 bit mono WAV of `rate` Hz at `out`, atomically."""
    import av

    path, out = Path(path), Path(out)
    try:
        with av.open(str(path)) as container, atomic_path(out) as temporary:
            if not container.streams.audio:
                raise CaptureError(f"{path} has no sound.")
            resampler = av.AudioResampler(format="s16", layout="mono", rate=rate)
            with wave.open(str(temporary), "wb") as file:
                file.setnchannels(1)
                file.setsampwidth(2)
                file.setframerate(rate)
                for frame in container.decode(audio=0):
                    for piece in resampler.resample(frame):
                        file.writeframes(piece.to_ndarray().tobytes())
                for piece in resampler.resample(None):
                    file.writeframes(piece.to_ndarray().tobytes())
    except av.FFmpegError as error:
        raise CaptureError(f"{path}: the sound cannot be read ({error}).") from None
    return out


_AGAIN = "Copy it from the camera again, or leave this camera out."


def _open(path: Path) -> Any:
    import av

    if not path.exists():
        raise CaptureError(f"{path} does not exist. Restore it, or leave this camera out.")
    try:
        container = av.open(str(path))
    except av.FFmpegError as error:
        reason = f"{path.stat().st_size} bytes; {error.strerror}"
        raise CaptureError(f"{path} cannot be opened: truncated or not a video ({reason}). {_AGAIN}") from None
    if not container.streams.video:
        container.close()
        raise CaptureError(f"{path} holds no pictures: truncated or not a video. {_AGAIN}")
    return container


def _luma(frame: Any) -> np.ndarray:
    name = frame.format.name
    if not (name.startswith(("yuv4", "yuvj4", "nv12", "gray")) and frame.format.components[0].bits == 8):
        return frame.to_ndarray(format="gray")
    plane = frame.planes[0]
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: frame.height, : frame.width].copy()


def _upright(picture: np.ndarray, frame: Any) -> np.ndarray:
    # Phones store portrait video lying down, with a rotation (counter-clockwise degrees) to be applied on display.
    turns = round(getattr(frame, "rotation", 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture
