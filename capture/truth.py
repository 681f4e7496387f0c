"""Ground truth that lies beside a synthetic capture. For tests and evaluation alone: nothing that tracks or trains may import this.

truth/faces.npy                     [F, 3] triangles of the vertices below
truth/landmark_vertex_ids.json      {"ids": the 68 Multi-PIE points as vertex indices}
truth/calibration_color.json        per camera: observed = affine[:, :3] @ true + affine[:, 3]
truth/<sequence>/motion.npz         vertices [T, V, 3] in metres (float16, or int16 with vertices_scale and vertices_offset), expression_weights …
truth/<sequence>/alpha/cam_<serial>.mkv     coverage, 8 bit
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from avatars.errors import AvatarError
from avatars.files import read_arrays, read_json
from capture.decode import read_video

_REMEDY = "Copy the capture again, or remove its truth folder: tracking does not need it."


@dataclass(frozen=True)
class Truth:
    """What is known exactly about a synthetic capture, read on demand from `folder`."""

    folder: Path

    @property
    def faces(self) -> np.ndarray:
        """[F, 3] int triangles of `vertices`."""
        path = self.folder / "faces.npy"
        try:
            return np.load(path, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise AvatarError(f"truth: {path} is damaged ({error}). {_REMEDY}") from None

    @property
    def landmark_vertex_ids(self) -> np.ndarray:
        """[68] indices into `vertices`; -1 where the vertex was left out of a small copy."""
        return np.asarray(read_json(self.folder / "landmark_vertex_ids.json")["ids"])

    def motion(self, sequence: str) -> dict[str, np.ndarray]:
        """Every array of a sequence's motion.npz but the vertices."""
        return {k: v for k, v in self._arrays(sequence).items() if not k.startswith("vertices")}

    def vertices(self, sequence: str) -> np.ndarray:
        """[T, V, 3] float32 metres in the world of the calibration."""
        arrays = self._arrays(sequence)
        stored = arrays["vertices"]
        if stored.dtype.kind == "i":  # quantised; differences along time compress better than positions
            stored = np.cumsum(stored.astype(np.int32), axis=0) if "vertices_delta" in arrays else stored
            return (stored * arrays["vertices_scale"] + arrays["vertices_offset"]).astype(np.float32)
        return stored.astype(np.float32)

    def has_alpha(self, sequence: str, camera: str) -> bool:
        """Whether the coverage of this clip is there (small copies leave it out)."""
        return self._alpha_path(sequence, camera).exists()

    def alpha(self, sequence: str, camera: str) -> Iterator[np.ndarray]:
        """uint8 [H, W] coverage of each frame in order."""
        yield from read_video(self._alpha_path(sequence, camera), "gray")

    def color_affines(self) -> dict[str, np.ndarray]:
        """Camera → [3, 4]: what the sensor did to true sRGB values in 0–1."""
        cameras = read_json(self.folder / "calibration_color.json")["cameras"]
        return {name: np.asarray(camera["affine"]) for name, camera in cameras.items()}

    def _arrays(self, sequence: str) -> dict[str, np.ndarray]:
        return read_arrays(self.folder / sequence / "motion.npz", "truth", _REMEDY)

    def _alpha_path(self, sequence: str, camera: str) -> Path:
        return self.folder / sequence / "alpha" / f"cam_{camera}.mkv"
