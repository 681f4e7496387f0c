"""The stage of a trained avatar: poses it, draws it with the project's renderer, and sets it beside its capture.

Comparisons are made on the picture of the capture's camera, cut out by its matte and laid over the viewer's
background, so that what differs is the person and not the studio's wall. Through a camera of the capture the avatar is
shown in that sensor's colours.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch

from avatars.avatar import Avatar, load_avatar
from avatars.camera_path import head_ball
from avatars.errors import AvatarError, UserError
from avatars.metrics import psnr, region_masks
from avatars.pictures import PictureCache
from avatars.playback import rest_pose
from avatars.sequence import Segment, TrackedSequence, load_tracked
from avatars.transforms import axis_angle_to_matrix
from avatars.types import Cameras, Gaussians, HeadPose
from viewer.cameras import Rect, fit, fitted_fov
from viewer.layers import Colour, draw_color, draw_layer, draw_lines, heat
from viewer.posing import Track, for_head, posed
from viewer.splats import Splats, splats_of
from viewer.stage import LAYERS, REGIONS, TRUTH, Controls, Place, Request, Timeline
from viewer.takes import read_take, unused_name, write_take
from viewer.watch import avatar_in_training, in_training

CURVE_HEIGHT = 400  # pictures for the PSNR curve are at most this tall
_KEPT_POSES = 4
_LOCAL = threading.local()


class AvatarStage:
    """See `viewer.stage.Stage`. `tracked` brings the truth pictures, `rival` another avatar to compare with."""

    def __init__(
        self, avatar: Avatar, tracked: TrackedSequence | None = None, rival: Avatar | None = None, backend: str = "auto", name: str | None = None
    ) -> None:
        self.avatar, self.tracked, self.rival, self.backend = avatar, tracked, rival, backend
        line = avatar.timeline
        self.name = name or name_of(avatar)
        self.expression_names = tuple(avatar.head.expression_names)
        self.timeline: Timeline | None = Timeline(line.fps, line.segments) if line.frame_count else None
        self.camera_names = tuple(line.cameras.names)
        self.layers: tuple[str, ...] = LAYERS
        truth = tracked is not None and bool(self.camera_names) and line.frame_count > 0
        self.references: tuple[str, ...] = (*((TRUTH,) if truth else ()), *(() if rival is None else (_rival_name(rival, self.name),)))
        self.held_out = frozenset(line.held_out_cameras) | frozenset(line.held_out_sequences)
        self._pictures = PictureCache(tracked, megabytes=200) if tracked is not None else None
        self._rest = rest_pose(avatar)
        self._track = Track(line.codes) if line.frame_count else None
        self.status = ""
        self._adding = threading.Lock()
        self._posed: OrderedDict[tuple[int, float, Controls], tuple[HeadPose, Gaussians]] = OrderedDict()
        self._range = torch.stack([line.codes.expression.amin(0), line.codes.expression.amax(0)], 1).cpu().numpy() if line.frame_count else None
        self.place = self._find_place()
        self.figures: Mapping[str, str] = self._figures()

    # Facts -------------------------------------------------------------------------------------------------------

    def weights(self, time: float) -> np.ndarray:
        """See `viewer.stage.Stage`."""
        if self._track is None:
            return np.zeros(len(self.expression_names))
        return self._track.at(time, self._stop(time)).expression[0].cpu().numpy()

    def trained_range(self) -> np.ndarray | None:
        """See `viewer.stage.Stage`."""
        return self._range

    def view(self, camera: str, aspect: float) -> tuple[tuple[float, ...], float]:
        """See `viewer.stage.Stage`."""
        cameras = self.avatar.timeline.cameras.select([camera])
        viewmat = cameras.viewmats[0].double().cpu().numpy()
        fov = 2 * math.atan(cameras.height / 2 / float(cameras.Ks[0, 1, 1]))
        return tuple(float(v) for v in viewmat.ravel()), fitted_fov(fov, cameras.width, cameras.height, aspect)

    def sound(self, sequence: str) -> Path | None:
        """See `viewer.stage.Stage`."""
        return self.avatar.audio(sequence) or (self.tracked.audio(sequence) if self.tracked is not None else None)

    @torch.no_grad()
    def psnr(self, frame: int, camera: str) -> tuple[float, ...] | None:
        """See `viewer.stage.Stage`."""
        truth = self._truth(frame, camera, (1.0, 1.0, 1.0))
        if truth is None:
            return None
        _one_torch_thread()
        cameras = self.avatar.timeline.cameras.select([camera])
        scale = min(1.0, CURVE_HEIGHT / cameras.height)
        size = max(round(cameras.width * scale), 1), max(round(cameras.height * scale), 1)
        cameras = cameras.resized(*size)
        pose, gaussians = self._pose(float(frame), Controls())
        rendered = torch.from_numpy(draw_color(self.avatar, gaussians, cameras, (1.0, 1.0, 1.0), self.backend))[None]
        picture, mask = (torch.from_numpy(cv2.resize(x, size, interpolation=cv2.INTER_AREA))[None] for x in truth)
        vertices = self.avatar.vertices(pose)[0]
        masks = region_masks(self.avatar.head, vertices, cameras.to(vertices.device), mask.to(vertices.device))
        return tuple(float(psnr(rendered, picture, None if (m := masks[name]) is None else m.cpu())) for name in REGIONS)

    def adopt(self, avatar: Avatar) -> None:
        """Show a newer state of the same avatar; ValueError when it is another head or capture. Call it in the render thread."""
        if tuple(avatar.head.expression_names) != self.expression_names or avatar.timeline.segments != self.avatar.timeline.segments:
            raise ValueError("this is an avatar of another head or capture")
        self.avatar = avatar
        self._posed.clear()
        self.figures = self._figures()

    # Takes -------------------------------------------------------------------------------------------------------

    def add_take(self, name: str, content: bytes) -> str:
        """See `viewer.stage.Stage`."""
        fps = self.timeline.fps if self.timeline is not None else None
        poses, fps = read_take(name, content, self.avatar.head, self._rest, fps)
        poses = poses.to(self.avatar.gaussians.means.device)
        with self._adding:  # every browser may
            known = self.timeline.segments if self.timeline is not None else ()
            title, start = unused_name(name, {s.name for s in known}), known[-1].stop if known else 0
            self._track = Track(poses if self._track is None else HeadPose.cat([self._track.codes, poses]))
            self.timeline = Timeline(fps, (*known, Segment(title, start, start + len(poses))))
        return title

    def save_take(self, sequence: str, held: Mapping[str, float], suffix: str) -> bytes:
        """See `viewer.stage.Stage`."""
        segments = self.timeline.segments if self.timeline is not None else ()
        segment = next((s for s in segments if s.name == sequence), None)
        if segment is None or self._track is None or self.timeline is None:
            raise UserError(f"there is no sequence {sequence!r} to save.")
        poses = self._track.codes[slice(segment.start, segment.stop)]
        return write_take(poses, held, self.avatar.head, self.timeline.fps, suffix)

    # Pictures ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def render(self, request: Request) -> np.ndarray:
        """See `viewer.stage.Stage`."""
        _one_torch_thread()
        width, height = request.width, request.height
        red, green, blue = request.background
        background = (red / 255, green / 255, blue / 255)
        mode = request.mode
        # A performance that was loaded has no pictures.
        unseen = request.against == TRUTH and (request.camera is None or request.time >= self.avatar.timeline.frame_count)
        if mode == "Render" or unseen:
            cameras, _ = self._cameras(request, Rect(0, 0, width, height))
            return _bytes(self._layer(request, cameras, background))
        canvas = np.empty((height, width, 3), np.float32)
        canvas[:] = (0, 0, 0) if mode == "Error" else background
        if mode == "Side by side":
            half = width // 2
            for offset, draw in ((0, self._reference), (width - half, self._layer)):
                cameras, rect = self._cameras(request, Rect(offset, 0, half, height), cut=True)
                _paste(canvas, draw(request, cameras, background), rect)
            return _bytes(canvas)
        cameras, rect = self._cameras(request, Rect(0, 0, width, height), cut=True)
        picture = self._reference(request, cameras, background)
        if mode == "Wipe":
            at = min(max(round(request.wipe * width) - rect.x, 0), rect.width)
            picture = np.concatenate([picture[:, :at], self._layer(request, cameras, background)[:, at:]], 1)
        elif mode == "Error":
            picture = heat(np.abs(self._layer(request, cameras, background) - picture).mean(2), request.gain)
        _paste(canvas, picture, rect)
        return _bytes(canvas)

    def splats(self, request: Request) -> Splats:
        """See `viewer.stage.Stage`."""
        _one_torch_thread()
        return splats_of(self._pose(request.time, request.controls)[1])

    def _layer(self, request: Request, cameras: Cameras, background: Colour, avatar: Avatar | None = None) -> np.ndarray:
        avatar = avatar or self.avatar
        pose, gaussians = self._pose(request.time, request.controls, avatar)
        picture = draw_layer(request.layer, avatar, pose, gaussians, cameras, background, self.place, self.backend)
        return draw_lines(picture, avatar, pose, cameras) if request.lines else picture

    def _reference(self, request: Request, cameras: Cameras, background: Colour) -> np.ndarray:
        """What the avatar is compared with, as large as `cameras` see it."""
        if request.against != TRUTH and self.rival is not None:
            return self._layer(replace(request, layer=LAYERS[0]), cameras, background, self.rival)
        truth = self._truth(int(request.time), request.camera or "", background)
        if truth is None:
            raise AvatarError(f"camera {request.camera} has no picture of this frame; choose another camera or frame.")
        smaller = cameras.width < truth[0].shape[1]
        picture = cv2.resize(truth[0], (cameras.width, cameras.height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
        return draw_lines(picture, self.avatar, self._pose(request.time, request.controls)[0], cameras) if request.lines else picture

    def _truth(self, frame: int, camera: str, background: Colour) -> tuple[np.ndarray, np.ndarray] | None:
        if self.tracked is None or self._pictures is None or camera not in self.tracked.cameras.names:
            return None
        index = self.tracked.cameras.names.index(camera)
        if frame >= self.tracked.frame_count or not self.tracked.valid[frame, index]:
            return None
        picture = self._pictures.get(frame, index).astype(np.float32) / 255  # colours times matte, matte
        alpha = picture[..., 3:]
        return picture[..., :3] + np.asarray(background, np.float32) * (1 - alpha), alpha[..., 0]

    # Cameras and poses -------------------------------------------------------------------------------------------

    def _cameras(self, request: Request, canvas: Rect, cut: bool = False) -> tuple[Cameras, Rect]:
        """The camera that draws onto `canvas`; with `cut`, only where the capture's picture lies in it."""
        if request.camera is None:
            focal = canvas.height / 2 / math.tan(request.fov / 2)
            like = self.avatar.gaussians.means
            K = like.new_tensor([[focal, 0, canvas.width / 2], [0, focal, canvas.height / 2], [0, 0, 1]])
            viewmat = like.new_tensor(request.viewmat).reshape(4, 4)
            return Cameras(("free",), K[None], viewmat[None], canvas.width, canvas.height), canvas
        source = self.avatar.timeline.cameras.select([request.camera])
        rect = fit(source.width, source.height, canvas)
        scaled = source.resized(rect.width, rect.height)
        if cut:
            return scaled, rect
        Ks = scaled.Ks.clone()
        Ks[:, 0, 2] += rect.x - canvas.x
        Ks[:, 1, 2] += rect.y - canvas.y
        return replace(scaled, Ks=Ks, width=canvas.width, height=canvas.height), canvas

    def _stop(self, time: float) -> int:
        assert self.timeline is not None
        return self.timeline.segment_at(time).stop

    def _pose(self, time: float, controls: Controls, avatar: Avatar | None = None) -> tuple[HeadPose, Gaussians]:
        avatar = avatar or self.avatar
        key = (id(avatar), time, controls)
        if key in self._posed:
            self._posed.move_to_end(key)
            return self._posed[key]
        pose = self._posed_head(time, controls)
        if avatar is not self.avatar:
            pose = for_head(pose, self.expression_names, avatar.head)
        result = pose, avatar.at(pose)
        self._posed[key] = result
        while len(self._posed) > _KEPT_POSES:
            self._posed.popitem(last=False)
        return result

    def _posed_head(self, time: float, controls: Controls) -> HeadPose:
        recorded = self._track.at(time, self._stop(time)) if self._track is not None else None
        return posed(self.avatar.head, self._rest, recorded, controls)

    def _find_place(self) -> Place:
        centre, radius = head_ball(self.avatar, self._rest)
        R = axis_angle_to_matrix(self._rest.rotation[0].double().cpu())
        return Place(tuple(centre.tolist()), tuple(R[:, 2].tolist()), tuple(R[:, 1].tolist()), radius)

    def _figures(self) -> dict[str, str]:
        line = self.avatar.timeline
        figures = {
            "Gaussians": f"{len(self.avatar.gaussians):,}".replace(",", " "),
            "Size": f"{self.avatar.megabytes:.1f} MB",
            "Head": self.avatar.head.name,
            "Deformation": self.avatar.deformation,
            "Sequences": ", ".join(s.name for s in line.segments) or "none",
            "Cameras": str(len(line.cameras.names)),
        }
        if line.held_out_cameras:
            figures["Held-out cameras"] = ", ".join(line.held_out_cameras)
        if line.held_out_sequences:
            figures["Held-out sequences"] = ", ".join(line.held_out_sequences)
        if TRUTH not in self.references:
            figures["Truth"] = "no tracked folder: comparisons are off"
        return figures


def name_of(avatar: Avatar) -> str:
    """What to call it: its folder, or the folder above one that is just called avatar."""
    folder = avatar.folder.resolve() if avatar.folder is not None else Path("avatar")
    return (folder.parent.name if folder.name == "avatar" else "") or folder.name


def open_stage(avatar_dir: str | Path, tracked_dir: str | Path | None = None, rival_dir: str | Path | None = None) -> AvatarStage:
    """Open an avatar folder, with the capture's pictures: from `tracked_dir`, else where the avatar says that they are.

    `rival_dir` is another avatar, which is shown in the same pose through the same camera. A training that has not finished can be
    opened too, with its `tracked_dir`.
    """
    tracked = load_tracked(tracked_dir) if tracked_dir is not None else None
    if in_training(avatar_dir):
        if tracked is None:
            raise AvatarError(f"{avatar_dir} is still being trained. Give its tracked folder too to watch it, or wait until it has finished.")
        avatar = replace(avatar_in_training(Path(avatar_dir), tracked), folder=Path(avatar_dir))
    else:
        avatar = load_avatar(avatar_dir)
    if tracked is None and avatar.timeline.tracked:
        remembered = Path(avatar.timeline.tracked)
        folder = remembered if remembered.is_absolute() else Path(avatar_dir) / remembered
        tracked = load_tracked(folder) if (folder / "manifest.json").exists() else None
    if tracked is not None and tracked.segments != avatar.timeline.segments:
        raise AvatarError(f"{tracked.folder} is not the capture that {avatar_dir} was made from: their sequences differ.")
    return AvatarStage(avatar, tracked, load_avatar(rival_dir) if rival_dir is not None else None)


def _rival_name(rival: Avatar, name: str) -> str:
    own = name_of(rival)
    return own if own not in (name, TRUTH) else f"{own} (B)"


def _one_torch_thread() -> None:
    """Posing takes many small operations: split over threads they cost 2 ms less alone, and ten times more beside a browser.

    The splat renderer has threads of its own.
    """
    if not getattr(_LOCAL, "prepared", False):
        torch.set_num_threads(1)
        _LOCAL.prepared = True


def _paste(canvas: np.ndarray, picture: np.ndarray, rect: Rect) -> None:
    canvas[rect.y : rect.y + rect.height, rect.x : rect.x + rect.width] = picture


def _bytes(picture: np.ndarray) -> np.ndarray:
    return cv2.convertScaleAbs(np.ascontiguousarray(picture), alpha=255.0)
