"""Performances as NumPy archives: our own (lossless), those of a tracked sequence, and plain ARKit arrays.

Ours: `names`, `weights` [T, E], `times` [T], `fps`, and optionally `joint_names`, `joints` [T, J, 3], `rotation` and
`translation` [T, 3]. Others: weights under any of the names below, [T, 52] in ARKit's order where no names are given.
Nothing in an archive is ever unpickled.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from avatars.drive.codes import ARKIT_NAMES, Codes, arkit_name, constant_rate
from avatars.errors import UserError
from avatars.files import atomic_path, read_arrays, read_json

SUFFIXES = (".npz",)
FPS = 30.0
_WEIGHTS = ("weights", "expression", "expressions", "expression_weights", "blendshapes", "arkit", "coefficients")
_NAMES = ("names", "expression_names", "blendshape_names")
JOINT_NAMES = ("neck", "head", "jaw", "eye_left", "eye_right")


def read(path: Path) -> Codes:
    """Read an archive; UserError says which array is missing or has the wrong shape."""
    arrays = read_arrays(path, "codes", "Write it again.")
    key = next((k for k in _WEIGHTS if k in arrays), None)
    if key is None:
        raise UserError(f"codes: {path} holds {', '.join(arrays) or 'nothing'}; expected weights under one of {', '.join(_WEIGHTS)}.")
    arrays = _beside(path, arrays)
    weights = np.asarray(arrays[key], np.float32)
    names_key = next((k for k in _NAMES if k in arrays), None)
    if names_key is not None:
        names = tuple(arkit_name(str(n)) or str(n) for n in arrays[names_key])
    elif weights.ndim == 2 and weights.shape[1] in (51, 52):
        names = ARKIT_NAMES[: weights.shape[1]]
    else:
        raise UserError(f"codes: {path}: {key} is {weights.shape} and no names are given; 51 or 52 columns in ARKit's order, or names.")
    if weights.ndim != 2 or weights.shape[1] != len(names) or len(weights) == 0:
        raise UserError(f"codes: {path}: {key} is {weights.shape}, expected [T, {len(names)}] for {len(names)} names.")
    if not np.isfinite(weights).all():
        raise UserError(f"codes: {path}: frame {int(np.argwhere(~np.isfinite(weights))[0, 0])} has a weight that is no number.")
    fps = float(arrays.get("fps", FPS))
    times = np.asarray(arrays["times"], float) if "times" in arrays else constant_rate(len(weights), fps)
    try:
        return Codes(names, weights, times - times[0], _joints(arrays), _track(arrays, "rotation"), _track(arrays, "translation"), fps)
    except ValueError as error:
        raise UserError(f"codes: {path}: {error}") from None


def write(path: Path, codes: Codes) -> None:
    """Write all there is, atomically; reading it back gives the same arrays."""
    arrays = {"names": np.array(codes.names), "weights": codes.weights, "times": codes.times, "fps": np.float64(codes.fps)}
    if codes.joints:
        arrays["joint_names"] = np.array(list(codes.joints))
        arrays["joints"] = np.stack(list(codes.joints.values()), 1)
    for name in ("rotation", "translation"):
        if getattr(codes, name) is not None:
            arrays[name] = getattr(codes, name)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)


def _beside(path: Path, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tracked sequences and avatars keep names and rate of their codes in the manifest; take them from there."""
    content = {} if any(k in arrays for k in _NAMES) else _manifest(path)
    if not content:
        return arrays
    return {**arrays, "names": np.array(content["expression_names"]), "fps": np.array(float(content["fps"]))}


def _manifest(path: Path) -> dict:
    """The manifest beside the codes of a tracked sequence or an avatar; empty for other archives."""
    manifest = path.with_name("manifest.json")
    content = read_json(manifest, "codes") if manifest.exists() else {}
    return content if isinstance(content, dict) and content.get("kind") in ("avatars.tracked_sequence", "avatars.avatar") else {}


def sequence_of(path: Path, codes: Codes, name: str) -> Codes:
    """The frames of one sequence of a tracked sequence's or an avatar's codes; UserError lists the sequences."""
    segments = {n: (start, stop) for n, start, stop in _manifest(path).get("segments", [])}
    if name not in segments:
        known = f"it has {', '.join(segments)}" if segments else "only the codes of a tracked sequence or an avatar have sequences"
        raise UserError(f"codes: {path} has no sequence '{name}'; {known}.")
    start, stop = segments[name]
    return codes.cut(start / codes.fps, stop / codes.fps)


def _joints(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    if "joints" not in arrays:
        return {}
    joints = np.asarray(arrays["joints"], np.float32)
    names = [str(n) for n in arrays.get("joint_names", JOINT_NAMES)]
    if joints.ndim != 3 or joints.shape[1:] != (len(names), 3):
        raise ValueError(f"joints must be [T, {len(names)}, 3], got {joints.shape}")
    return {n: joints[:, i] for i, n in enumerate(names)}


def _track(arrays: dict[str, np.ndarray], name: str) -> np.ndarray | None:
    return np.asarray(arrays[name], np.float32) if name in arrays else None
