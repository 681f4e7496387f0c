"""What the default head is made of, and how all of it follows one person's shape.

The base mesh is cut at the chest; its skin, mouth bag and tongue are kept as they are, its helpers (eyes, rows of teeth,
joint cubes) only to measure by. Eyeballs, teeth and gums of our own are put in their place. `Assembly.vertices` maps the
points of a person's base mesh to all vertices of the head, linearly, so that means and modes of people map to means and
modes of heads.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from avatars.head import parts, rig
from avatars.head.makehuman import BaseMesh

# Where the body is cut (decimetres of the average person): below the collar bones and through the upper arms.
_CUT_Y, _CUT_X = 4.45, 2.35
ORIGIN = np.array([0.0, 7.08, 0.62])  # decimetres: between the ears of the average person

# base.obj's texture islands, told apart by the smallest texture vertex in them.
_ISLANDS = {0: "head", 565: "mouth_bag", 787: "torso", 1288: "socket_right", 8535: "socket_left"}

# Base-mesh vertices at the 68 landmarks of Multi-PIE, in its order.
SEED_68 = (
    5239, 259, 5066, 5149, 5240, 915, 5294, 5221, 5225, 11831, 11901, 7617, 11849, 11763, 11792, 7572, 7576,
    254, 207, 206, 177, 208, 6983, 6980, 6981, 6982, 7023, 132, 131, 201, 294, 354, 314, 317, 7077, 7115,
    4855, 4849, 54, 71, 50, 41, 11488, 13359, 13358, 11473, 11478, 6834,
    3736, 5351, 457, 466, 7216, 11953, 10405, 7235, 7241, 492, 486, 480, 431, 472, 474, 7228, 7188, 7264, 493, 517,
)  # fmt: skip


@dataclass(frozen=True)
class Cut:
    """The part of the base mesh that becomes the head, with its own vertex numbers."""

    kept: np.ndarray  # [K] base vertex ids: surface first (S of them), then helpers to measure by
    surface: int  # S
    faces: np.ndarray  # [T, 3] into the surface
    uvs: np.ndarray  # [U, 2]
    uv_faces: np.ndarray  # [T, 3]
    islands: np.ndarray  # [T] name of the texture island
    groups: dict[str, np.ndarray]  # helper group → positions in kept


def cut_base(base: BaseMesh, average: np.ndarray) -> Cut:
    """Head, neck and upper torso of the base mesh (average [V, 3] in decimetres), the tongue, and the helpers."""
    corners = average[base.quads]
    inside = (corners[..., 1].mean(1) > _CUT_Y) & (np.abs(corners[..., 0]).mean(1) < _CUT_X)
    chosen = (np.isin(base.groups, ["body"]) & inside) | (base.groups == "helper-tongue")
    quads, uv_quads = base.quads[chosen], base.uv_quads[chosen]
    ids = np.unique(quads)
    wanted = {
        name: base.vertex_groups[name]
        for name in (
            "helper-l-eye", "helper-r-eye", "helper-upper-teeth", "helper-lower-teeth", "joint-neck", "joint-head",
            "joint-mouth", "joint-l-eye", "joint-r-eye",
        )
    }  # fmt: skip
    kept = np.concatenate([ids, np.unique(np.concatenate(list(wanted.values())))])
    number = np.full(len(base.vertices), -1)
    number[kept] = np.arange(len(kept))
    uv_ids = np.unique(uv_quads)
    uv_number = np.full(len(base.uvs), -1)
    uv_number[uv_ids] = np.arange(len(uv_ids))
    island = rig.components(base.uv_quads[np.isin(base.groups, ["body", "helper-tongue"])], len(base.uvs))[uv_quads[:, 0]]
    names = np.array([_ISLANDS.get(i, "tongue") for i in island])
    # Split each quad along its shorter diagonal, which follows the form better at lids and lips.
    p = average[quads]
    other = np.linalg.norm(p[:, 0] - p[:, 2], axis=1) > np.linalg.norm(p[:, 1] - p[:, 3], axis=1)
    split = np.where(other[:, None], [[0, 1, 3, 1, 2, 3]], [[0, 1, 2, 0, 2, 3]]).reshape(-1, 2, 3)
    rows = np.arange(len(quads))[:, None, None]
    return Cut(
        kept, len(ids), number[quads][rows, split].reshape(-1, 3), base.uvs[uv_ids],
        uv_number[uv_quads][rows, split].reshape(-1, 3), np.repeat(names, 2), {k: number[v] for k, v in wanted.items()},
    )  # fmt: skip


# MakeHuman's helper rows stand 14 mm above the line of the lips and 6 mm behind where incisors touch them; so does its
# tongue. Moved here so that the upper incisors end 2 mm below that line, and the tongue lies between the lower teeth.
_TEETH_SHIFT = np.array([0.0, -0.0165, 0.0060])
TONGUE_SHIFT = np.array([0.0, -0.0135, 0.0040])


@dataclass(frozen=True)
class Assembly:
    """How all vertices of the head follow the points of the cut base mesh; the map is linear."""

    cut: Cut
    eyes: dict[str, parts.Part]  # unit-radius geometry about the origin
    upper: list[parts.Part]  # made on the average head
    lower: list[parts.Part]
    tissue: np.ndarray  # [M] vertices of the mouth bag around the teeth, which carry them from person to person
    average: np.ndarray  # [K, 3] the average head's points, metres

    @property
    def pieces(self) -> list[parts.Part]:
        """All parts of our own, in the order of their vertices behind the surface."""
        return [*self.eyes.values(), *self.upper, *self.lower]

    def vertices(self, points: np.ndarray) -> np.ndarray:
        """Points of the cut [K, 3] of a person → all vertices [V, 3]."""
        result = [points[: self.cut.surface]]
        for side, part in self.eyes.items():
            center, radius = self.eye(points, side)
            result.append(center + radius * part.vertices)
        A = parts.affine_map(self.average[self.tissue], points[self.tissue])
        result += [parts.apply_affine(A, p.vertices) for p in (*self.upper, *self.lower)]
        return np.concatenate(result)

    def offsets(self, offsets: np.ndarray) -> np.ndarray:
        """Offsets of the cut [K, 3] in an expression → of all vertices [V, 3]: teeth move as MakeHuman's do, eyeballs stay."""
        result = [offsets[: self.cut.surface], *(np.zeros_like(p.vertices) for p in self.eyes.values())]
        for pieces, name in ((self.upper, "helper-upper-teeth"), (self.lower, "helper-lower-teeth")):
            ids = self.cut.groups[name]
            A = parts.affine_map(self.average[ids], self.average[ids] + offsets[ids])
            result += [parts.apply_affine(A, p.vertices) - p.vertices for p in pieces]
        return np.concatenate(result)

    def eye(self, points: np.ndarray, side: str) -> tuple[np.ndarray, float]:
        """Centre and radius of an eyeball, from MakeHuman's: half of its width and height (its depth has the cornea)."""
        helper = points[self.cut.groups[f"helper-{side[0]}-eye"]]
        size = helper.max(0) - helper.min(0)
        return points[self.cut.groups[f"joint-{side[0]}-eye"]].mean(0), float(size[0] + size[1]) / 4

    def joints(self, points: np.ndarray, jaw: np.ndarray) -> np.ndarray:
        """[J, 3]; `jaw` [3] is where the hinge lies from MakeHuman's mouth joint."""
        g = self.cut.groups
        joint = {k: points[g[f"joint-{k}"]].mean(0) for k in ("neck", "head", "mouth", "l-eye", "r-eye")}
        return np.stack([joint["neck"], joint["head"], joint["mouth"] + jaw, joint["l-eye"], joint["r-eye"]])


def assemble(cut: Cut, points: np.ndarray) -> Assembly:
    """Make the parts of our own on the average head, points [K, 3] in metres."""
    eyes = {}
    for side in ("left", "right"):
        helper = points[cut.groups[f"helper-{side[0]}-eye"]]
        size = helper.max(0) - helper.min(0)
        radius = float(size[0] + size[1]) / 4
        part = parts.eyeball(side, radius)
        eyes[side] = replace(part, vertices=part.vertices / radius)
    rows = []
    for up, widths, heights, name in (
        (1.0, parts.UPPER_WIDTHS, parts.UPPER_HEIGHTS, "upper"), (-1.0, parts.LOWER_WIDTHS, parts.LOWER_HEIGHTS, "lower"),
    ):  # fmt: skip
        arch = parts.Arch(_arch_line(points[cut.groups[f"helper-{name}-teeth"]], up) + _TEETH_SHIFT, up)
        rows.append([parts.teeth(arch, widths, heights, f"teeth_{name}"), parts.gums(arch, widths, heights, f"gums_{name}")])
    bag = np.unique(cut.faces[cut.islands == "mouth_bag"])
    p = points[bag]
    tissue = bag[(p[:, 2] > 0.05) & (p[:, 1] > -0.075) & (p[:, 1] < -0.03)]
    return Assembly(cut, eyes, rows[0], rows[1], tissue, points)


def _arch_line(helper: np.ndarray, up: float) -> np.ndarray:
    """The outer biting edge [13, 3] of a row of teeth, from the middle to the left end, from MakeHuman's helper [68, 3].

    The helper is a ribbon of points on the gums and crowns; its outline seen from above, smoothed, gives the arch. The
    upper row overlaps the lower by 2 mm in front, where the lower stands 2 mm further back; behind they meet.
    """
    left = helper[helper[:, 0] > -1e-5]
    back = left[:, 2].min()
    angle = np.arctan2(left[:, 0], left[:, 2] - back)
    reach = np.hypot(left[:, 0], left[:, 2] - back)
    grid = np.linspace(0, np.pi / 2, 13)
    outline = np.array([reach[np.abs(angle - a) < 0.16].max() for a in grid])
    smooth = np.polynomial.Polynomial.fit(grid**2, outline, 4)(grid**2)
    front = np.cos(grid) ** 2
    smooth = smooth - 0.001 - (0.0022 * front if up < 0 else 0.0)
    bite = -0.0388 + 0.0042 * (1 - front) + (0.0010 - 0.0020 * front if up > 0 else -0.0002 + 0.0012 * front)
    # A dental arch is some 60 mm across its molars; the helper's cheeks of gum are wider.
    return np.stack([0.92 * smooth * np.sin(grid), bite, back + smooth * np.cos(grid)], 1)


def all_faces(assembly: Assembly) -> np.ndarray:
    """Triangles [F, 3] of the surface and of all parts."""
    faces, start = [assembly.cut.faces], assembly.cut.surface
    for part in assembly.pieces:
        faces.append(part.faces + start)
        start += len(part.vertices)
    return np.concatenate(faces)


def base_to_cut(cut: Cut) -> np.ndarray:
    """For each base-mesh vertex its number on the surface, −1 where it was cut away."""
    number = np.full(int(max(cut.kept)) + 1, -1)
    number[cut.kept[: cut.surface]] = np.arange(cut.surface)
    return number


# Where each texture island goes in the unit square: left, bottom, right, top.
_TILES = {
    "head": (0.005, 0.465, 0.995, 0.995), "torso": (0.005, 0.235, 0.42, 0.46), "mouth_bag": (0.43, 0.235, 0.64, 0.46),
    "socket_left": (0.65, 0.355, 0.73, 0.46), "socket_right": (0.65, 0.24, 0.73, 0.345), "tongue": (0.74, 0.24, 0.82, 0.46),
    "left": (0.005, 0.005, 0.23, 0.23), "right": (0.235, 0.005, 0.46, 0.23),
    "upper0": (0.47, 0.12, 0.99, 0.23), "lower0": (0.47, 0.005, 0.99, 0.115),
    "upper1": (0.83, 0.355, 0.995, 0.46), "lower1": (0.83, 0.24, 0.995, 0.345),
}  # fmt: skip


def texture_layout(assembly: Assembly) -> tuple[np.ndarray, np.ndarray]:
    """uvs [U, 2] and uv_faces [F, 3]: MakeHuman's islands, the face turned upright, and a tile for each part of ours."""
    cut = assembly.cut
    uvs = cut.uvs.copy()
    for island in np.unique(cut.islands):
        ids = np.unique(cut.uv_faces[cut.islands == island])
        uv = cut.uvs[ids]
        if island == "head":
            uv = np.stack([-uv[:, 1], uv[:, 0]], 1) * [1, -1]  # its forehead points to the left
        uvs[ids] = _fit(uv, _TILES[str(island)])
    all_uvs, faces, start = [uvs], [cut.uv_faces], len(uvs)
    keyed = [*assembly.eyes.items()]
    keyed += [(f"{row}{k}", p) for row, pieces in (("upper", assembly.upper), ("lower", assembly.lower)) for k, p in enumerate(pieces)]
    for key, part in keyed:
        low, high = np.array(_TILES[key][:2]), np.array(_TILES[key][2:])
        all_uvs.append(low + part.uvs * (high - low))
        faces.append(part.faces + start)
        start += len(part.uvs)
    return np.concatenate(all_uvs), np.concatenate(faces)


def _fit(uv: np.ndarray, tile: tuple[float, float, float, float]) -> np.ndarray:
    """uv [N, 2] moved and uniformly scaled to fill a tile as far as its aspect allows, centred."""
    low, high = np.array(tile[:2]), np.array(tile[2:])
    size = uv.max(0) - uv.min(0)
    scale = ((high - low) / size).min()
    return (low + high) / 2 + (uv - (uv.min(0) + uv.max(0)) / 2) * scale
