"""Codes: what a face does over time, by name and without a particular head.

Conventions, whatever the file said:
- expression weights are nominally 0–1 and carry the 52 ARKit names (`jawOpen`, `eyeBlinkLeft` …; left is the subject's left);
- angles are radians; rotations are axis-angle in the head's axes: x to the subject's left, y up, z out of the face;
- so, by the right-hand rule: yaw (about y) > 0 turns to the subject's left, pitch (about x) > 0 lowers the nose or the
  gaze, roll (about z) > 0 tilts towards the subject's right shoulder. These are also the axes of ARKit's face anchor;
- times are seconds and begin at 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from avatars.transforms import axis_angle_to_matrix, matrix_to_axis_angle

ARKIT_NAMES: tuple[str, ...] = (
    "eyeBlinkLeft", "eyeLookDownLeft", "eyeLookInLeft", "eyeLookOutLeft", "eyeLookUpLeft", "eyeSquintLeft", "eyeWideLeft",
    "eyeBlinkRight", "eyeLookDownRight", "eyeLookInRight", "eyeLookOutRight", "eyeLookUpRight", "eyeSquintRight",
    "eyeWideRight", "jawForward", "jawLeft", "jawRight", "jawOpen", "mouthClose", "mouthFunnel", "mouthPucker", "mouthLeft",
    "mouthRight", "mouthSmileLeft", "mouthSmileRight", "mouthFrownLeft", "mouthFrownRight", "mouthDimpleLeft",
    "mouthDimpleRight", "mouthStretchLeft", "mouthStretchRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower",
    "mouthShrugUpper", "mouthPressLeft", "mouthPressRight", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthUpperUpLeft",
    "mouthUpperUpRight", "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight", "cheekPuff",
    "cheekSquintLeft", "cheekSquintRight", "noseSneerLeft", "noseSneerRight", "tongueOut",
)  # fmt: skip
"""Apple's 52 in the order of Live Link Face's columns (which is without left and right swapped)."""


def plain(name: str) -> str:
    """A name reduced to what identifies it: `EyeBlinkLeft`, `eyeBlink_L`, `blendShapes.eyeBlinkLeft` → `eyeblinkleft`."""
    name = name.strip().rsplit(".", 1)[-1]
    name = re.sub(r"_L$", "Left", name)
    name = re.sub(r"_R$", "Right", name)
    return re.sub(r"[^a-z0-9]", "", name.lower())


_ARKIT_BY_PLAIN = {plain(n): n for n in ARKIT_NAMES}


def arkit_name(name: str) -> str | None:
    """The ARKit spelling of `name`, or None when it is not one of the 52."""
    return _ARKIT_BY_PLAIN.get(plain(name))


@dataclass(frozen=True)
class Codes:
    """T frames of named weights and rotations; itself a Driver: `duration`, `fps`, `names`, `at(t)`."""

    names: tuple[str, ...]
    weights: np.ndarray  # [T, E]
    times: np.ndarray  # [T] seconds, ascending from 0
    joints: Mapping[str, np.ndarray] = field(default_factory=dict)  # neck, head, jaw, eye_left, eye_right → [T, 3] axis-angle
    rotation: np.ndarray | None = None  # [T, 3] axis-angle of the root in the world; None: the root rests
    translation: np.ndarray | None = None  # [T, 3] metres
    nominal_fps: float = 0.0  # 0: the median distance of the times

    def __post_init__(self) -> None:
        t, e = len(self.times), len(self.names)
        if self.weights.shape != (t, e) or t == 0:
            raise ValueError(f"Codes: {e} names and {t} times need weights [{t},{e}] and T ≥ 1, got {self.weights.shape}")
        tracks = {**self.joints, "rotation": self.rotation, "translation": self.translation}
        for name, track in tracks.items():
            if track is not None and track.shape != (t, 3):
                raise ValueError(f"Codes: {name} must be [{t},3], got {track.shape}")
        for name, track in {"weights": self.weights, "times": self.times, **tracks}.items():
            if track is not None and not np.isfinite(track).all():
                raise ValueError(f"Codes: {name} of frame {int(np.argwhere(~np.isfinite(track))[0, 0])} hold a value that is no number")
        if t > 1 and not (np.diff(self.times) > 0).all():
            raise ValueError("Codes: times must ascend strictly")

    def __len__(self) -> int:
        return len(self.times)

    @property
    def fps(self) -> float:
        """Frames a second: as declared, else the median rate of the times."""
        if self.nominal_fps > 0:
            return self.nominal_fps
        return float(1 / np.median(np.diff(self.times))) if len(self) > 1 else 30.0

    @property
    def duration(self) -> float:
        """Seconds from the first frame to the end of the last."""
        return float(self.times[-1] - self.times[0] + 1 / self.fps)

    def at(self, t: float) -> Codes:
        """One frame at `t` seconds: weights linear, rotations along the shortest arc; outside the clip its ends hold."""
        return self.sample(np.array([t]))

    def sample(self, times: np.ndarray) -> Codes:
        """Codes at `times` [S] seconds (ascending), as `at` for each."""
        times = np.asarray(times, dtype=np.float64)
        t = np.clip(times, self.times[0], self.times[-1])
        after = np.clip(np.searchsorted(self.times, t, side="right"), 1, max(len(self) - 1, 1))
        before, after = after - 1, np.minimum(after, len(self) - 1)
        span = self.times[after] - self.times[before]
        u = np.where(span > 0, (t - self.times[before]) / np.where(span > 0, span, 1), 0.0)[:, None].astype(np.float32)

        def linear(track: np.ndarray | None) -> np.ndarray | None:
            return None if track is None else ((1 - u) * track[before] + u * track[after]).astype(np.float32)

        def arc(track: np.ndarray | None) -> np.ndarray | None:
            return None if track is None else _along_arc(track[before], track[after], u)

        return replace(
            self, weights=linear(self.weights), times=times, joints={k: arc(v) for k, v in self.joints.items()},
            rotation=arc(self.rotation), translation=linear(self.translation), nominal_fps=self.fps,
        )  # fmt: skip

    def resampled(self, fps: float) -> Codes:
        """The clip at a constant rate, as a video of it needs: frames at 0, 1/fps, … up to its end."""
        frames = max(1, int(round(self.duration * fps)))
        return replace(self.sample(self.times[0] + np.arange(frames) / fps), times=np.arange(frames) / fps, nominal_fps=fps)

    def cut(self, start: float = 0.0, end: float | None = None) -> Codes:
        """The frames in [start, end) seconds, counted from 0 again; at least one frame is kept."""
        keep = (self.times >= start - 1e-6) & (self.times < (self.duration if end is None else end) - 1e-6)
        if not keep.any():
            keep[int(np.argmin(np.abs(self.times - start)))] = True

        def take(track):
            return None if track is None else track[keep]

        return replace(
            self, weights=self.weights[keep], times=self.times[keep] - self.times[keep][0], nominal_fps=self.fps,
            joints={k: v[keep] for k, v in self.joints.items()}, rotation=take(self.rotation), translation=take(self.translation),
        )  # fmt: skip

    def mirrored(self) -> Codes:
        """Left and right exchanged, as in a selfie picture: names swap sides, yaw and roll change sign."""
        names = tuple(_other_side(n) for n in self.names)
        flip = np.array([1, -1, -1], np.float32)  # axis-angle is an axial vector: reflecting x keeps its x part
        joints = {_other_side(k): v * flip for k, v in self.joints.items()}
        rotation = None if self.rotation is None else self.rotation * flip
        translation = None if self.translation is None else self.translation * -flip
        return replace(self, names=names, joints=joints, rotation=rotation, translation=translation)

    def inverted(self, angles: Iterable[str]) -> Codes:
        """Head angles whose sign the recording application takes the other way round: some of yaw, pitch, roll."""
        signs = np.array([-1 if a in angles else 1 for a in ("pitch", "yaw", "roll")], np.float32)
        return replace(self, joints={k: v * signs if k in ("neck", "head") else v for k, v in self.joints.items()})

    def weight(self, name: str) -> np.ndarray:
        """[T] of one expression; zeros when the file has none of that name."""
        return self.weights[:, self.names.index(name)] if name in self.names else np.zeros(len(self), np.float32)


def constant_rate(frames: int, fps: float) -> np.ndarray:
    """[frames] times of a clip at `fps`."""
    return np.arange(frames) / float(fps)


def yaw_pitch_roll(yaw: np.ndarray, pitch: np.ndarray, roll: np.ndarray) -> np.ndarray:
    """Angles [T] in radians → axis-angle [T, 3] of Ry(yaw)·Rx(pitch)·Rz(roll): first roll, then nod, then turn."""
    zero = np.zeros_like(yaw)

    def turn(x, y, z):
        return axis_angle_to_matrix(torch.as_tensor(np.stack([x, y, z], -1), dtype=torch.float64))

    R = turn(zero, yaw, zero) @ turn(pitch, zero, zero) @ turn(zero, zero, roll)
    return matrix_to_axis_angle(R).numpy().astype(np.float32)


def to_yaw_pitch_roll(axis_angle: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The inverse of `yaw_pitch_roll`: axis-angle [T, 3] → three [T] in radians, pitch in ±π/2."""
    R = axis_angle_to_matrix(torch.as_tensor(axis_angle, dtype=torch.float64)).numpy()
    pitch = np.arcsin(np.clip(-R[:, 1, 2], -1, 1))
    return np.arctan2(R[:, 0, 2], R[:, 2, 2]), pitch, np.arctan2(R[:, 1, 0], R[:, 1, 1])


def _along_arc(a: np.ndarray, b: np.ndarray, u: np.ndarray) -> np.ndarray:
    A, B = (axis_angle_to_matrix(torch.as_tensor(x, dtype=torch.float64)) for x in (a, b))
    step = matrix_to_axis_angle(A.transpose(-1, -2) @ B) * torch.as_tensor(u, dtype=torch.float64)
    return matrix_to_axis_angle(A @ axis_angle_to_matrix(step)).numpy().astype(np.float32)


def _other_side(name: str) -> str:
    for left, right in (("Left", "Right"), ("left", "right"), ("_L", "_R")):
        if name.endswith(left):
            return name[: -len(left)] + right
        if name.endswith(right):
            return name[: -len(right)] + left
    return name
