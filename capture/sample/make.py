"""Makes the sample capture from a full-size one: fewer cameras, smaller pictures, re-encoded; the truth cut down to the face.

    python -m capture.sample.make SOURCE [--out FOLDER]

SOURCE is the synthetic capture studio-01. The result keeps all of its sequences and the sound, and is read by the same reader.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from avatars.files import atomic_path, read_json, write_json
from capture.formats import Capture, open_capture
from capture.sample import SAMPLE

# A ring at eye height, two above, three below. Any one of …08 and …10 lies inside of the others: those are good to hold out.
CAMERAS = tuple(f"1000000{n:02d}" for n in (2, 4, 6, 8, 9, 10, 12, 13, 15, 16))
SIZE = (256, 352)  # the same shape as 400×550
CRF = "15"
QUANTUM = 5e-5  # metres; the source's float16 is no finer
ALPHA = (("EMO-1", "100000009"), ("EMO-1", "100000006"))  # coverage is kept for these clips alone


def make_sample(source: str | Path, out: str | Path = SAMPLE, cameras: Sequence[str] = CAMERAS, size: tuple[int, int] = SIZE) -> Path:
    """Write the sample of capture `source` to folder `out`, replacing what is there; `size` is (width, height)."""
    capture = open_capture(source, cameras=cameras)
    out = Path(out)
    with atomic_path(out) as folder:
        folder.mkdir(parents=True)
        _calibration(capture, folder, size)
        for camera in cameras:
            plate = capture.clean_plate(camera)
            if plate is not None:
                path = folder / "BACKGROUND" / f"image_{camera}.jpg"
                path.parent.mkdir(exist_ok=True)
                small = cv2.resize(plate, size, interpolation=cv2.INTER_AREA)
                quality = [cv2.IMWRITE_JPEG_QUALITY, 97, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
                path.write_bytes(cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), quality)[1].tobytes())
        for sequence in capture.sequences:
            images = folder / "sequences" / sequence / "images"
            images.mkdir(parents=True)
            for camera in cameras:
                pictures = (cv2.resize(p, size, interpolation=cv2.INTER_AREA) for p in capture.frames(sequence, camera))
                options = {"crf": CRF, "preset": "veryslow", "tune": "grain"}
                encode(images / f"cam_{camera}.mp4", pictures, capture.fps, "libx264", "yuv444p", options)
            sound = capture.audio(sequence)
            if sound is not None:
                shutil.copyfile(sound, images.parent / "audio.wav")
        if capture.truth is not None:
            _truth(capture, folder / "truth", size)
        (folder / "README.md").write_text(README.format(width=size[0], height=size[1], cameras=len(cameras)), encoding="utf-8")
        (folder / "ATTRIBUTION.md").write_text(ATTRIBUTION, encoding="utf-8")
    return out


def encode(path: Path, pictures: Iterable[np.ndarray], fps: float, codec: str, pixels: str, options: dict[str, str]) -> None:
    """Encode uint8 pictures, RGB [H, W, 3] or grey [H, W], to a video without any colour tag (BT.601), with accurate chroma."""
    import av
    from av.video.reformatter import Interpolation

    accurate = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
    with av.open(str(path), "w") as container:
        stream = None
        for picture in pictures:
            if stream is None:
                stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001), options=options)
                stream.height, stream.width = picture.shape[:2]
                stream.pix_fmt = pixels
                stream.codec_context.thread_count = 1  # the same bytes on every machine
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24" if picture.ndim == 3 else "gray")
            for packet in stream.encode(frame.reformat(format=pixels, interpolation=accurate)):
                container.mux(packet)
        if stream is None:
            raise ValueError(f"{path}: no pictures to encode")
        for packet in stream.encode():
            container.mux(packet)


def _calibration(capture: Capture, folder: Path, size: tuple[int, int]) -> None:
    assert capture.cameras is not None
    source = read_json(capture.path / "calibration" / "camera_params.json")
    cameras = capture.cameras.resized(*size)
    intrinsics = {name: K.double().numpy().round(4).tolist() for name, K in zip(cameras.names, cameras.Ks, strict=True)}
    extrinsics = {name: source["world_2_cam"][name] for name in cameras.names}
    write_json(
        folder / "calibration" / "camera_params.json", {"world_2_cam": extrinsics, "intrinsics": intrinsics, "image_size": list(size)}
    )


def _truth(capture: Capture, folder: Path, size: tuple[int, int]) -> None:
    truth = capture.truth
    assert truth is not None
    folder.mkdir()
    faces, landmarks = truth.faces, truth.landmark_vertex_ids
    neutral = truth.vertices(capture.sequences[0])[0]
    keep = _face_vertices(neutral, faces, landmarks)
    renumber = np.full(len(neutral), -1)
    renumber[keep] = np.arange(len(keep))
    kept_faces = renumber[faces]
    np.save(folder / "faces.npy", kept_faces[(kept_faces >= 0).all(1)].astype(np.uint16))
    write_json(folder / "landmark_vertex_ids.json", {
        "scheme": "Multi-PIE 68; indices into the vertices of motion.npz; -1: left out", "ids": renumber[landmarks].tolist(),
    })  # fmt: skip
    colors = read_json(truth.folder / "calibration_color.json")
    colors["cameras"] = {name: colors["cameras"][name] for name in capture.camera_names}
    write_json(folder / "calibration_color.json", colors)
    for sequence in capture.sequences:
        steps = np.rint(truth.vertices(sequence)[:, keep] / QUANTUM).astype(np.int32)
        deltas = np.diff(steps, axis=0, prepend=np.zeros_like(steps[:1])).astype(np.int16)
        motion: dict[str, Any] = {k: v for k, v in truth.motion(sequence).items() if k in ("expression_weights", "expression_names", "head_rotation", "head_translation", "gaze_deg", "jaw_angle_deg")}  # fmt: skip
        (folder / sequence).mkdir()
        arrays: dict[str, Any] = {
            "vertices": deltas,
            "vertices_scale": np.float32(QUANTUM),
            "vertices_offset": np.float32(0),
            "vertices_delta": np.bool_(True),
        }
        np.savez_compressed(folder / sequence / "motion.npz", **arrays, **motion)
    for sequence, camera in ALPHA:
        if sequence in capture.sequences and camera in capture.camera_names and truth.has_alpha(sequence, camera):
            (folder / sequence / "alpha").mkdir(exist_ok=True)
            pictures = (cv2.resize(a, size, interpolation=cv2.INTER_AREA) for a in truth.alpha(sequence, camera))
            encode(folder / sequence / "alpha" / f"cam_{camera}.mkv", pictures, capture.fps, "ffv1", "gray", {})


def _face_vertices(vertices: np.ndarray, faces: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """[n] indices of the visible face: within the landmarks as seen from the front (jaw line to 1.5 cm above the brows), and facing forward."""
    corners = vertices[faces]
    normals = np.zeros_like(vertices)
    for k in range(3):
        np.add.at(normals, faces[:, k], np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-12
    marks = vertices[landmarks]
    brows = marks[17:27, :2] + (0, 0.015)
    hull = cv2.convexHull(np.concatenate([marks[:, :2], brows]).astype(np.float32) * 1000)
    inside = np.array([cv2.pointPolygonTest(hull, (float(x), float(y)), False) >= 0 for x, y in vertices[:, :2] * 1000])
    visible = inside & (vertices[:, 2] > marks[:, 2].min()) & (normals[:, 2] > 0.1)
    visible[landmarks] = True
    return np.flatnonzero(visible)


ATTRIBUTION = """- Head texture and identity: from the Lee Perry-Smith head scan, Infinite-Realities, licensed CC BY 3.0
  (https://creativecommons.org/licenses/by/3.0/). Changed: registered and re-baked to the topology and texture space of ICT-FaceKit,
  tinted, hair region darkened, brows moved; rendered. Keep this attribution when you pass these pictures, or an avatar made from them, on.
- Head model: ICT-FaceKit, MIT licence, (c) 2020 USC Institute for Creative Technologies, https://github.com/ICT-VGL/ICT-FaceKit
- Sound: synthesised with espeak-ng; its output is not covered by the program's licence.
"""

README = """# A small synthetic capture of a talking head

Rendered with a path tracer; not a photograph of a person. {cameras} cameras at {width}×{height}, sequences EXP-1 (expressions), EMO-1 (emotions) and
SEN-1 (a sentence, with sound), 24 frames a second. The layout is NeRSemble's v2. Made from the capture "studio-01" by `python -m capture.sample.make`:
fewer cameras, area-averaged, H.264 4:4:4. `truth/` holds the visible face of the moving mesh (differences along time in units of
vertices_scale metres), the colour response of each camera, and the coverage of two clips; tracking and training never read it.
Licences and attribution: ATTRIBUTION.md, which goes along with everything made from this capture.
"""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="the full-size capture")
    parser.add_argument("--out", type=Path, default=SAMPLE, help="the folder to write")
    arguments = parser.parse_args()
    written = make_sample(arguments.source, arguments.out)
    print(written, f"{sum(f.stat().st_size for f in written.rglob('*') if f.is_file()) / 1e6:.1f} MB")
