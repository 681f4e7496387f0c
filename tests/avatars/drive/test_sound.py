"""Sound drivers: the contract for each that is found, what the built-in one does with synthetic voices, and sound files."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest

from avatars.drive import ARKIT_NAMES, open_driver, sound
from avatars.errors import UserError

SPEECH = Path(__file__).resolve().parents[3] / "capture/sample/studio/sequences/SEN-1/audio.wav"
LEAST_CORRELATION = 0.5


def voice(formants: tuple[float, ...], seconds: float = 0.6, pitch: float = 120.0, loud: float = 0.2) -> np.ndarray:
    """A vowel: harmonics of a pitch, each as strong as its nearness to the formants makes it."""
    t = np.arange(round(seconds * sound.RATE)) / sound.RATE
    total = np.zeros_like(t)
    for k in range(1, int(7000 / pitch)):
        f = k * pitch
        total += sum(1 / (1 + ((f - F) / 90) ** 2) / (1 + i) for i, F in enumerate(formants)) * np.sin(2 * np.pi * f * t + k)
    return (loud * total / np.abs(total).max()).astype(np.float32)


def silence(seconds: float) -> np.ndarray:
    return 1e-4 * np.random.default_rng(0).standard_normal(round(seconds * sound.RATE)).astype(np.float32)


def write_wav(path: Path, samples: np.ndarray, rate: int = sound.RATE) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, len(samples), "NONE", ""))
        file.writeframes((32767 * samples.clip(-1, 1)).astype("<i2").tobytes())
    return path


@pytest.mark.parametrize("name", sound.sound_drivers())
def test_the_contract(name: str) -> None:
    module, driver = sound.sound_drivers()[name], sound.start(name)
    assert module.NAME and len(module.ABOUT) > 30 and set(driver.names) <= set(ARKIT_NAMES) and 0 <= driver.latency < 0.5
    heard = np.concatenate([silence(0.5), voice((700, 1200)), silence(0.5)])
    whole = driver.hear(heard)
    assert whole.dtype == np.float32 and np.isfinite(whole).all() and whole.min() >= 0 and whole.max() <= 1
    assert abs(len(whole) - len(heard) / sound.RATE * driver.fps) <= 2 + driver.latency * driver.fps
    other, chance, at, parts = sound.start(name), np.random.default_rng(1), 0, []
    while at < len(heard):  # however the sound is cut, the frames are the same
        size = int(chance.integers(0, 1500))
        parts.append(other.hear(heard[at : at + size]))
        at += size
    assert np.array_equal(np.concatenate(parts), whole)
    assert len(sound.start(name).hear(np.zeros(0, np.float32))) == 0
    assert np.isfinite(sound.start(name).hear(np.array([np.nan, np.inf, 1e30] * 4000, np.float32))).all()
    with pytest.raises(ValueError):
        sound.start(name).hear(np.zeros((2, 100), np.float32))


def weights(samples: np.ndarray, name: str) -> np.ndarray:
    return sound.codes_of_sound(samples, sound.start("loudness")).weight(name)


def test_the_mouth_opens_with_the_voice_and_closes_in_silence() -> None:
    heard = np.concatenate([silence(1.0), voice((700, 1200)), silence(1.0)])
    jaw = weights(heard, "jawOpen")
    assert len(jaw) == 130 and jaw[:48].max() < 0.03 and jaw[55:78].min() > 0.3 and jaw[100:].max() < 0.03
    opened = int(np.argmax(jaw > 0.25))
    assert 48 <= opened <= 56  # within 120 ms of the voice
    assert weights(silence(2.0), "jawOpen").max() < 0.03


def test_a_quiet_speaker_moves_as_much_as_a_loud_one() -> None:
    words = np.concatenate([np.concatenate([voice((600, 1100), 0.25), silence(0.15)]) for _ in range(12)])
    loud, quiet = (weights(words * gain, "jawOpen")[-100:] for gain in (1.0, 0.1))
    assert quiet.max() > 0.5 * loud.max()


def test_vowels_and_hissing_differ() -> None:
    u, i, a = ((voice(f, 0.6)) for f in ((300, 870), (270, 2290), (730, 1090)))
    hiss = 0.2 * np.diff(np.random.default_rng(2).standard_normal(9601)).astype(np.float32)
    hiss = np.fft.irfft(np.fft.rfft(hiss) * (np.fft.rfftfreq(9600, 1 / sound.RATE) > 4500), 9600).astype(np.float32)
    assert weights(u, "mouthFunnel").mean() > 2 * weights(i, "mouthFunnel").mean()
    assert weights(i, "mouthStretchLeft").mean() > 2 * weights(u, "mouthStretchLeft").mean()
    assert weights(hiss, "jawOpen").max() < 0.5 * weights(a, "jawOpen").max()


def test_a_sound_file_is_a_performance(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "talk.wav", np.concatenate([silence(0.5), voice((700, 1200)), silence(0.4)]))
    with pytest.warns(UserWarning, match="recognises no sounds"):
        codes = open_driver(path)
    assert codes.duration == pytest.approx(1.5, abs=0.05) and codes.weight("jawOpen").max() > 0.3
    (tmp_path / "bad.wav").write_bytes(b"RIFF, or so")
    with pytest.raises(UserError, match="bad.wav"):
        open_driver(tmp_path / "bad.wav")
    write_wav(tmp_path / "empty.wav", np.zeros(0, np.float32))
    with pytest.raises(UserError, match="empty.wav"):
        open_driver(tmp_path / "empty.wav")
    with pytest.raises(UserError, match="loudness"):
        sound.start("nobody")


def test_real_speech_moves_the_jaw_as_it_was_seen() -> None:
    """The sample capture's sentence: the jaw that the sound opens goes with the one that was animated."""
    from avatars.drive.sound_file import read_sound

    truth = np.load(SPEECH.parents[2] / "truth/SEN-1/motion.npz")
    jaw = truth["expression_weights"][:, truth["expression_names"].tolist().index("jawOpen")]
    codes = sound.codes_of_sound(read_sound(SPEECH), sound.start())
    heard = codes.sample(np.arange(len(jaw)) / 24.0).weight("jawOpen")
    together = [np.corrcoef(np.roll(heard, k), jaw)[0, 1] for k in range(-10, 11)]
    assert max(together) > LEAST_CORRELATION and abs(int(np.argmax(together)) - 10) <= 1, together
