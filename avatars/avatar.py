"""Avatar: a head with an identity, canonical Gaussians bound to it, a deformation, and one colour correction per camera.

A folder on disk holds all that driving and viewing need:

    manifest.json        kind, version, units, axes, colour space, licence, head, deformation, timeline, provenance
    avatar.safetensors   canonical Gaussians ("gaussians.*"), deformation ("deformation.*"), identity, colour, cameras
    sequences.npz        codes of the tracked sequences
    audio/<sequence>.wav where the capture had sound
    head.npz             only when the head is not the embedded default
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from avatars import deform
from avatars.config import from_dict
from avatars.errors import AvatarError, ConfigError, DiskFull, UserError
from avatars.files import atomic_path, content_hash, disk_full, read_arrays, read_json, write_json
from avatars.gaussians import CanonicalGaussians
from avatars.head import HeadModel, ShapedHead, load_head, save_head
from avatars.seal import check_seal, seal
from avatars.sequence import Segment, read_segments
from avatars.types import Cameras, Gaussians, HeadPose, Identity, Image

KIND, VERSION = "avatars.avatar", 1
_STAGING = ".saving-"


@dataclass(frozen=True)
class Timeline:
    """The tracked sequences that an avatar was made from: codes, cameras and where the pictures lie."""

    codes: HeadPose  # [T]
    segments: tuple[Segment, ...]
    fps: float
    cameras: Cameras
    tracked: str = ""  # folder of the TrackedSequence, "" when unknown
    held_out_cameras: tuple[str, ...] = ()
    held_out_sequences: tuple[str, ...] = ()

    @property
    def frame_count(self) -> int:
        """T, over all segments."""
        return len(self.codes)

    def segment(self, name: str) -> Segment:
        """The sequence called `name`; AvatarError lists the known ones."""
        for segment in self.segments:
            if segment.name == name:
                return segment
        raise AvatarError(f"the avatar has no sequence {name!r}; known: {', '.join(s.name for s in self.segments)}")


@dataclass(frozen=True)
class Avatar:
    """Someone's head, ready to be posed. Immutable; `at` may be called from any thread."""

    head: HeadModel
    identity: Identity
    gaussians: CanonicalGaussians
    deformation: str
    settings: deform.DeformSettings
    parameters: Mapping[str, Tensor]
    colors: Mapping[str, Tensor]  # camera name → [3, 4]: what that sensor makes of the avatar's colours
    timeline: Timeline
    provenance: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None

    @cached_property
    def _shaped(self) -> ShapedHead:
        return self.head.settle(self.identity)

    @cached_property
    def _opacities(self) -> Tensor:
        return self.gaussians.logit_opacities.sigmoid()

    @torch.no_grad()
    def at(self, pose: HeadPose) -> Gaussians:
        """World-space Gaussians of one frame (a pose of batch 1), on the device of the avatar."""
        if len(pose) != 1:
            raise ValueError(f"Avatar.at takes one frame, got {len(pose)}: index the pose with an int first")
        pose = pose.to(self.gaussians.means.device, self.gaussians.means.dtype)
        vertices = self.head.vertices(self._shaped, pose)[0]
        model, code = deform.find(self.deformation), deform.frame_code(pose)
        means, quats, scales, sh = deform.carried(model, dict(self.parameters), self.gaussians, code, vertices, self.head.faces)
        return Gaussians(means, quats, scales, self._opacities, sh)

    def frame(self, t: int) -> HeadPose:
        """The tracked pose of frame `t` of the timeline."""
        return self.timeline.codes[int(t)]

    def vertices(self, pose: HeadPose) -> Tensor:
        """[B, V, 3] the mesh underneath."""
        with torch.no_grad():
            return self.head.vertices(self._shaped, pose.to(self.gaussians.means.device, self.gaussians.means.dtype))

    def recolored(self, image: Image, cameras: Cameras) -> Image:
        """What these cameras' sensors would have recorded; `image` must have been rendered over black.

        Cameras whose colours were not learnt stay as they are.
        """
        affine = torch.stack([self.colors.get(n, identity_color(image.color)) for n in cameras.names]).to(image.color)
        color = torch.einsum("cij,chwj->chwi", affine[:, :, :3], image.color) + image.alpha * affine[:, None, None, :, 3]
        return replace(image, color=color.clamp(0, 1))

    def audio(self, sequence: str) -> Path | None:
        """The sound of a tracked sequence."""
        path = None if self.folder is None else self.folder / "audio" / f"{sequence}.wav"
        return path if path is not None and path.exists() else None

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Avatar:
        """A copy on `device`."""

        def move(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {k: v.to(device=device, dtype=dtype if v.is_floating_point() else None) for k, v in tensors.items()}

        timeline = replace(self.timeline, codes=self.timeline.codes.to(device, dtype), cameras=self.timeline.cameras.to(device, dtype))
        return replace(
            self, head=self.head.to(device, dtype), identity=self.identity.to(device, dtype), gaussians=self.gaussians.to(device, dtype),
            parameters=move(self.parameters), colors=move(self.colors), timeline=timeline,
        )  # fmt: skip

    def save(self, folder: str | Path) -> None:
        """Write the folder; see `save_avatar`."""
        save_avatar(self, Path(folder))

    @property
    def megabytes(self) -> float:
        """Size of the trained numbers, 10⁶ bytes."""
        tensors = [*self.gaussians.tensors().values(), *self.parameters.values()]
        return sum(t.numel() * t.element_size() for t in tensors) / 1e6


def identity_color(like: Tensor) -> Tensor:
    """[3, 4] the colour correction that changes nothing."""
    return torch.eye(3, 4, dtype=like.dtype, device=like.device)


def save_avatar(avatar: Avatar, folder: Path) -> None:
    """Write `avatar` into `folder`; what lies there is replaced only when everything new is on the disk.

    The manifest comes last, so its presence means done.
    """
    a = avatar.to("cpu")
    tensors = {f"gaussians.{k}": v for k, v in a.gaussians.tensors().items()}
    tensors |= {f"deformation.{k}": v for k, v in a.parameters.items()}
    tensors |= {f"color.{k}": v for k, v in a.colors.items()}
    tensors |= {"identity.coefficients": a.identity.coefficients, "identity.scale": torch.as_tensor(a.identity.scale, dtype=torch.float32)}
    if a.identity.offsets is not None:
        tensors["identity.offsets"] = a.identity.offsets
    line = a.timeline
    tensors |= {"cameras.Ks": line.cameras.Ks, "cameras.viewmats": line.cameras.viewmats}
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{_STAGING}*"):  # of a run that was killed
        shutil.rmtree(left, ignore_errors=True)
    new = folder / f"{_STAGING}{uuid.uuid4().hex[:8]}"
    try:
        _write_files(avatar, a, tensors, folder, new)
        (folder / "manifest.json").unlink(missing_ok=True)  # until the last file is in its place this is no avatar
        if not (new / "head.npz").exists():
            (folder / "head.npz").unlink(missing_ok=True)
        for path in sorted((p for p in new.rglob("*") if p.is_file()), key=lambda p: p.name == "manifest.json"):
            target = folder / path.relative_to(new)
            target.parent.mkdir(exist_ok=True)
            os.replace(path, target)
    except DiskFull as error:
        raise disk_full(folder, error.needed) from None
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _write_files(avatar: Avatar, a: Avatar, tensors: Mapping[str, Tensor], folder: Path, new: Path) -> None:
    """All files of `avatar` (`a`: the same on the CPU) into `new`; sound that lies in `folder` already stays there."""
    line = a.timeline
    write_tensors(new / "avatar.safetensors", tensors)
    with atomic_path(new / "sequences.npz") as temporary:
        np.savez(temporary, **{f.name: getattr(line.codes, f.name).detach().numpy() for f in fields(HeadPose)})
    if a.head.name != "default" or a.head.content_hash() != load_head().content_hash():  # or an older default
        save_head(a.head, new / "head.npz")
    for segment in line.segments:
        source = _sound(avatar, segment.name)
        if source is not None and source != folder / "audio" / f"{segment.name}.wav":
            with atomic_path(new / "audio" / f"{segment.name}.wav") as temporary:
                shutil.copyfile(source, temporary)
    manifest = {
        "kind": KIND, "version": VERSION, "units": "metres", "axes": "y up, z forward, x the subject's left; cameras OpenCV",
        "quaternions": "wxyz", "color_space": "sRGB, spherical harmonics + 0.5", "licence": "the licence of the capture applies",
        "gaussians": len(a.gaussians), "deformation": a.deformation, "settings": asdict(a.settings),
        "head": {"name": a.head.name, "hash": a.head.content_hash()}, "expression_names": list(a.head.expression_names),
        "fps": line.fps, "segments": [[s.name, s.start, s.stop] for s in line.segments], "tracked": line.tracked,
        "cameras": list(line.cameras.names), "width": line.cameras.width, "height": line.cameras.height,
        "held_out_cameras": list(line.held_out_cameras), "held_out_sequences": list(line.held_out_sequences),
        "provenance": dict(a.provenance),
    }  # fmt: skip
    write_json(new / "manifest.json", seal(manifest, new, ("avatar.safetensors", "sequences.npz")))


def load_avatar(folder: str | Path) -> Avatar:
    """Open an avatar folder; AvatarError says which file is missing, damaged or of another version, and what to do."""
    folder = Path(folder)
    if not (folder / "manifest.json").exists():
        raise AvatarError(f"{folder} is not an avatar (no manifest.json). Make one with `avatars train TRACKED --out {folder}`.")
    m = read_json(folder / "manifest.json", "avatar")
    if not isinstance(m, dict) or m.get("kind") != KIND:
        raise AvatarError(
            f"{folder} is not an avatar: manifest.json does not say kind {KIND!r}. Give the folder that `avatars train` wrote."
        )
    if m.get("version") != VERSION:
        raise AvatarError(f"{folder} has version {m.get('version')}; this program reads {VERSION}. Train the avatar again.")
    remedy = "Train the avatar again, or copy the folder again."
    check_seal(m, folder, remedy)
    tensors = read_tensors(folder / "avatar.safetensors", remedy)
    try:
        if m.get("content_hash", "") not in ("", content_hash(folder / "avatar.safetensors")):  # of a time before seals
            raise ValueError("avatar.safetensors is not the file that manifest.json was written for")
        head = _head_of(folder, m["head"])
        arrays = read_arrays(folder / "sequences.npz", "avatar", remedy)
        codes = HeadPose(*(torch.from_numpy(arrays[f.name]) for f in fields(HeadPose)))
        cameras = Cameras(tuple(m["cameras"]), tensors["cameras.Ks"], tensors["cameras.viewmats"], m["width"], m["height"])
        gaussians = CanonicalGaussians(**_under(tensors, "gaussians."))
        if len(gaussians) and int(gaussians.face_ids.max()) >= head.F:
            raise ValueError(f"Gaussians are bound to triangle {int(gaussians.face_ids.max())} of a head with {head.F}")
        timeline = Timeline(
            codes, read_segments(m["segments"]), float(m["fps"]), cameras, m["tracked"],
            tuple(m["held_out_cameras"]), tuple(m["held_out_sequences"]),
        )  # fmt: skip
        if timeline.segments and timeline.segments[-1].stop != len(codes):
            raise ValueError(f"sequences.npz has {len(codes)} frames, manifest.json {timeline.segments[-1].stop}")
        identity = Identity(tensors["identity.coefficients"], tensors.get("identity.offsets"), float(tensors["identity.scale"]))
        deform.find(m["deformation"])
        settings = from_dict(deform.DeformSettings, m["settings"], "settings")
        parameters = _under(tensors, "deformation.")
        for name, tensor in parameters.items():
            if name.startswith(deform.PER_GAUSSIAN) and len(tensor) != len(gaussians):
                raise ValueError(f"deformation.{name} has {len(tensor)} rows for {len(gaussians)} Gaussians")
        return Avatar(
            head, identity, gaussians, m["deformation"], settings, parameters, _under(tensors, "color."), timeline, m["provenance"], folder
        )
    except AvatarError:
        raise
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise AvatarError(f"{folder} is damaged: {reason}. {remedy}") from None


def read_tensors(path: Path, remedy: str) -> dict[str, Tensor]:
    """All tensors of a safetensors file; AvatarError names it when it is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError:
        raise AvatarError(f"{path} is missing. {remedy}") from None
    except (SafetensorError, OSError, ValueError, json.JSONDecodeError) as error:
        raise AvatarError(f"{path} is damaged ({error}). {remedy}") from None


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file atomically; a full disk is a UserError."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    plain = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    with atomic_path(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # what the user's umask allows; safetensors makes files that nobody else may read
        try:
            save_file(plain, temporary, metadata=metadata)
            temporary.chmod(mode)
        except SafetensorError as error:  # it hides the errno in its text
            if "code: 28" in str(error) or "No space" in str(error):
                raise disk_full(path, sum(t.numel() * t.element_size() for t in plain.values())) from error
            raise


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


def _head_of(folder: Path, wanted: Mapping[str, str]) -> HeadModel:
    own = folder / "head.npz"
    try:
        head = load_head(own if own.exists() else None)
    except UserError as error:
        raise AvatarError(f"{folder}: its head cannot be read. {error}") from None
    if own.exists() and head.content_hash() != wanted["hash"]:
        raise AvatarError(f"{own} is not the head that the avatar was trained with. Copy the folder again, or train again.")
    if head.content_hash() != wanted["hash"]:
        raise AvatarError(
            f"{folder} was trained with another version of the default head ({wanted['hash']}, this program has "
            f"{head.content_hash()}). Track and train again."
        )
    return head


def _sound(avatar: Avatar, sequence: str) -> Path | None:
    own = avatar.audio(sequence)
    if own is not None:
        return own
    path = Path(avatar.timeline.tracked) / "audio" / f"{sequence}.wav" if avatar.timeline.tracked else None
    return path if path is not None and path.exists() else None
