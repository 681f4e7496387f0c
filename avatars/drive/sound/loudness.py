"""A mouth that follows the loudness and the colour of a voice: simple, immediate, and no speech recognition.

Every 20 ms a Hann window of 40 ms gives the level of the band of voices (120–4000 Hz), set between a floor and a peak that
adapt to microphone and speaker; the jaw opens and closes with it within a tenth of a second. What lies above 4 kHz against the rest tells
hissing sounds, for which the teeth stay together, and the centre of gravity of 400–2800 Hz tells round vowels (low: O, U) from
spread ones (high: E, I), after the second formant of vowels (Peterson and Barney 1952: 840–870 Hz for U and O, 2290 Hz for I).
Sounds are not recognised: lips do not close for P, B and M other than by the short silence before their burst.
"""

from __future__ import annotations

import numpy as np

from avatars.drive.sound import RATE

NAME = "Loudness and colour of the voice"
ABOUT = "Opens the mouth with the voice, rounds and spreads it with its colour. It recognises no sounds: lips do not close for P, B and M."
NAMES = (
    "jawOpen", "mouthFunnel", "mouthPucker", "mouthStretchLeft", "mouthStretchRight", "mouthLowerDownLeft", "mouthLowerDownRight",
    "mouthUpperUpLeft", "mouthUpperUpRight",
)  # fmt: skip
FPS = 50.0
HOP = int(RATE / FPS)
WINDOW = 2 * HOP
QUIETEST = -62.0  # dB of full scale: below this is silence on any microphone
GATE = 7.0  # dB over the floor where the mouth begins to open
LEAST_RANGE = 18.0  # dB between gate and peak, so that noise alone is not blown up
RISE, FALL = 0.3, 0.25  # of the way in one frame: opening, closing. Faster ones flutter and are farther ahead of real jaws
FLOOR_UP, FLOOR_DOWN = 0.02, 0.3  # of the way in one frame
PEAK_UP, PEAK_DOWN = 0.3, 0.008
ROUND, SPREAD = 850.0, 1700.0  # Hz: centre of gravity of a round and of a spread vowel


class Loudness:
    """See `avatars.drive.sound.SoundDriver`."""

    names = NAMES
    fps = FPS
    latency = 0.02  # half of the window; opening takes another frame

    def __init__(self) -> None:
        self._rest = np.zeros(0, np.float32)
        self._floor, self._peak = -60.0, -24.0
        self._weights = np.zeros(len(NAMES), np.float32)
        self._hann = np.hanning(WINDOW + 1)[:-1].astype(np.float32)
        frequencies = np.fft.rfftfreq(WINDOW, 1 / RATE)
        self._voice = (frequencies >= 120) & (frequencies <= 4000)
        self._hiss = frequencies > 4000
        self._vowel = (frequencies >= 400) & (frequencies <= 2800)
        self._hertz = frequencies[self._vowel]

    def hear(self, samples: np.ndarray) -> np.ndarray:
        """Weights [K, E] of the frames that samples [N] complete."""
        samples = np.asarray(samples, np.float32)
        if samples.ndim != 1:
            raise ValueError(f"sound must be mono [N], got {samples.shape}")
        self._rest = np.concatenate([self._rest, np.nan_to_num(samples, nan=0.0, posinf=1.0, neginf=-1.0).clip(-1, 1)])
        count = max((len(self._rest) - WINDOW) // HOP + 1, 0)
        frames = np.zeros((count, len(NAMES)), np.float32)
        for i in range(count):
            frames[i] = self._frame(self._rest[i * HOP : i * HOP + WINDOW])
        self._rest = self._rest[count * HOP :]
        return frames

    def _frame(self, window: np.ndarray) -> np.ndarray:
        power = np.abs(np.fft.rfft(window * self._hann)) ** 2 / (WINDOW * float((self._hann**2).sum()) / 2)
        voice, hiss = float(power[self._voice].sum()), float(power[self._hiss].sum())
        level = 10 * np.log10(voice + 1e-10)
        self._floor += (FLOOR_UP if level > self._floor else FLOOR_DOWN) * (min(level, self._peak - LEAST_RANGE) - self._floor)
        self._floor = max(self._floor, QUIETEST)
        gate = self._floor + GATE
        self._peak += (PEAK_UP if level > self._peak else PEAK_DOWN) * (level - self._peak) if level > gate else 0.0
        self._peak = max(self._peak, gate + LEAST_RANGE)
        open_ = min(max((level - gate) / (self._peak - gate), 0.0), 1.0)
        teeth = hiss / (hiss + voice + 1e-10)  # near 1 for S, near 0 for vowels
        jaw = open_ * (1 - 0.8 * teeth)
        vowel = power[self._vowel]
        centre = float((self._hertz * vowel).sum() / (vowel.sum() + 1e-12))
        spread = min(max((centre - ROUND) / (SPREAD - ROUND), 0.0), 1.0)
        rounded = (1 - spread) * jaw
        stretch = spread * jaw + 0.6 * teeth * open_
        target = np.array(
            [0.6 * jaw, 0.45 * rounded, 0.25 * rounded, 0.3 * stretch, 0.3 * stretch, 0.3 * jaw, 0.3 * jaw, 0.12 * jaw, 0.12 * jaw],
            np.float32,
        )
        share = np.where(target > self._weights, np.float32(RISE), np.float32(FALL))
        self._weights = self._weights + share * (target - self._weights)
        return self._weights


def start() -> Loudness:
    """A fresh one."""
    return Loudness()
