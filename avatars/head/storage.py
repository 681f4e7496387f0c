"""Heads on disk: one npz in our own format, read without pickle and checked before use.

Offsets are float16 where the builder rounded them to a few micrometres, else float32; expression offsets are sparse: for each expression a
run of vertex ids and their offsets. Everything is in metres with the axes of `avatars.head.model`.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import torch

from avatars.errors import UserError
from avatars.files import atomic_path
from avatars.head.model import Closures, HeadModel, Landmarks

FORMAT = "avatars-head"
VERSION = 1


def require(arrays: dict[str, np.ndarray], keys: tuple[str, ...], path: Path) -> None:
    """UserError that names the keys which `path` lacks."""
    missing = [k for k in keys if k not in arrays]
    if missing:
        raise UserError(f"The head {path} lacks {', '.join(missing)}; it holds {', '.join(sorted(arrays)) or 'nothing'}.")


def save_head(head: HeadModel, path: str | Path, rounded: bool = False) -> None:
    """Write `head` to an npz that `load_head` reads back to the bit; `rounded` makes it smaller (see `quantised`)."""
    pack = quantised if rounded else _compact
    counts, ids, offsets = [], [], []
    basis = head.expression_basis.detach().cpu().numpy()
    for shape in basis:
        moved = np.abs(shape) > 2e-6 if rounded else (shape != 0) | np.signbit(shape)
        used = np.flatnonzero(moved.any(-1))
        counts.append(len(used))
        ids.append(used.astype(np.int32))
        offsets.append(shape[used])
    arrays: dict[str, np.ndarray] = {
        "format": np.array(FORMAT),
        "version": np.array(VERSION),
        "name": np.array(head.name),
        "template": head.template.cpu().numpy().astype(np.float32),
        "faces": head.faces.cpu().numpy().astype(np.int32),
        "uvs": head.uvs.cpu().numpy().astype(np.float32),
        "uv_faces": head.uv_faces.cpu().numpy().astype(np.int32),
        "identity_basis": pack(head.identity_basis.cpu().numpy()),
        "expression_names": np.array(head.expression_names),
        "expression_counts": np.array(counts, np.int32),
        "expression_vertices": np.concatenate(ids) if ids else np.zeros(0, np.int32),
        "expression_offsets": pack(np.concatenate(offsets) if offsets else np.zeros((0, 3), np.float32)),
        "joint_template": head.joint_template.cpu().numpy().astype(np.float32),
        "joint_identity_basis": head.joint_identity_basis.cpu().numpy().astype(np.float32),
        "expression_rotations": head.expression_rotations.cpu().numpy().astype(np.float32),
        "skin_weights": head.skin_weights.cpu().numpy().astype(np.float32),
        "region_names": np.array(head.region_names),
        "face_regions": head.face_regions.cpu().numpy().astype(np.uint8),
        "landmark_kinds": np.array(sorted(head.landmarks), dtype=str),
    }
    if head.pose_basis is not None:
        arrays["pose_basis"] = pack(head.pose_basis.cpu().numpy())
    if head.closures is not None:
        arrays |= {f"closures_{f.name}": getattr(head.closures, f.name).cpu().numpy() for f in fields(head.closures)}
    for kind, points in head.landmarks.items():
        arrays[f"landmarks_{kind}_faces"] = points.face_ids.cpu().numpy().astype(np.int32)
        arrays[f"landmarks_{kind}_barycentrics"] = points.barycentrics.cpu().numpy().astype(np.float32)
        arrays[f"landmarks_{kind}_valid"] = points.valid.cpu().numpy()
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def quantised(offsets: np.ndarray) -> np.ndarray:
    """Metres → float16 on a grid of 2⁻¹⁸ m (3.8 µm), which compresses well and costs nothing that can be seen."""
    return (np.round(offsets * 2.0**18) / 2.0**18).astype(np.float16)


def _compact(values: np.ndarray) -> np.ndarray:
    """As float16 where that loses nothing, which holds for all that was rounded before; else as float32."""
    with np.errstate(over="ignore"):
        small = values.astype(np.float16)
    return small if np.array_equal(small.astype(np.float32), values) else values.astype(np.float32)


_KEYS = (
    "version", "name", "template", "faces", "uvs", "uv_faces", "identity_basis", "expression_names", "expression_counts",
    "expression_vertices", "expression_offsets", "joint_template", "joint_identity_basis", "expression_rotations",
    "skin_weights", "region_names", "face_regions", "landmark_kinds",
)  # fmt: skip


def head_from_arrays(arrays: dict[str, np.ndarray], path: Path) -> HeadModel:
    """Build the model from the arrays of our own format; UserError names what is wrong."""
    require(arrays, _KEYS, path)
    if int(arrays["version"]) != VERSION:
        raise UserError(f"The head {path} has format version {int(arrays['version'])}; this program reads version {VERSION}.")
    kinds = [str(k) for k in arrays["landmark_kinds"]]
    require(arrays, tuple(f"landmarks_{k}_{part}" for k in kinds for part in ("faces", "barycentrics", "valid")), path)
    try:
        template = arrays["template"]
        names = tuple(str(n) for n in arrays["expression_names"])
        counts, ids, offsets = (arrays[f"expression_{k}"] for k in ("counts", "vertices", "offsets"))
        if counts.sum() != len(ids) or len(ids) != len(offsets) or len(counts) != len(names):
            raise ValueError(f"{len(counts)} expressions list {counts.sum()} vertices, found {len(ids)} ids and {len(offsets)} offsets")
        basis = np.zeros((len(names), len(template), 3), np.float32)
        basis[np.repeat(np.arange(len(names)), counts), ids] = offsets
        tensor = torch.from_numpy
        closures = None
        if "closures_shares" in arrays:
            closures = Closures(*(tensor(arrays[f"closures_{f.name}"]) for f in fields(Closures)))
        return HeadModel(
            name=str(arrays["name"]),
            template=tensor(template),
            faces=tensor(arrays["faces"].astype(np.int64)),
            uvs=tensor(arrays["uvs"]),
            uv_faces=tensor(arrays["uv_faces"].astype(np.int64)),
            identity_basis=tensor(arrays["identity_basis"]).float(),
            expression_basis=tensor(basis),
            expression_names=names,
            joint_template=tensor(arrays["joint_template"]),
            joint_identity_basis=tensor(arrays["joint_identity_basis"]),
            expression_rotations=tensor(arrays["expression_rotations"]),
            skin_weights=tensor(arrays["skin_weights"]),
            region_names=tuple(str(n) for n in arrays["region_names"]),
            face_regions=tensor(arrays["face_regions"]),
            landmarks={
                k: Landmarks(
                    tensor(arrays[f"landmarks_{k}_faces"].astype(np.int64)),
                    tensor(arrays[f"landmarks_{k}_barycentrics"]),
                    tensor(arrays[f"landmarks_{k}_valid"]),
                )
                for k in kinds
            },
            pose_basis=tensor(arrays["pose_basis"]).float() if "pose_basis" in arrays else None,
            closures=closures,
        )
    except (ValueError, IndexError, TypeError, KeyError) as error:
        raise UserError(f"The head {path} is inconsistent: {error}. Copy it again from its source.") from None
