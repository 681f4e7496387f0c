"""The stage of a trained avatar: poses it, draws it with the project's renderer, and sets it beside its capture.

Comparisons are made on the picture of the capture's camera, cut out by its matte and laid over the viewer's
background, so that what differs is the person and not the studio's wall. Through a camera of the capture the avatar is
shown in that sensor's colours.
"""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch

from avatars.avatar import Avatar
from avatars.camera_path import head_ball
from avatars.drive import retarget
from avatars.errors import AvatarError, UserError
from avatars.export import find, names
from avatars.playback import tracked_codes
from avatars.render import render
from avatars.sequence import TrackedSequence, load_tracked
from avatars.transforms import axis_angle_to_matrix
from avatars.types import Cameras, HeadPose
from viewer.camera_rig import CameraRig
from viewer.cameras import Rect, fit, fitted_fov
from viewer.ensemble import Ensemble
from viewer.layers import Colour, draw_layer, draw_lines, heat, legend_of
from viewer.repertoire import Repertoire
from viewer.shelf import name_of, nearby, open_folder, packed
from viewer.splats import Splats, splats_of
from viewer.stage import LAYERS, TRUTH, Controls, Legend, Place, Request, Timeline
from viewer.takes import read_take, write_take
from viewer.truth import Truth

_LOCAL = threading.local()


class AvatarStage:
    """See `viewer.stage.Stage`. `tracked` brings the truth pictures, `others` are further avatars to compare with."""

    def __init__(
        self,
        avatar: Avatar,
        tracked: TrackedSequence | None = None,
        others: Sequence[Avatar] = (),
        backend: str = "auto",
        name: str | None = None,
    ) -> None:
        self.tracked, self.backend = tracked, backend
        line = avatar.timeline
        self.name = name or name_of(avatar.folder)
        self.expression_names = tuple(avatar.head.expression_names)
        self.camera_names = tuple(line.cameras.names)
        self.layers: tuple[str, ...] = LAYERS
        self.held_out = frozenset(line.held_out_cameras) | frozenset(line.held_out_sequences)
        self.status = ""
        self.nearby: Mapping[str, str] = nearby(avatar.folder)
        self.exports: Mapping[str, str] = {n: find(n).DESCRIPTION for n in names()}
        self._truth = Truth(tracked) if tracked is not None and self.camera_names and line.frame_count else None
        self._repertoire = Repertoire(line)
        self.timeline: Timeline | None = self._repertoire.timeline
        self._ensemble = Ensemble(self.name, avatar, self._repertoire, backend)
        for other in others:
            self._ensemble.add(other, name_of(other.folder))
        self.avatars: tuple[str, ...] = ()
        self.references: tuple[str, ...] = ()
        self._list_avatars()
        self._range = (
            torch.stack([line.codes.expression.amin(0), line.codes.expression.amax(0)], 1).cpu().numpy() if line.frame_count else None
        )
        self.place = self._find_place()
        self._rig = CameraRig(line.cameras, tracked, self.place, self.held_out)
        self.figures: Mapping[str, str] = self._figures()

    @property
    def avatar(self) -> Avatar:
        """The first avatar, whose stage this is."""
        return self._ensemble[self.name]

    # Facts -------------------------------------------------------------------------------------------------------

    def weights(self, time: float) -> np.ndarray:
        """See `viewer.stage.Stage`."""
        pose = self._repertoire.at(time)
        return np.zeros(len(self.expression_names)) if pose is None else pose.expression[0].cpu().numpy()

    def trained_range(self) -> np.ndarray | None:
        """See `viewer.stage.Stage`."""
        return self._range

    def legend(self, request: Request) -> Legend | None:
        """See `viewer.stage.Stage`."""
        return legend_of(request, self._ensemble[request.subject], self.place)

    def view(self, camera: str, aspect: float) -> tuple[tuple[float, ...], float]:
        """See `viewer.stage.Stage`."""
        cameras = self.avatar.timeline.cameras.select([camera])
        viewmat = cameras.viewmats[0].double().cpu().numpy()
        fov = 2 * math.atan(cameras.height / 2 / float(cameras.Ks[0, 1, 1]))
        return tuple(float(v) for v in viewmat.ravel()), fitted_fov(fov, cameras.width, cameras.height, aspect)

    def camera_at(self, request: Request, x: float, y: float) -> str | None:
        """See `viewer.stage.Stage`."""
        if request.camera is not None:
            return None
        return self._rig.at(self._cameras(request, Rect(0, 0, request.width, request.height))[0], x, y)

    def thumbnail(self, camera: str, frame: int) -> np.ndarray | None:
        """See `viewer.stage.Stage`."""
        return self._rig.thumbnail(camera, frame)

    def sound(self, sequence: str) -> Path | None:
        """See `viewer.stage.Stage`."""
        return (
            self._repertoire.sound(sequence)
            or self.avatar.audio(sequence)
            or (self.tracked.audio(sequence) if self.tracked is not None else None)
        )

    @torch.no_grad()
    def measure(self, frame: int, camera: str, subject: str) -> np.ndarray | None:
        """See `viewer.stage.Stage`."""
        if self._truth is None:
            return None
        _one_torch_thread()
        pose, gaussians = self._ensemble.posed(subject, float(frame), Controls())
        return self._truth.measure(self._ensemble[subject], pose, gaussians, frame, camera, self.backend)

    def adopt(self, avatar: Avatar) -> None:
        """Show a newer state of the same avatar; ValueError when it is another head or capture. Call it in the render thread."""
        if tuple(avatar.head.expression_names) != self.expression_names or avatar.timeline.segments != self.avatar.timeline.segments:
            raise ValueError("this is an avatar of another head or capture")
        self._ensemble.replace_lead(avatar)
        self.figures = self._figures()

    # Avatars and performances ------------------------------------------------------------------------------------

    def open_avatar(self, folder: str) -> str:
        """See `viewer.stage.Stage`."""
        avatar = open_folder(folder, self.tracked).to(self.avatar.gaussians.means.device)
        title = self._ensemble.add(avatar, name_of(avatar.folder))
        self._list_avatars()
        return title

    def close_avatar(self, name: str) -> None:
        """See `viewer.stage.Stage`."""
        self._ensemble.remove(name)
        self._list_avatars()

    def performances(self) -> tuple[tuple[str, str], ...]:
        """See `viewer.stage.Stage`."""
        return tuple((name, s.name) for name in self.avatars[1:] for s in self._ensemble[name].timeline.segments)

    def borrow(self, avatar: str, sequence: str) -> str:
        """See `viewer.stage.Stage`."""
        other = self._ensemble[avatar]
        codes = tracked_codes(other, sequence)
        fps = self.timeline.fps if self.timeline is not None else codes.fps
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the head lacks is left out
            poses = retarget(codes.resampled(fps), self.avatar.head, self._ensemble.rest.to("cpu"))
        return self._added(f"{sequence} of {avatar}", poses, fps, other.audio(sequence))

    def add_take(self, name: str, content: bytes) -> str:
        """See `viewer.stage.Stage`."""
        fps = self.timeline.fps if self.timeline is not None else None
        poses, fps = read_take(name, content, self.avatar.head, self._ensemble.rest, fps)
        return self._added(name, poses, fps)

    def save_take(self, sequence: str, held: Mapping[str, float], suffix: str) -> bytes:
        """See `viewer.stage.Stage`."""
        poses = self._repertoire.poses(sequence)
        if poses is None or self.timeline is None:
            raise UserError(f"there is no sequence {sequence!r} to save.")
        return write_take(poses, held, self.avatar.head, self.timeline.fps, suffix)

    @torch.no_grad()
    def export(self, format: str, request: Request) -> tuple[str, bytes]:
        """See `viewer.stage.Stage`."""
        pose = self._ensemble.pose(request.subject, request.time, request.controls)
        return packed(self._ensemble[request.subject], pose, format, request.subject or self.name)

    def _added(self, name: str, poses: HeadPose, fps: float, sound: Path | None = None) -> str:
        title = self._repertoire.add(name, poses.to(self.avatar.gaussians.means.device), fps, sound)
        self.timeline = self._repertoire.timeline
        return title

    def _list_avatars(self) -> None:
        self.avatars = self._ensemble.names
        several = self.avatars if len(self.avatars) > 1 else ()
        self.references = (*((TRUTH,) if self._truth is not None else ()), *several)

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
            picture = self._layer(request, cameras, background)
            if request.frustums and request.camera is None:
                picture = self._with_cameras(picture, request, cameras)
            return _bytes(picture)
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
        return splats_of(self._ensemble.posed(request.subject, request.time, request.controls)[1])

    def _layer(self, request: Request, cameras: Cameras, background: Colour, name: str | None = None) -> np.ndarray:
        name = request.subject if name is None else name
        avatar = self._ensemble[name]
        pose, gaussians = self._ensemble.posed(name, request.time, request.controls)
        picture = draw_layer(
            request.layer, avatar, pose, gaussians, cameras, background, self.place, self.backend, lambda: self._ensemble.texture(name)
        )
        return draw_lines(picture, avatar, pose, cameras) if request.lines else picture

    def _with_cameras(self, picture: np.ndarray, request: Request, cameras: Cameras) -> np.ndarray:
        gaussians = self._ensemble.posed(request.subject, request.time, request.controls)[1]
        cover = render(gaussians, cameras, torch.zeros(3), self.backend).alpha[0, ..., 0].cpu().numpy()
        segment = self.timeline.segment_at(request.time) if self.timeline is not None else None
        return self._rig.drawn(picture, cover, cameras, segment, request.pointed)

    def _reference(self, request: Request, cameras: Cameras, background: Colour) -> np.ndarray:
        """What the avatar is compared with, as large as `cameras` see it."""
        if request.against != TRUTH:
            return self._layer(replace(request, layer=LAYERS[0]), cameras, background, request.against)
        truth = self._truth.picture(int(request.time), request.camera or "", background) if self._truth is not None else None
        if truth is None:
            raise AvatarError(f"camera {request.camera} has no picture of this frame; choose another camera or frame.")
        smaller = cameras.width < truth[0].shape[1]
        picture = cv2.resize(truth[0], (cameras.width, cameras.height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
        return (
            draw_lines(picture, self.avatar, self._ensemble.posed("", request.time, request.controls)[0], cameras)
            if request.lines
            else picture
        )

    # Cameras -----------------------------------------------------------------------------------------------------

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

    def _find_place(self) -> Place:
        centre, radius = head_ball(self.avatar, self._ensemble.rest)
        R = axis_angle_to_matrix(self._ensemble.rest.rotation[0].double().cpu())
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


def open_stage(avatar_dir: str | Path, tracked_dir: str | Path | None = None, other_dirs: Sequence[str | Path] = ()) -> AvatarStage:
    """Open an avatar folder, with the capture's pictures: from `tracked_dir`, else where the avatar says that they are.

    `other_dirs` are further avatars, which are shown in the same pose through the same camera. Trainings that have not finished can be
    opened too, with their `tracked_dir`.
    """
    tracked = load_tracked(tracked_dir) if tracked_dir is not None else None
    avatar = open_folder(avatar_dir, tracked)
    if tracked is None and avatar.timeline.tracked:
        remembered = Path(avatar.timeline.tracked)
        folder = remembered if remembered.is_absolute() else Path(avatar_dir) / remembered
        tracked = load_tracked(folder) if (folder / "manifest.json").exists() else None
    if tracked is not None and tracked.segments != avatar.timeline.segments:
        raise AvatarError(f"{tracked.folder} is not the capture that {avatar_dir} was made from: their sequences differ.")
    return AvatarStage(avatar, tracked, [open_folder(folder, tracked) for folder in other_dirs])


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
