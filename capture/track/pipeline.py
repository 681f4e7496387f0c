"""`track`: from a capture to a TrackedSequence, stage by stage. Each stage's result lies in OUT/stages with a hash of what it was made from.

    frames      decoded, colour-corrected, matted pictures                (capture.frames)
    landmarks   478 points per picture                                    (capture.landmarks)
    first       cameras (of a single video), identity and poses from the landmarks
    shape       offsets of the neutral surface from calibrated cameras    (shape)
    motion      poses from dense correspondence with the reference frame  (motion)

Run again, finished stages are read back; a change of configuration repeats what depends on it.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from avatars import rights
from avatars.errors import AvatarError, CaptureError
from avatars.files import atomic_path, content_hash, read_arrays
from avatars.head import HeadModel, load_head, save_head
from avatars.progress import Progress, silent
from avatars.sequence import Segment, TrackedSequence, load_tracked, save_tracked
from avatars.types import Cameras, HeadPose, Identity
from capture.formats import Capture, open_capture
from capture.frames import FrameStore, prepare_frames
from capture.landmarks import COUNT, FaceLandmarks, cached_landmarks, detect_landmarks
from capture.track.config import TrackConfig
from capture.track.first import first_fit
from capture.track.measure import measure, mesh_error
from capture.track.reference import frame_named
from capture.track.refine import refine_motion, refine_shape
from capture.track.sheet import write_sheet
from capture.track.state import Fit, Footage
from capture.workers import crew

VERSION = "1"  # of everything here that changes the numbers
NARROWEST_FACE = 60  # pixels; what a detector takes for a smaller one may be anything


def track(
    capture: Capture | str | Path,
    out: str | Path,
    head: HeadModel | None = None,
    config: TrackConfig | None = None,
    progress: Progress = silent,
) -> TrackedSequence:
    """Track a capture into the folder `out`; CaptureError says what makes a capture impossible to track, and the remedy."""
    if isinstance(capture, (str, Path)):
        capture = open_capture(capture)
    config = config or TrackConfig()
    head_given, head = head is not None, head or load_head()
    out, started = Path(out), time.monotonic()
    if capture.cameras is None and len(capture.camera_names) > 1:
        raise CaptureError(
            f"{capture.path} has {len(capture.camera_names)} cameras and no calibration. Add the calibration of its format, "
            "or track one camera alone (--cameras NAME)."
        )
    unknown = [n for n in config.skip_cameras if n not in capture.camera_names]
    if unknown:
        raise CaptureError(f"skip_cameras names {', '.join(unknown)}, not of this capture; known: {', '.join(capture.camera_names)}.")
    if config.reference:  # a wrong one is told now, not after the pictures are decoded
        frame_named([Segment(n, 0, capture.frame_count(n)) for n in capture.sequences], config.reference)
    store = prepare_frames(capture, out / "frames", progress, workers=config.workers)
    footage = read_footage(capture, store, out / "landmarks", config, progress)
    stages, times = out / "stages", {}
    key = content_hash(
        VERSION, head.content_hash(), footage.points.tobytes(), _cameras_hash(capture.cameras), str(capture.fps), config.reference
    )

    def stage(name: str, settings, make: Callable[[], Fit]) -> Fit:
        nonlocal key
        key = content_hash(key, name, json.dumps(settings, sort_keys=True))
        fit = _read_stage(stages / f"{name}.npz", key, capture)
        if fit is None:
            begun = time.monotonic()
            fit = make()
            _write_stage(stages / f"{name}.npz", key, fit)
            times[name] = round(time.monotonic() - begun, 1)
        return fit

    shared = [asdict(config.priors), asdict(config.smooth), list(config.skip_cameras)]
    fit = stage("first", [shared, asdict(config.landmarks)], lambda: first_fit(capture, head, footage, config, progress))
    if config.shape.rounds:
        before = fit
        fit = stage(
            "shape", [asdict(config.shape)], lambda: replace(before, identity=refine_shape(head, before, footage, config, progress))
        )
    if config.motion.rounds:
        still = fit
        fit = stage(
            "motion",
            [asdict(config.motion)],
            lambda: replace(still, pose=refine_motion(head, still, footage, config, progress, capture.fps)),
        )
    finished = _finished(out, key, progress)
    if finished is not None:
        return finished
    return _finish(capture, out, head, head_given, config, footage, fit, times | {"total": round(time.monotonic() - started, 1)}, key)


def read_footage(capture: Capture, store: FrameStore, folder: Path, config: TrackConfig, progress: Progress) -> Footage:
    """Landmarks of all pictures, from the cache where they were found before."""
    segments, start = [], 0
    for name in capture.sequences:
        segments.append(Segment(name, start, start + store.frame_counts[name]))
        start = segments[-1].stop
    clips = [(s, c) for s in segments for c in range(len(capture.camera_names))]
    points = np.full((start, len(capture.camera_names), COUNT, 2), np.nan, np.float32)
    spread = np.full(points.shape[:-1], np.nan, np.float32)
    done, total = 0, start * len(capture.camera_names)

    def find(segment: Segment, c: int) -> FaceLandmarks:
        name = capture.camera_names[c]
        key = content_hash(VERSION, str(config.landmarks.passes), store.image_path(segment.name, name, 0).with_name("done.json"))
        pictures = (store.image(segment.name, name, t) for t in pool.while_wanted(range(len(segment))))
        return cached_landmarks(folder / segment.name / f"{name}.npz", key, lambda: detect_landmarks(pictures, config.landmarks.passes))

    with crew(min(2, config.workers)) as pool:
        results = [(clip, pool.submit(find, *clip)) for clip in clips]
        for (segment, c), future in results:
            found = future.result()
            points[segment.start : segment.stop, c], spread[segment.start : segment.stop, c] = found.points, found.spread
            done += len(segment)
            progress("finding landmarks", done, total, {"faces": f"{100 * np.isfinite(points[:, :, 0, 0]).sum() / done:.0f}%"})
    widest = float(np.nan_to_num(np.ptp(points[..., 0], axis=2)).max())
    if widest < NARROWEST_FACE:
        found = (
            f"The widest face found in {capture.path} has {widest:.0f} pixels."
            if widest
            else f"No face is found in any picture of {capture.path}."
        )
        raise CaptureError(
            f"{found} Tracking needs a face that is seen from the front by at least one camera, at least {NARROWEST_FACE} pixels wide and upright. "
            f"Look at the pictures in {store.folder}: if they are turned, turn the videos; if the face is small, crop them."
        )
    return Footage(store, tuple(segments), points, spread)


def _cameras_hash(cameras: Cameras | None) -> str:
    if cameras is None:
        return "unknown"
    return content_hash(cameras.Ks.double().numpy().tobytes(), cameras.viewmats.double().numpy().tobytes(), ",".join(cameras.names))


def _write_stage(path: Path, key: str, fit: Fit) -> None:
    arrays = {k: v.numpy() for k, v in vars(fit.pose).items()} | {"coefficients": fit.identity.coefficients.numpy()}
    if fit.identity.offsets is not None:
        arrays["offsets"] = fit.identity.offsets.numpy()
    with atomic_path(path) as temporary:
        np.savez(
            temporary, key=np.array(key), Ks=fit.cameras.Ks.numpy(), viewmats=fit.cameras.viewmats.numpy(),
            scale=np.float64(float(fit.identity.scale)), reference=np.int64(fit.reference), **arrays,
        )  # fmt: skip


def _read_stage(path: Path, key: str, capture: Capture) -> Fit | None:
    try:
        stored = read_arrays(path)
        if str(stored["key"]) != key:
            return None
        tensors = {k: torch.from_numpy(v) for k, v in stored.items() if v.ndim > 0}
        scale, reference = float(stored["scale"]), int(stored["reference"])
    except (AvatarError, KeyError):
        return None  # absent or damaged: made again
    width, height = capture.image_size
    cameras = Cameras(capture.camera_names, tensors["Ks"], tensors["viewmats"], width, height)
    pose = HeadPose(*(tensors[k] for k in ("expression", "joints", "rotation", "translation")))
    return Fit(cameras, Identity(tensors["coefficients"], tensors.get("offsets"), scale), pose, reference)


def _finish(
    capture, out: Path, head: HeadModel, head_given: bool, config: TrackConfig, footage: Footage, fit: Fit, times, key: str
) -> TrackedSequence:
    for segment in footage.segments:
        source = capture.audio(segment.name)
        if source is not None:
            _copy_audio(source, out / "audio" / f"{segment.name}.wav")
    if head_given and head.content_hash() != load_head().content_hash():
        save_head(head, out / "head.npz")
    else:
        (out / "head.npz").unlink(missing_ok=True)  # of an earlier tracking with another head
    quality, residual_px = measure(head, fit, footage, config)
    tracked = TrackedSequence(
        folder=out, capture=capture.name, fps=capture.fps, cameras=fit.cameras, segments=footage.segments, identity=fit.identity,
        codes=fit.pose, valid=np.ones(footage.points.shape[:2], bool), head_name=head.name, head_hash=head.content_hash(),
        expression_names=head.expression_names, quality=quality,
        provenance={"capture": str(capture.path), "format": capture.format, "hash": key, "seconds": times, "config": asdict(config),
                    "reference": fit.reference},
    )  # fmt: skip
    truth = capture.truth
    if truth is not None:  # how good it is, measured after the fact; nothing above has looked at it
        error = mesh_error(tracked, truth, head)
        tracked = replace(tracked, quality={**quality, "mesh_mm": error.mean_mm, "mesh_mm_by_sequence": error.by_sequence})
    with atomic_path(out / "residuals.npz") as temporary:
        np.savez(temporary, pixels=residual_px)
    write_sheet(tracked, head, out / "sheet.jpg")
    rights.carry(capture.path, out)
    save_tracked(tracked)
    return tracked


def _finished(out: Path, key: str, progress: Progress) -> TrackedSequence | None:
    """The result of an earlier run from the same inputs."""
    try:
        tracked = load_tracked(out)
    except AvatarError:
        return None
    if tracked.provenance.get("hash") != key or not (out / "sheet.jpg").exists():
        return None
    progress("tracked", 1, 1, None)
    return tracked


def _copy_audio(source: Path, target: Path) -> None:
    from capture.decode import extract_audio

    if source.suffix.lower() == ".wav":
        with atomic_path(target) as temporary:
            shutil.copyfile(source, temporary)
    else:
        extract_audio(source, target)
