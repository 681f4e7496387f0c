"""Writing MP4: H.264 with the right colours and, where given, sound in step.

Pictures are converted here and not by swscale, whose fast path darkens by about 1/255: BT.709 matrix, limited range, chroma
sited left as H.264 assumes, and the stream is tagged so. Widths and heights become even by repeating the last
column or row. A file appears under its name only when it is complete.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from avatars.errors import UserError
from avatars.files import atomic_path

SUFFIXES = (".mp4", ".m4v", ".mov")
_KR, _KB = 0.2126, 0.0722  # luma weights of BT.709 (ITU-R BT.709-6, item 3.2)


@dataclass(frozen=True)
class VideoFormat:
    """How a video is encoded; the defaults are visually lossless at a head's usual sizes."""

    crf: int = 16  # x264's quality: 0 lossless, 23 its default
    preset: str = "medium"
    audio_kbps: int = 128


class VideoWriter:
    """Takes frames one by one; see `open_video`. Memory does not grow with the length."""

    def __init__(self, path: Path, fps: float, audio: np.ndarray | None, audio_rate: int, format: VideoFormat) -> None:
        import av

        self.path, self.format = path, format
        self.rate = Fraction(fps).limit_denominator(1001)
        self.audio, self.audio_rate = audio, audio_rate  # float32 [channels, samples]
        self.container = av.open(str(path), "w", options={"movflags": "+faststart"})
        self.video: Any = None
        self.sound: Any = None
        self.frames = self.sounded = 0
        self.size = (0, 0)

    def write(self, picture: Any) -> None:
        """Add one frame: [H, W, 3] uint8, or float in 0–1 (numpy or torch, clipped here)."""
        import av

        rgb = to_uint8(picture)
        if not self.frames:
            self._begin(rgb)
        if rgb.shape[:2] != self.size:
            raise ValueError(f"video frame {self.frames} is {rgb.shape[1]}×{rgb.shape[0]}, the first was {self.size[1]}×{self.size[0]}")
        frame = av.VideoFrame(self.video.width, self.video.height, "yuv420p")
        for plane, values in zip(frame.planes, rgb_to_yuv420(rgb), strict=True):
            rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
            rows[:, : plane.width] = values
        frame.colorspace, frame.color_range = 1, 1  # BT.709, limited
        frame.pts, frame.time_base = self.frames, 1 / self.rate
        self.container.mux(self.video.encode(frame))
        self.frames += 1
        self._sound_up_to(self.frames / self.rate)

    def close(self) -> None:
        """Flush; called by `open_video`."""
        if self.video is None:
            raise ValueError(f"{self.path}: a video needs at least one frame")
        self.container.mux(self.video.encode(None))
        if self.sound is not None:
            self.container.mux(self.sound.encode(None))
        self.container.close()

    def _begin(self, rgb: np.ndarray) -> None:
        self.size = rgb.shape[:2]
        height, width = (n + n % 2 for n in self.size)
        # Threads are x264's own; the lookahead of a preset only costs memory here.
        self.video = self.container.add_stream("libx264", rate=self.rate)
        self.video.width, self.video.height, self.video.pix_fmt = width, height, "yuv420p"
        self.video.options = {"crf": str(self.format.crf), "preset": self.format.preset}
        context = self.video.codec_context
        context.colorspace, context.color_range, context.color_primaries, context.color_trc = 1, 1, 1, 1
        context.time_base = 1 / self.rate
        if self.audio is not None:
            layout = "mono" if self.audio.shape[0] == 1 else "stereo"
            self.sound = self.container.add_stream("aac", rate=self.audio_rate, layout=layout)
            self.sound.bit_rate = self.format.audio_kbps * 1000

    def _sound_up_to(self, seconds: Fraction) -> None:
        """Encode the sound that belongs to the frames so far; none at all past the picture's end."""
        import av

        if self.sound is None or self.audio is None:
            return
        stop = min(int(seconds * self.audio_rate), self.audio.shape[1])
        if stop <= self.sounded:
            return
        chunk = np.ascontiguousarray(self.audio[:, self.sounded : stop])
        frame = av.AudioFrame.from_ndarray(chunk, format="fltp", layout=self.sound.layout.name)
        frame.sample_rate, frame.pts, frame.time_base = self.audio_rate, self.sounded, Fraction(1, self.audio_rate)
        self.container.mux(self.sound.encode(frame))
        self.sounded = stop


@contextmanager
def open_video(
    path: str | os.PathLike, fps: float, audio: str | os.PathLike | None = None, audio_start: float = 0.0, format: VideoFormat | None = None
):
    """Yield a VideoWriter for `path`; the file is complete or absent.

    audio: any sound file or video with sound; from its second `audio_start` on it runs beside the first frame, and it ends
    with the picture (or earlier, when it is shorter).
    """
    path = check_video_path(path)
    if fps <= 0:
        raise ValueError(f"{path}: {fps} frames a second")
    samples, rate = read_audio(audio, audio_start) if audio is not None else (None, 0)
    with atomic_path(path) as temporary, _named(temporary):
        temporary.touch()  # FFmpeg opens it only with the first picture
        writer = VideoWriter(temporary, fps, samples, rate, format or VideoFormat())
        try:
            yield writer
        except BaseException:
            writer.container.close()
            raise
        writer.close()


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """What the file system refuses FFmpeg, as an OSError that names the file."""
    import av

    try:
        yield
    except av.FFmpegError as error:
        if isinstance(error, OSError) and error.filename is None and error.errno:
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise


def write_video(path: str | os.PathLike, frames: Iterable[Any], fps: float, audio: str | os.PathLike | None = None) -> int:
    """Write all `frames`, as `open_video` does; returns their number."""
    with open_video(path, fps, audio) as video:
        for frame in frames:
            video.write(frame)
    return video.frames


def check_video_path(path: str | os.PathLike) -> Path:
    """The path, when it can be a video; UserError with the remedy otherwise. Worth calling before an hour of rendering."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path}: a video must end in {', '.join(SUFFIXES)}. Write --out {path.with_suffix('.mp4')}.")
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the name of the video file to write.")
    return path


def read_audio(path: str | os.PathLike, start: float = 0.0) -> tuple[np.ndarray, int]:
    """Samples float32 [channels (1 or 2), samples] and their rate, from second `start` on; UserError names the file."""
    import av

    path = Path(path)
    if not path.is_file():
        raise UserError(f"sound: {path} does not exist. Give a sound file (wav, mp3, flac, m4a …) or leave it out.")
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise UserError(f"sound: {path} holds no sound. Give a sound file (wav, mp3, flac, m4a …) or leave it out.")
            stream = container.streams.audio[0]
            layout = "mono" if stream.codec_context.channels == 1 else "stereo"
            resample = av.AudioResampler(format="fltp", layout=layout, rate=stream.rate)
            chunks = [f.to_ndarray() for frame in container.decode(stream) for f in resample.resample(frame)]
            chunks += [f.to_ndarray() for f in resample.resample(None)]
            rate = stream.rate
    except (av.FFmpegError, ValueError) as error:
        raise UserError(f"sound: {path} cannot be decoded ({error}). Convert it to wav.") from None
    samples = np.concatenate(chunks, 1) if chunks else np.zeros((1, 0), np.float32)
    return samples[:, round(start * rate) :], rate


def rgb_to_yuv420(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """uint8 [H, W, 3] → Y [H', W'], U and V [H'/2, W'/2], uint8, limited range, H' and W' even; BT.709 item 3.2–3.4."""
    h, w = rgb.shape[:2]
    if h % 2 or w % 2:
        rgb = np.pad(rgb, ((0, h % 2), (0, w % 2), (0, 0)), mode="edge")
    c = rgb.astype(np.float32) / 255
    luma = _KR * c[..., 0] + (1 - _KR - _KB) * c[..., 1] + _KB * c[..., 2]
    planes = [luma * 219 + 16]
    for channel, k in ((2, _KB), (0, _KR)):
        chroma = (c[..., channel] - luma) / (2 * (1 - k))
        rows = (chroma[0::2] + chroma[1::2]) / 2
        # Sited on the even columns: weights ¼ ½ ¼, the left edge repeated.
        before = np.concatenate([rows[:, :1], rows[:, 1:-1:2]], 1)
        planes.append((before / 4 + rows[:, 0::2] / 2 + rows[:, 1::2] / 4) * 224 + 128)
    y, u, v = (np.clip(p + 0.5, 0, 255).astype(np.uint8) for p in planes)
    return y, u, v


def to_uint8(picture: Any) -> np.ndarray:
    """[H, W, 3] uint8 of a numpy array or tensor, float in 0–1 (rounded, clipped) or uint8 already."""
    if hasattr(picture, "detach"):
        picture = picture.detach().cpu().numpy()
    picture = np.asarray(picture)
    if picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"a picture must be [H, W, 3], got {picture.shape}")
    if picture.dtype == np.uint8:
        return picture
    if not np.isfinite(picture).all():
        raise ValueError("a picture holds values that are not numbers")
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)


def side_by_side(pictures: Sequence[np.ndarray], gap: int = 4, background: int = 255) -> np.ndarray:
    """uint8 pictures [H, W, 3] of one height next to each other, `gap` pixels apart."""
    heights = {p.shape[0] for p in pictures}
    if len(heights) != 1:
        raise ValueError(f"pictures side by side need one height, got {sorted(heights)}")
    bar = np.full((pictures[0].shape[0], gap, 3), background, np.uint8)
    parts: list[np.ndarray] = []
    for picture in pictures:
        parts += [bar, picture] if parts else [picture]
    return np.concatenate(parts, 1)
