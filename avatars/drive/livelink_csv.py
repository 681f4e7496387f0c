"""Live Link Face's CSV: `Timecode,BlendshapeCount`, 52 PascalCase weights, head and eye angles; a row per frame.

Columns are found by name, whatever the case, the order and the number (51 without TongueOut, 61, 68 and others occur); a
file without a header is read in ARKit's order. Timecodes are `HH:MM:SS:FF.fff` or seconds. Angles are radians with the
signs of `codes.py`; applications disagree on them (some record mirrored, some take the nose up as positive), so the command
line has `--mirror` and `--invert`.
"""

from __future__ import annotations

import csv
import warnings
from pathlib import Path

import numpy as np
import torch

from avatars.drive.codes import ARKIT_NAMES, Codes, arkit_name, constant_rate, plain, to_yaw_pitch_roll, yaw_pitch_roll
from avatars.errors import UserError
from avatars.files import atomic_path
from avatars.transforms import axis_angle_to_matrix, matrix_to_axis_angle

SUFFIXES = (".csv",)
FPS = 60.0  # what the application records when nothing in the file says otherwise
_RATES = (24.0, 25.0, 30.0, 48.0, 50.0, 60.0, 120.0)
_TELLING = 2.0  # seconds of a clip that surely hold a whole second of timecodes
_ANGLES = {  # joint → its three columns, yaw pitch roll
    "head": ("headyaw", "headpitch", "headroll"),
    "eye_left": ("lefteyeyaw", "lefteyepitch", "lefteyeroll"),
    "eye_right": ("righteyeyaw", "righteyepitch", "righteyeroll"),
}
_ANGLE_NAMES = [
    *("HeadYaw", "HeadPitch", "HeadRoll"),
    *("LeftEyeYaw", "LeftEyePitch", "LeftEyeRoll"),
    *("RightEyeYaw", "RightEyePitch", "RightEyeRoll"),
]
_ANGLE_COLUMNS = {plain(n) for n in _ANGLE_NAMES}
_TIME_COLUMNS = ("timecode", "time", "timestamp", "seconds")


def read(path: Path) -> Codes:
    """Read a recording; rows keep the distances of their timecodes, also where the application dropped frames."""
    try:
        lines = enumerate(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()), 1)
        rows = [(number, row) for number, row in lines if any(c.strip() for c in row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"codes: {path} is not a text table ({error}). Export the take as CSV again.") from None
    header, rows = _header(path, rows)
    columns = [plain(name) for name in header]
    time_column = next((columns.index(c) for c in _TIME_COLUMNS if c in columns), None)
    weight_columns = {arkit_name(c): i for i, c in enumerate(columns) if arkit_name(c)}
    if not weight_columns:
        raise UserError(
            f"codes: {path}: no column is an ARKit expression such as EyeBlinkLeft or JawOpen (found: "
            f"{', '.join(header[:5])} …). Give a Live Link Face recording or one with these names."
        )
    used = [*weight_columns.values(), *(i for i, c in enumerate(columns) if c in _ANGLE_COLUMNS)]
    values = _numbers(path, header, rows, used)
    times, fps = _times(path, [row[time_column] for _, row in rows[: len(values)]] if time_column is not None else None, len(values))
    order = np.argsort(times, kind="stable")
    order = order[np.concatenate([[True], np.diff(times[order]) > 1e-6])]  # a repeated timecode: the first row counts
    values, times = values[order], times[order]
    joints = {}
    for joint, names in _ANGLES.items():
        if all(n in columns for n in names):
            joints[joint] = yaw_pitch_roll(*(values[:, columns.index(n)] for n in names))
    names = tuple(n for n in ARKIT_NAMES if n in weight_columns)
    if any(np.abs(values[:, c]).max() > 1e-3 for n, c in weight_columns.items() if n and n.startswith("eyeLook")):
        # The eyeLook weights turn the eyes and take the lids along; the angles say the same once more.
        joints = {k: v for k, v in joints.items() if k == "head"}
    weights = values[:, [weight_columns[n] for n in names]].astype(np.float32)
    return Codes(names, weights, times - times[0], joints, nominal_fps=fps)


def write(path: Path, codes: Codes) -> None:
    """Write a table that Live Link Face's readers accept: all 52 weights and nine angles, timecodes at the clip's rate.

    What the format cannot say (jaw, root) is lost; neck and head become one head angle. Timecodes count frames, and readers tell the
    rate from them: a clip of less than two seconds or of an unusual rate is written at the format's own 60.
    """
    clip = codes.resampled(codes.fps if codes.fps in _RATES and codes.duration > _TELLING else FPS)
    turn = clip.joints.get("head", np.zeros((len(clip), 3), np.float32))
    if "neck" in clip.joints:
        turn = _compose(clip.joints["neck"], turn)
    angles = []
    for track in (turn, clip.joints.get("eye_left"), clip.joints.get("eye_right")):
        angles += to_yaw_pitch_roll(np.zeros((len(clip), 3)) if track is None else track)
    weights = np.stack([clip.weight(n) for n in ARKIT_NAMES], 1)
    rate = round(clip.fps)
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["Timecode", "BlendshapeCount", *(n[0].upper() + n[1:] for n in ARKIT_NAMES), *_ANGLE_NAMES])
        for i in range(len(clip)):
            seconds, frame = divmod(i, rate)
            code = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}:{frame:02d}.000"
            row = [*weights[i], *(a[i] for a in angles)]
            out.writerow([code, len(row), *(f"{v:.7f}" for v in row)])


def _header(path: Path, rows: list[tuple[int, list[str]]]) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The names of the columns, and the rows of frames with their line numbers."""
    if not rows:
        raise UserError(f"codes: {path} is empty. Export the take again.")
    first = rows[0][1]
    if any(arkit_name(c) for c in first) or not _is_number(first[-1]):
        if len(rows) == 1:
            raise UserError(f"codes: {path} has a header and no frames. Export the take again.")
        return first, rows[1:]
    bare = list(ARKIT_NAMES)
    known = {51: bare[:51], 52: bare, 61: bare + _ANGLE_NAMES, 63: ["Timecode", "BlendshapeCount", *bare, *_ANGLE_NAMES]}
    if len(first) not in known:
        raise UserError(f"codes: {path} has no header, and {len(first)} columns; without one only {sorted(known)} are understood.")
    return known[len(first)], rows


def _numbers(path: Path, header: list[str], rows: list[tuple[int, list[str]]], used: list[int]) -> np.ndarray:
    """[rows, columns] with the `used` columns filled in."""
    values = np.zeros((len(rows), len(header)))
    for i, (line, row) in enumerate(rows):
        where = f"codes: {path}, line {line}"
        if len(row) != len(header):
            if i == len(rows) - 1 and i > 0 and len(row) < len(header):
                warnings.warn(f"{where}: cut off after {len(row)} of {len(header)} values; this last frame is left out", stacklevel=2)
                return values[:i]
            raise UserError(f"{where}: {len(row)} values under {len(header)} columns. Repair that line or export again.")
        for j in used:
            try:
                values[i, j] = float(row[j])
            except ValueError:
                raise UserError(f"{where}: '{row[j]}' under {header[j]} is not a number. Repair it or export again.") from None
            if not np.isfinite(values[i, j]):
                raise UserError(f"{where}: {header[j]} is {row[j]}. Repair it or export again.")
    return values


def _times(path: Path, texts: list[str] | None, count: int) -> tuple[np.ndarray, float]:
    """Seconds [count] and the nominal rate."""
    if texts is None:
        return constant_rate(count, FPS), FPS
    try:
        if ":" not in texts[0]:
            times = np.array([float(t) for t in texts])
            rate = float(1 / np.median(np.diff(times))) if count > 1 and np.median(np.diff(times)) > 0 else FPS
        else:
            parts = np.array([[float(p) for p in t.replace(";", ":").split(":")] for t in texts])
            seconds = parts[:, 0] * 3600 + parts[:, 1] * 60 + parts[:, 2]
            seconds = seconds + 86400 * np.concatenate([[0], np.cumsum(np.diff(seconds) < -43200)])  # past midnight
            frames = parts[:, 3] if parts.shape[1] > 3 else np.zeros(count)
            rate = FPS
            if seconds[-1] - seconds[0] >= 2:  # a whole second was seen: its highest frame number tells the rate
                rate = next((r for r in (24.0, 25.0, 30.0, 48.0, 50.0, 60.0, 120.0) if r > np.floor(frames.max())), FPS)
            times = seconds + frames / rate
        if not np.isfinite(times).all():
            raise ValueError("a timecode that is no number")
    except (ValueError, IndexError):
        warnings.warn(f"codes: {path}: unreadable timecodes; {FPS:g} frames a second are assumed", stacklevel=2)
        return constant_rate(count, FPS), FPS
    if count > 1 and times.max() - times.min() < 0.5 * (count - 1) / 240:
        warnings.warn(f"codes: {path}: the timecodes stand still; {FPS:g} frames a second are assumed", stacklevel=2)
        return constant_rate(count, FPS), FPS
    return times, rate


def _compose(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Axis-angle [T, 3] of `first` after `second`."""
    A, B = (axis_angle_to_matrix(torch.as_tensor(x, dtype=torch.float64)) for x in (first, second))
    return matrix_to_axis_angle(A @ B).numpy()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
