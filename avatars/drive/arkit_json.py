"""Performances as JSON, four dialects told apart by their keys.

- MediaPipe's face landmarker: a list of frames, each a list of {categoryName, score} (or {faceBlendshapes: [{categories}]});
- LAM and BEAT: {names, frames: [{weights, time, rotation}]}; a rotation of three numbers is read as pitch, yaw, roll in radians;
- Audio2Face: {exportFps, facsNames, weightMat [frame][pose]};
- a plain list of {name: weight} objects, optionally with a time.

Ours is LAM's with `joints`, `root` and `fps` added, so it reads back without loss and LAM's players accept it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from avatars.drive.codes import ARKIT_NAMES, Codes, arkit_name, constant_rate, to_yaw_pitch_roll, yaw_pitch_roll
from avatars.errors import UserError
from avatars.files import atomic_path

SUFFIXES = (".json",)
FPS = 30.0  # what webcams give when nothing in the file says otherwise


def read(path: Path) -> Codes:
    """Read a clip; UserError names the frame that does not fit."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"codes: {path} is not valid JSON ({error}). It may be cut off: export it again.") from None
    try:
        if isinstance(content, dict) and "weightMat" in content:
            codes = _audio2face(content)
        elif isinstance(content, dict) and "names" in content and "frames" in content:
            codes = _lam(content)
        else:
            codes = _frames(content)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise UserError(
            f"codes: {path}: {_reason(error)}. Known: MediaPipe (frames of categoryName and score), "
            "LAM and BEAT (names, frames), Audio2Face (facsNames, weightMat)."
        ) from None
    if not np.isfinite(codes.weights).all():
        raise UserError(f"codes: {path}: frame {int(np.argwhere(~np.isfinite(codes.weights))[0, 0])} has a weight that is no number.")
    return codes


def write(path: Path, codes: Codes) -> None:
    """Write LAM's {names, frames}, with what it lacks in keys of its own."""
    turn = codes.joints.get("head")
    angles = np.stack(to_yaw_pitch_roll(turn), 1)[:, [1, 0, 2]] if turn is not None else None
    frames = []
    for i in range(len(codes)):
        frame: dict[str, Any] = {"weights": _round(codes.weights[i]), "time": round(float(codes.times[i]), 9)}
        frame["rotation"] = _round(angles[i]) if angles is not None else []
        frame["joints"] = {k: _round(v[i]) for k, v in codes.joints.items()}
        if codes.rotation is not None and codes.translation is not None:
            frame["root"] = {"rotation": _round(codes.rotation[i]), "translation": _round(codes.translation[i])}
        frames.append(frame)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps({"names": list(codes.names), "fps": codes.fps, "frames": frames}), encoding="utf-8")


def _audio2face(content: dict) -> Codes:
    weights = np.asarray(content["weightMat"], np.float32)
    fps = float(content.get("exportFps", FPS))
    names = [arkit_name(n) or n for n in content["facsNames"]]
    return Codes(tuple(names), weights, constant_rate(len(weights), fps), nominal_fps=fps)


def _lam(content: dict) -> Codes:
    frames = content["frames"]
    if not frames:
        raise ValueError("it has no frames")
    names = tuple(arkit_name(n) or n for n in content["names"])
    for i, frame in enumerate(frames):
        if len(frame["weights"]) != len(names):
            raise ValueError(f"frame {i} has {len(frame['weights'])} weights for {len(names)} names")
    weights = np.asarray([f["weights"] for f in frames], np.float32)
    times, fps = _times([f.get("time") for f in frames], content.get("fps"))
    joints: dict[str, np.ndarray] = {}
    if all(f.get("joints") for f in frames):
        joints = {k: np.asarray([f["joints"][k] for f in frames], np.float32) for k in frames[0]["joints"]}
    elif all(isinstance(f.get("rotation"), list) and len(f["rotation"]) == 3 for f in frames):
        pitch, yaw, roll = np.asarray([f["rotation"] for f in frames], np.float64).T
        joints = {"head": yaw_pitch_roll(yaw, pitch, roll)}
    root = {}
    if all(f.get("root") for f in frames):
        root = {k: np.asarray([f["root"][k] for f in frames], np.float32) for k in ("rotation", "translation")}
    return Codes(names, weights, times, joints, root.get("rotation"), root.get("translation"), fps)


def _frames(content: Any) -> Codes:
    fps = None
    if isinstance(content, dict):
        fps = content.get("fps") or content.get("exportFps")
        content = content["frames"] if "frames" in content else [content]
    if isinstance(content, list) and content and isinstance(content[0], dict) and "categoryName" in content[0]:
        content = [content]  # a single frame
    if not content:
        raise ValueError("it has no frames")
    found, times = [], []
    for i, frame in enumerate(content):
        weights = _named(frame)
        if not weights:
            raise ValueError(f"frame {i} has no expression with an ARKit name")
        found.append(weights)
        times.append(_frame_time(frame))
    names = tuple(n for n in ARKIT_NAMES if any(n in f for f in found))
    weights = np.asarray([[f.get(n, 0.0) for n in names] for f in found], np.float32)
    seconds, rate = _times(times, fps)
    return Codes(names, weights, seconds, nominal_fps=rate)


def _named(frame: Any) -> dict[str, float]:
    """{ARKit name: weight} of one frame in any of the shapes above."""
    for key in ("faceBlendshapes", "face_blendshapes", "blendshapes", "blendShapes", "categories", "weights"):
        if isinstance(frame, dict) and key in frame:
            return _named(frame[key])
    if isinstance(frame, list):
        if frame and isinstance(frame[0], list | dict) and "categoryName" not in frame[0] and "category_name" not in frame[0]:
            return _named(frame[0])  # the first face
        pairs = [(c.get("categoryName", c.get("category_name")), c["score"]) for c in frame]
    else:
        pairs = [(k, v) for k, v in frame.items() if isinstance(v, int | float)]
    return {n: float(v) for k, v in pairs if k and (n := arkit_name(k))}


def _frame_time(frame: Any) -> float | None:
    if not isinstance(frame, dict):
        return None
    for key, unit in (("time", 1.0), ("timestamp", 1.0), ("timestampMs", 1e-3), ("timestamp_ms", 1e-3)):
        if key in frame:
            return float(frame[key]) * unit
    return None


def _times(times: list, fps: float | None) -> tuple[np.ndarray, float]:
    if any(t is None for t in times) or (len(times) > 1 and not (np.diff(np.asarray(times, float)) > 0).all()):
        rate = float(fps or FPS)
        return constant_rate(len(times), rate), rate
    seconds = np.asarray(times, float) - float(times[0])
    if len(seconds) > 1 and np.median(np.diff(seconds)) > 1:
        seconds = seconds / 1000  # frames more than a second apart: the times were milliseconds
    rate = float(fps) if fps else float(1 / np.median(np.diff(seconds))) if len(seconds) > 1 else FPS
    return seconds, rate


def _round(values: np.ndarray) -> list[float]:
    return [round(float(v), 6) for v in values]


def _reason(error: Exception) -> str:
    return f"the key {error} is missing" if isinstance(error, KeyError) else str(error)
