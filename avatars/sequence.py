"""TrackedSequence: what tracking hands to training, evaluation and the viewer. A folder on disk.

    manifest.json       versions, head, timeline, provenance, quality figures
    cameras.npz         Ks [C,3,3], viewmats [C,4,4] (world → camera)
    identity.npz        coefficients [I], scale [], offsets [V,3] (optional)
    codes.npz           expression [T,E], joints [T,J,3], rotation [T,3], translation [T,3]
    head.npz            only when the head is not the embedded default
    frames/<sequence>/<camera>/00000.jpg    colour-corrected picture
    frames/<sequence>/<camera>/00000.png    foreground alpha, 8 bit grey
    audio/<sequence>.wav                    where the capture has sound

All sequences lie on one timeline of T frames; `segments` says where each begins and ends. Pictures may live in
another folder (`frames_root` in the manifest, relative to the tracked folder or absolute), so that several trackings share one decoding.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from avatars.errors import AvatarError
from avatars.files import atomic_path, plain_name, read_arrays, read_json, write_json
from avatars.seal import check_seal, seal
from avatars.types import Cameras, HeadPose, Identity

VERSION = 1
_FILES = ("cameras.npz", "identity.npz", "codes.npz")


@dataclass(frozen=True)
class Segment:
    """One sequence's place on the timeline: frames [start, stop)."""

    name: str
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class TrackedSequence:
    """A tracked capture: cameras, identity, one pose per frame, and access to its pictures."""

    folder: Path
    capture: str  # name of the capture
    fps: float
    cameras: Cameras
    segments: tuple[Segment, ...]
    identity: Identity
    codes: HeadPose  # [T]
    valid: np.ndarray  # [T, C] bool: the picture exists and may be used
    head_name: str = "default"
    head_hash: str = ""
    expression_names: tuple[str, ...] = ()
    frames_root: str = "frames"
    quality: dict[str, Any] = field(default_factory=dict)  # tracking.landmark_px and the like
    provenance: dict[str, Any] = field(default_factory=dict)  # input hashes, config, seconds

    @property
    def frame_count(self) -> int:
        """T, over all segments."""
        return self.segments[-1].stop if self.segments else 0

    def segment(self, name: str) -> Segment:
        """The sequence called `name`; AvatarError lists the known ones."""
        for segment in self.segments:
            if segment.name == name:
                return segment
        raise AvatarError(f"{self.folder}: no sequence {name!r}; known: {', '.join(s.name for s in self.segments)}")

    def locate(self, t: int) -> tuple[Segment, int]:
        """The segment that holds frame `t` of the timeline, and the frame's index within it."""
        for segment in self.segments:
            if segment.start <= t < segment.stop:
                return segment, t - segment.start
        raise IndexError(f"frame {t} is outside of the timeline of {self.frame_count} frames")

    @cached_property
    def _frames_folder(self) -> Path:
        root = Path(self.frames_root)
        return root if root.is_absolute() else self.folder / root

    def image_path(self, t: int, camera: int) -> Path:
        """The JPEG of frame `t` seen by camera index `camera`."""
        segment, local = self.locate(t)
        return self._frames_folder / segment.name / self.cameras.names[camera] / f"{local:05d}.jpg"

    def mask_path(self, t: int, camera: int) -> Path:
        """The PNG with the foreground alpha of the same picture."""
        return self.image_path(t, camera).with_suffix(".png")

    def image(self, t: int, camera: int) -> np.ndarray:
        """uint8 RGB [H, W, 3]."""
        import cv2

        picture = _read(self.image_path(t, camera), cv2.IMREAD_COLOR)
        return cv2.cvtColor(self._checked(picture, t, camera), cv2.COLOR_BGR2RGB)

    def mask(self, t: int, camera: int) -> np.ndarray:
        """uint8 foreground alpha [H, W]."""
        import cv2

        return self._checked(_read(self.mask_path(t, camera), cv2.IMREAD_GRAYSCALE), t, camera)

    def audio(self, sequence: str) -> Path | None:
        """The sound of a sequence, starting with its first frame."""
        path = self.folder / "audio" / f"{sequence}.wav"
        return path if path.exists() else None

    def missing_pictures(self) -> list[Path]:
        """Pictures and mattes that `valid` promises and the disk lacks, or that are empty."""
        missing = []
        for segment in self.segments:
            for camera in range(len(self.cameras)):
                folder = self.image_path(segment.start, camera).parent
                there = {e.name for e in os.scandir(folder) if e.stat().st_size} if folder.is_dir() else set()
                wanted = (self.image_path(t, camera) for t in range(segment.start, segment.stop) if self.valid[t, camera])
                missing += [path for image in wanted for path in (image, image.with_suffix(".png")) if path.name not in there]
        return missing

    def _checked(self, picture: np.ndarray, t: int, camera: int) -> np.ndarray:
        if picture.shape[:2] != (self.cameras.height, self.cameras.width):
            raise AvatarError(
                f"{self.image_path(t, camera)} is {picture.shape[1]}×{picture.shape[0]}, the cameras are "
                f"{self.cameras.width}×{self.cameras.height}. Delete the frames folder and track again."
            )
        return picture


def save_tracked(tracked: TrackedSequence) -> None:
    """Write everything but the pictures, atomically file by file; the manifest comes last, so its presence means done."""
    folder = tracked.folder
    numpy = {k: getattr(tracked.codes, k).detach().cpu().numpy() for k in ("expression", "joints", "rotation", "translation")}
    _save_npz(folder / "codes.npz", **numpy, valid=tracked.valid)
    identity = {"coefficients": tracked.identity.coefficients.detach().cpu().numpy(), "scale": np.float32(tracked.identity.scale)}
    if tracked.identity.offsets is not None:
        identity["offsets"] = tracked.identity.offsets.detach().cpu().numpy()
    _save_npz(folder / "identity.npz", **identity)
    _save_npz(folder / "cameras.npz", Ks=tracked.cameras.Ks.cpu().numpy(), viewmats=tracked.cameras.viewmats.cpu().numpy())
    manifest = {
        "kind": "avatars.tracked_sequence", "version": VERSION, "units": "metres", "axes": "OpenCV cameras",
        "capture": tracked.capture, "fps": tracked.fps,
        "cameras": list(tracked.cameras.names), "width": tracked.cameras.width, "height": tracked.cameras.height,
        "segments": [[s.name, s.start, s.stop] for s in tracked.segments],
        "head": {"name": tracked.head_name, "hash": tracked.head_hash}, "expression_names": list(tracked.expression_names),
        "frames_root": tracked.frames_root, "quality": tracked.quality, "provenance": tracked.provenance,
    }  # fmt: skip
    write_json(folder / "manifest.json", seal(manifest, folder, _FILES))


def load_tracked(folder: str | Path) -> TrackedSequence:
    """Open a tracked sequence; AvatarError says which file is missing, damaged or of another version."""
    folder = Path(folder)
    if not (folder / "manifest.json").exists():
        raise AvatarError(
            f"{folder} is not a finished tracked sequence (no manifest.json). Run `avatars track CAPTURE --out {folder}`; "
            "an interrupted tracking goes on where it stopped."
        )
    m = read_json(folder / "manifest.json", "tracked sequence")
    if not isinstance(m, dict) or m.get("kind") != "avatars.tracked_sequence":
        kind = m.get("kind") if isinstance(m, dict) else None
        raise AvatarError(
            f"{folder} is not a tracked sequence (kind {kind!r} in manifest.json). Give the folder that `avatars track` wrote."
        )
    if m.get("version") != VERSION:
        raise AvatarError(f"{folder} has version {m.get('version')}; this program reads {VERSION}. Track the capture again.")
    remedy = f"Delete {folder} and track the capture again."
    check_seal(m, folder, remedy)
    cameras, identity, codes = (read_arrays(folder / name, "tracked sequence", remedy) for name in _FILES)
    try:
        pose = HeadPose(*(torch.from_numpy(codes[k]) for k in ("expression", "joints", "rotation", "translation")))
        offsets = torch.from_numpy(identity["offsets"]) if "offsets" in identity else None
        tracked = TrackedSequence(
            folder=folder, capture=m["capture"], fps=float(m["fps"]),
            cameras=Cameras(tuple(plain_name(n, "camera") for n in m["cameras"]), torch.from_numpy(cameras["Ks"]), torch.from_numpy(cameras["viewmats"]), m["width"], m["height"]),
            segments=read_segments(m["segments"]),
            identity=Identity(torch.from_numpy(identity["coefficients"]), offsets, float(identity["scale"])),
            codes=pose, valid=codes["valid"], head_name=m["head"]["name"], head_hash=m["head"]["hash"],
            expression_names=tuple(m["expression_names"]), frames_root=m["frames_root"], quality=m["quality"], provenance=m["provenance"],
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise AvatarError(f"{folder} is damaged: {error!r}. Delete it and track the capture again.") from None
    if len(tracked.codes) != tracked.frame_count or tracked.valid.shape != (tracked.frame_count, len(tracked.cameras)):
        raise AvatarError(
            f"{folder} is damaged: {tracked.frame_count} frames in manifest.json, {len(tracked.codes)} codes, valid "
            f"{tracked.valid.shape}. Delete it and track the capture again."
        )
    return tracked


def read_segments(rows: Any) -> tuple[Segment, ...]:
    """Segments of a manifest's [[name, start, stop], …]; ValueError unless they lie one behind the other from frame 0 on."""
    segments = tuple(Segment(plain_name(name, "sequence"), int(start), int(stop)) for name, start, stop in rows)
    ends = [0, *(s.stop for s in segments)]
    if any(s.start != before or s.stop <= s.start for s, before in zip(segments, ends, strict=False)) or len(
        {s.name for s in segments}
    ) < len(segments):
        raise ValueError(f"the sequences {rows} do not lie one behind the other")
    return segments


def _save_npz(path: Path, **arrays: np.ndarray) -> None:
    with atomic_path(path) as temporary:
        np.savez(temporary, **arrays)  # type: ignore[arg-type]


def _read(path: Path, mode: int) -> np.ndarray:
    import cv2

    picture = cv2.imread(str(path), mode)
    if picture is None:
        state = "is damaged. Delete it and run" if path.exists() else "does not exist. Run"
        raise AvatarError(
            f"{path} {state} the tracking again (`avatars track` or `avatars demo`, as before): it decodes only the clips in which frames are missing."
        )
    return picture
