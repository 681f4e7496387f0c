"""Face landmarks in pictures: MediaPipe's face mesh (478 points with irises), whose models come inside its wheel.

The only file that imports mediapipe's face mesh, and only when a picture is looked at. Points are in pixels with the
corner of the image at (0, 0). A frame in which no face is found is NaN: side views beyond about 70° of yaw are normal.
Besides the detection in the whole picture, the mesh is run again in slightly turned and scaled crops around the face;
the median of these passes jitters less, and their spread says how far each point can be trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from avatars.errors import AvatarError, UserError
from avatars.files import atomic_path, read_arrays
from capture.silence import quiet

COUNT = 478
"""Points of the mesh; the last ten are the irises: right 468–472, left 473–477, the first of each five the centre."""

IBUG68 = (
    162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389,
    70, 63, 105, 66, 107, 336, 296, 334, 293, 300,
    168, 197, 5, 4, 75, 97, 2, 326, 305,
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14, 87,
)  # fmt: skip
"""The points of the mesh that correspond to the usual 68 (jaw line, brows, nose, eyes, lips), for heads that know only those."""

CROPS = ((1.7, 0.0), (1.9, 0.12), (1.9, -0.12), (2.2, 0.0))
"""(side in units of the face's larger extent, turn in radians) of the crops, in the order in which they are used."""

_CROP_PIXELS = 384


@dataclass(frozen=True)
class FaceLandmarks:
    """Landmarks of T frames of one camera."""

    points: np.ndarray  # [T, 478, 2] float32 pixels, NaN where no face was found
    spread: np.ndarray  # [T, 478] float32 pixels: how far the passes lie from their median; NaN likewise

    @property
    def found(self) -> np.ndarray:
        """[T] bool: frames in which a face was found."""
        return np.isfinite(self.points[:, 0, 0])


def detect_landmarks(frames: Iterable[np.ndarray], passes: int = 2, boxes: np.ndarray | None = None) -> FaceLandmarks:
    """Find the face in every picture (uint8 RGB [H, W, 3]) of a camera, in order, streaming.

    passes: crops that are looked at after the whole picture (0–4). boxes [T, 4] (x0, y0, x1, y1; NaN = none): where a
    head is known to be from other cameras, for the frames in which the whole picture shows no face.
    """
    if not 0 <= passes <= len(CROPS):
        raise ValueError(f"detect_landmarks: passes must be 0–{len(CROPS)}, got {passes}")
    points, spread = [], []
    with _face_mesh() as find:
        last: np.ndarray | None = None
        for t, frame in enumerate(frames):
            if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
                raise ValueError(f"detect_landmarks: frames must be uint8 [H, W, 3], got {frame.dtype} {list(frame.shape)}")
            first = find(frame)
            if first is None:
                box = boxes[t] if boxes is not None and np.isfinite(boxes[t]).all() else None
                first = _search(find, frame, last, box)
            found = [] if first is None else [first]
            if first is not None:
                crops = (_in_crop(find, frame, first, *crop) for crop in CROPS[:passes])
                found += [p for p in crops if p is not None and _same_face(p, first)]
            last = first
            stack = np.stack(found) if found else np.full((1, COUNT, 2), np.nan)
            median = np.median(stack, 0)
            points.append(median)
            spread.append(np.linalg.norm(stack - median, axis=-1).mean(0))
    if not points:
        return FaceLandmarks(np.zeros((0, COUNT, 2), np.float32), np.zeros((0, COUNT), np.float32))
    return FaceLandmarks(np.stack(points).astype(np.float32), np.stack(spread).astype(np.float32))


def cached_landmarks(path: str | Path, key: str, detect: Callable[[], FaceLandmarks]) -> FaceLandmarks:
    """The landmarks stored at `path` under `key` (a hash of what they come from), else those of `detect()`, stored there."""
    path = Path(path)
    try:
        stored = read_arrays(path)
        if str(stored["key"]) == key:
            return FaceLandmarks(stored["points"], stored["spread"])
    except (AvatarError, KeyError):
        pass  # absent or damaged: made again
    result = detect()
    with atomic_path(path) as temporary:
        np.savez(temporary, key=np.array(key), points=result.points, spread=result.spread)
    return result


def _search(find, frame: np.ndarray, last: np.ndarray | None, box: np.ndarray | None) -> np.ndarray | None:
    """Look closer where a head is expected: where it was a frame ago, in the box, then in the whole picture enlarged."""
    if last is not None and (found := _in_crop(find, frame, last, 1.8, 0.0)) is not None:
        return found
    height, width = frame.shape[:2]
    whole = np.array([[0.0, 0.0], [width, height]])
    if box is not None:
        corners = box.reshape(2, 2)
        for factor in (1.1, 1.5):
            if (found := _in_crop(find, frame, corners, factor, 0.0)) is not None:
                return found
    return _in_crop(find, frame, whole, 1.0, 0.0, pixels=2 * max(height, width)) if max(height, width) < 800 else None


def _in_crop(find, frame, around: np.ndarray, factor: float, turn: float, pixels: int = _CROP_PIXELS) -> np.ndarray | None:
    """Landmarks found in a square crop centred on the points `around` [N, 2], back in the coordinates of the frame."""
    import cv2

    low, high = around.min(0), around.max(0)
    scale = pixels / max(float((high - low).max()) * factor, 1.0)
    A = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    shift = pixels / 2 - A @ ((low + high) / 2)
    # OpenCV puts the centre, not the corner, of the first pixel at zero.
    matrix = np.concatenate([A, (shift + A @ np.full(2, 0.5) - 0.5)[:, None]], 1)
    flags = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    crop = cv2.warpAffine(frame, matrix, (pixels, pixels), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    found = find(crop)
    return None if found is None else (found - shift) @ np.linalg.inv(A).T


def _same_face(points: np.ndarray, reference: np.ndarray) -> bool:
    """Whether two sets of landmarks agree to a tenth of the face: a crop may find something else."""
    size = np.ptp(reference, axis=0).max()
    return float(np.linalg.norm(points - reference, axis=1).mean()) < 0.1 * size


@contextmanager
def _face_mesh():
    """A function from a picture to [478, 2] or None. Frames are independent of one another: results do not depend on order."""
    with quiet():
        try:
            from mediapipe.python.solutions.face_mesh import FaceMesh
        except ImportError as error:
            raise UserError(
                f"The landmark detector needs mediapipe==0.10.21 ({error}). Install it: pip install mediapipe==0.10.21"
            ) from None
        mesh = FaceMesh(static_image_mode=True, max_num_faces=1, refine_landmarks=True, min_detection_confidence=0.3)
        mesh.process(np.zeros((64, 64, 3), np.uint8))  # waits for the graph's threads, which start, and log, in their own time
    silent = False

    def find(image: np.ndarray) -> np.ndarray | None:
        nonlocal silent
        height, width = image.shape[:2]
        side = max(height, width)  # mediapipe's region of interest is exact for square pictures only
        square = np.ascontiguousarray(np.pad(image, ((0, side - height), (0, side - width), (0, 0)), mode="edge"))
        with nullcontext() if silent else quiet():  # the graph logs while it starts and when it finds its first face
            faces = mesh.process(square).multi_face_landmarks
        if not faces:
            return None
        silent = True
        return np.array([(p.x, p.y) for p in faces[0].landmark]) * side

    with mesh:
        yield find
