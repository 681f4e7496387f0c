"""A sound file as a performance: what the default sound driver (`avatars.drive.sound`) makes of it."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from avatars.drive import sound
from avatars.drive.codes import Codes
from avatars.errors import UserError

SUFFIXES = (".wav", ".flac", ".mp3", ".m4a", ".ogg")
MOST_SECONDS = 2 * 3600


def read(path: Path) -> Codes:
    """The mouth that the sound moves; UserError names the file."""
    samples = read_sound(path)
    warnings.warn(f"{path.name} is a sound: {sound.sound_drivers()[sound.DEFAULT].ABOUT}", stacklevel=2)
    return sound.codes_of_sound(samples, sound.start())


def read_sound(path: Path) -> np.ndarray:
    """Mono samples [N] float32 at `sound.RATE`; UserError when there is no sound in the file, or too much."""
    import av
    from av.error import FFmpegError

    chunks, count = [], 0
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise UserError(f"codes: {path} holds no sound.")
            resampler = av.AudioResampler("flt", "mono", sound.RATE)
            for frame in container.decode(audio=0):
                for piece in resampler.resample(frame):
                    chunks.append(piece.to_ndarray()[0])
                    count += len(chunks[-1])
                if count > MOST_SECONDS * sound.RATE:
                    raise UserError(f"codes: {path} is longer than {MOST_SECONDS // 3600} hours. Cut it into pieces.")
            chunks += [piece.to_ndarray()[0] for piece in resampler.resample(None)]
    except (FFmpegError, OSError, ValueError) as error:
        raise UserError(f"codes: {path} cannot be read as sound ({error}). Give a WAV, FLAC, MP3, M4A or Ogg file.") from None
    samples = np.concatenate(chunks) if chunks else np.zeros(0, np.float32)
    if len(samples) == 0:
        raise UserError(f"codes: {path} holds no sound.")
    return samples.astype(np.float32)
