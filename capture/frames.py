"""Every frame of a capture decoded once into files that are read at random: colour-corrected JPEGs and mattes.

    <folder>/<sequence>/<camera>/00000.jpg      quality 95, full chroma; corrected colour, the wall of the clean plate taken out of soft edges
    <folder>/<sequence>/<camera>/00000.png      foreground alpha, 8 bit grey
    <folder>/<sequence>/<camera>/done.json      written last: the clip is complete, and made from these inputs
    <folder>/colors.json                        the corrections that were applied and their inverses, so that they can be undone

The folder is the `frames_root` of a tracked sequence. A clip (one camera of one sequence) is made in a temporary folder and renamed, so a kill at
any moment loses at most the clips in progress, and a second run makes only what is missing or out of date.
"""

from __future__ import annotations

import os
import shutil
import threading
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from avatars.errors import AvatarError, CaptureError, DiskFull
from avatars.files import atomic_path, content_hash, disk_full, read_json, write_json
from avatars.progress import Progress, silent
from capture.color import ColorCorrection, estimate_corrections
from capture.formats import Capture
from capture.matte import difference_matte, make_matter, smooth_plate, unmix
from capture.quality import require_usable

VERSION = "2"  # of everything that changes the pixels written here
JPEG = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
PNG = [cv2.IMWRITE_PNG_COMPRESSION, 3]


@dataclass(frozen=True)
class FrameStore:
    """The decoded frames of a capture."""

    folder: Path
    camera_names: tuple[str, ...]
    frame_counts: dict[str, int]  # sequence → frames

    def image_path(self, sequence: str, camera: str, frame: int) -> Path:
        """The JPEG of a frame."""
        return self.folder / sequence / camera / f"{frame:05d}.jpg"

    def mask_path(self, sequence: str, camera: str, frame: int) -> Path:
        """The PNG with its foreground alpha."""
        return self.folder / sequence / camera / f"{frame:05d}.png"

    def image(self, sequence: str, camera: str, frame: int) -> np.ndarray:
        """uint8 RGB [H, W, 3]."""
        return cv2.cvtColor(_read(self.image_path(sequence, camera, frame), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)

    def mask(self, sequence: str, camera: str, frame: int) -> np.ndarray:
        """uint8 foreground alpha [H, W]."""
        return _read(self.mask_path(sequence, camera, frame), cv2.IMREAD_GRAYSCALE)


def prepare_frames(
    capture: Capture, folder: str | Path, progress: Progress = silent, *, correct_color: bool = True, workers: int = 2
) -> FrameStore:
    """Decode, correct and matte every frame of `capture` into `folder`; see the module for the layout.

    CaptureError names the file that cannot be used; what is finished stays and is not repeated.
    """
    require_usable(capture)
    folder = Path(folder)
    counts = {sequence: capture.frame_count(sequence) for sequence in capture.sequences}
    corrections = (
        _corrections(capture, folder, progress) if correct_color else {n: ColorCorrection.identity() for n in capture.camera_names}
    )
    plate_hashes = {name: _hash_plate(capture.clean_plate(name)) for name in capture.camera_names}  # not kept: a studio's fill gigabytes
    clips = [(sequence, camera) for sequence in capture.sequences for camera in capture.camera_names]
    keys = {clip: _key(capture, *clip, counts[clip[0]], corrections[clip[1]], plate_hashes[clip[1]]) for clip in clips}
    missing = [clip for clip in clips if not _is_done(folder.joinpath(*clip), keys[clip])]
    for sequence in capture.sequences:
        for pattern in (".*.tmp*", ".*.old"):  # of a run that was killed
            for left in (folder / sequence).glob(pattern):
                shutil.rmtree(left, ignore_errors=True)

    total = sum(counts[sequence] for sequence, _ in clips)
    done = at_first = total - sum(counts[sequence] for sequence, _ in missing)
    size = 0  # bytes written in this run
    lock, stop, per_thread = threading.Lock(), threading.Event(), threading.local()

    def count_one(written: int) -> None:
        nonlocal done, size
        with lock:
            done, size = done + 1, size + written
            progress("decoding and matting", done, total, None)

    def make(clip: tuple[str, str]) -> None:
        sequence, camera = clip
        plate = capture.clean_plate(camera)
        if plate is not None:
            plate = smooth_plate(plate)
        elif not hasattr(per_thread, "selfie"):
            per_thread.selfie = make_matter(None)
        with atomic_path(folder / sequence / camera) as temporary:
            temporary.mkdir()
            written = 0
            for picture in capture.frames(sequence, camera, 0, counts[sequence]):
                if stop.is_set():
                    raise _Stopped
                alpha = per_thread.selfie(picture) if plate is None else difference_matte(picture, plate)
                foreground = picture if plate is None else unmix(picture, alpha, plate)
                count_one(_write_frame(temporary, written, corrections[camera].apply(foreground), alpha))
                written += 1
            if written != counts[sequence]:
                source = capture.sources(sequence, camera)[0]
                raise CaptureError(f"{source} is truncated: {written} of {counts[sequence]} frames can be decoded. Copy it again.")
            write_json(temporary / "done.json", {"key": keys[clip], "frames": written})

    with ThreadPoolExecutor(max(1, workers)) as pool:
        futures = [pool.submit(make, clip) for clip in missing]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
        errors = [e for f in futures if not f.cancelled() and (e := f.exception()) is not None and not isinstance(e, _Stopped)]
        full = next((e for e in errors if isinstance(e, DiskFull)), None)
        if full is not None:
            finished = sum(counts[clip[0]] for clip in clips if _is_done(folder.joinpath(*clip), keys[clip]))
            raise disk_full(folder, size / max(done - at_first, 1) * (total - finished)) from None
        if errors:
            raise errors[0]
    progress("decoding and matting", total, total, None)
    return FrameStore(folder, capture.camera_names, counts)


class _Stopped(Exception):
    """Another clip failed."""


def _corrections(capture: Capture, folder: Path, progress: Progress) -> dict[str, ColorCorrection]:
    """Those of an earlier run over the same pictures, so that a resumed run cannot differ; else estimated now and written down."""
    inputs = [VERSION, ",".join(capture.camera_names)]
    for sequence in capture.sequences:
        inputs += [_stamp(path) for name in capture.camera_names for path in capture.sources(sequence, name)]
    key = content_hash(*inputs)
    path = folder / "colors.json"
    if path.exists():
        try:
            stored = read_json(path)
            if stored["key"] == key:
                return {
                    n: ColorCorrection(np.asarray(stored["cameras"][n]["matrix"]), stored["cameras"][n]["linear_light"])
                    for n in capture.camera_names
                }
        except (AvatarError, KeyError, TypeError, ValueError):
            pass  # damaged by something other than us: estimating again costs seconds
    corrections = estimate_corrections(capture, progress)
    write_json(path, {
        "convention": "corrected = matrix[:, :3] @ rgb + matrix[:, 3], values 0-1; inverse undoes it but for rounding and clipping", "key": key,
        "cameras": {n: {"matrix": c.matrix.tolist(), "linear_light": c.linear_light, "inverse": c.inverse().matrix.tolist()}
                    for n, c in corrections.items()},
    })  # fmt: skip
    return corrections


def _key(capture: Capture, sequence: str, camera: str, count: int, correction: ColorCorrection, plate_hash: str) -> str:
    stamps = [_stamp(path) for path in capture.sources(sequence, camera)]
    return content_hash(VERSION, *stamps, str(count), correction.matrix.tobytes(), str(correction.linear_light), plate_hash)


def _hash_plate(plate: np.ndarray | None) -> str:
    return "" if plate is None else content_hash(plate.tobytes())


def _stamp(path: Path) -> str:
    """A file's name, size and time: hashing gigabytes of video on every start would cost more than it protects from."""
    if not path.exists():
        raise CaptureError(f"{path} does not exist. Restore it, or leave this camera out.")
    stat = path.stat()
    return f"{path.name} {stat.st_size} {stat.st_mtime_ns}"


def _is_done(clip: Path, key: str) -> bool:
    try:
        marker = read_json(clip / "done.json")
        there = {entry.name for entry in os.scandir(clip) if entry.stat().st_size}
        return marker["key"] == key and all(f"{t:05d}{s}" in there for t in range(marker["frames"]) for s in (".jpg", ".png"))
    except (AvatarError, KeyError, TypeError, ValueError):
        return False  # absent or half-written: the clip is made again


def _write_frame(folder: Path, index: int, picture: np.ndarray, alpha: np.ndarray) -> int:
    """Write both files of a frame; returns how many bytes they are."""
    # Encoded in memory first: cv2.imwrite would report a full disk as False, if at all.
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), JPEG)
    _, png = cv2.imencode(".png", np.rint(alpha * 255).astype(np.uint8), PNG)
    (folder / f"{index:05d}.jpg").write_bytes(jpeg.tobytes())
    (folder / f"{index:05d}.png").write_bytes(png.tobytes())
    return jpeg.size + png.size


def _read(path: Path, mode: int) -> np.ndarray:
    picture = cv2.imread(str(path), mode)
    if picture is None:
        raise CaptureError(
            f"{path} {'is damaged. Delete it and prepare' if path.exists() else 'does not exist. Prepare'} the frames again: only what is missing is decoded."
        )
    return picture
