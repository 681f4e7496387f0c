"""Whether cameras show the same moment: their motion must rise and fall together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LARGEST = 8  # frames that a camera may be off and still be recognised


@dataclass(frozen=True)
class Delay:
    """How far one camera lies behind the others."""

    frames: int  # positive: it shows a moment later than the others do
    correlation: float  # of its motion with the others', shifted by that
    correlation_unshifted: float


def find_delays(energies: np.ndarray, margin: float = 0.08) -> list[Delay]:
    """Delay of each camera from the motion energies [C, T] (mean absolute change from frame to frame) of one sequence.

    Every camera is correlated, on a logarithmic scale, with the mean of the others, which are moved to where they were last found; a shift
    counts only if it beats none by `margin` and reaches .6: a still sitter or an opposite view must raise no alarm.
    """
    C, T = energies.shape
    if C < 3 or T < 8 or not np.isfinite(energies).all():
        raise ValueError(f"find_delays: needs finite energies [C ≥ 3, T ≥ 8], got {energies.shape}")
    logs = np.log(energies + 0.02 * energies.max(1, keepdims=True) + 1e-6)
    signals = logs - logs.mean(1, keepdims=True)
    moves = signals.std(1) > 1e-3
    signals = signals / np.maximum(signals.std(1, keepdims=True), 1e-6)
    largest = min(LARGEST, T // 3)
    shifts = np.zeros(C, int)
    result = [Delay(0, 1.0, 1.0)] * C
    for _ in range(3):
        previous = shifts.copy()
        for camera in range(C):
            others = [k for k in range(C) if k != camera and moves[k]]
            if not moves[camera] or len(others) < 2:
                continue
            # the median of the others, so that one that is off itself cannot pull the reference
            reference = np.median([np.roll(signals[k], -previous[k]) for k in others], axis=0)
            scores = np.array([_correlation(signals[camera], reference, lag) for lag in range(-largest, largest + 1)])
            best, still = int(scores.argmax()) - largest, float(scores[largest])
            top = float(scores.max())
            shifts[camera] = best if top > still + margin and top > 0.6 else 0
            result[camera] = Delay(int(shifts[camera]), top, still)
        if np.array_equal(shifts, previous):
            break
    return result


def _correlation(signal: np.ndarray, reference: np.ndarray, lag: int) -> float:
    """Of signal[t + lag] with reference[t], where both exist."""
    a, b = (signal[lag:], reference[: len(reference) - lag]) if lag >= 0 else (signal[:lag], reference[-lag:])
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / max(np.sqrt((a * a).sum() * (b * b).sum()), 1e-9))
