"""A made-up head with everything that tracking touches, cameras around it, and a performance. Tests import it by the name `scene`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from avatars.head import ARKIT, JOINTS, REGIONS, HeadModel, Landmarks
from avatars.sequence import Segment
from avatars.transforms import look_at, project_points
from avatars.types import Cameras, HeadPose, Identity
from capture.track.state import Footage

EXPRESSIONS = tuple(ARKIT[i] for i in (0, 8, 9, 24, 37, 43, 44))  # brows, both lids, jaw, pucker, smiles
_RINGS, _SECTORS = 24, 36
_EYES = {"left": (0.033, 0.03), "right": (-0.033, 0.03)}
_PAIRS = {(159, 145): (-0.033, 0.035, 0.025), (386, 374): (0.033, 0.035, 0.025), (13, 14): (0.0, -0.03, -0.04)}  # x, y above, y below


def _surface(u: Tensor, v: Tensor) -> Tensor:
    """Points of an egg with a nose: polar angle u, azimuth v (0 = front)."""
    x, y, z = 0.075 * u.sin() * v.sin(), 0.11 * u.cos(), 0.095 * u.sin() * v.cos()
    nose = torch.exp(-((x / 0.012) ** 2) - ((y / 0.025) ** 2)) * (z > 0)
    chin = torch.exp(-((x / 0.03) ** 2) - (((y + 0.085) / 0.02) ** 2)) * (z > 0)
    return torch.stack([x, y, z + 0.022 * nose + 0.015 * chin], -1)


def _smooth_fields(points: Tensor, count: int, size: float, seed: int) -> Tensor:
    """Smooth random displacement fields [count, P, 3] of about `size` metres, each within a region of the face."""
    generator = torch.Generator().manual_seed(seed)
    middles = points[torch.randint(len(points), (count,), generator=generator)]
    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    near = torch.exp(-(((points[None] - middles[:, None]).norm(dim=-1) / 0.05) ** 2))
    return size * near[..., None] * directions[:, None]


def make_head() -> HeadModel:
    """About 800 vertices, six identity modes, seven expressions, 478 landmarks on the front."""
    u, v = torch.meshgrid(torch.linspace(0.02, math.pi - 0.02, _RINGS), torch.arange(_SECTORS) / _SECTORS * 2 * math.pi, indexing="ij")
    template = _surface(u.reshape(-1), v.reshape(-1))
    i, j = torch.meshgrid(torch.arange(_RINGS - 1), torch.arange(_SECTORS), indexing="ij")
    a, b = (i * _SECTORS + j).reshape(-1), (i * _SECTORS + (j + 1) % _SECTORS).reshape(-1)
    faces = torch.cat([torch.stack([a, a + _SECTORS, b], 1), torch.stack([b, a + _SECTORS, b + _SECTORS], 1)])
    V, E, J = len(template), len(EXPRESSIONS), len(JOINTS)
    x, y, z = template.unbind(-1)
    front = torch.sigmoid((z - 0.03) / 0.01)

    def bump(center: tuple[float, float], reach: float) -> Tensor:
        return front * torch.exp(-((x - center[0]) ** 2 + (y - center[1]) ** 2) / reach**2)

    basis = torch.zeros(E, V, 3)
    for e, name in enumerate(EXPRESSIONS):
        if name.startswith("eyeBlink"):
            basis[e, :, 1] = -0.01 * bump((_EYES[name[8:].lower()][0], 0.037), 0.007)
        elif name == "jawOpen":
            basis[e, :, 1] = -0.02 * front * torch.sigmoid((-0.035 - y) / 0.004)
        else:
            basis[e] = _smooth_fields(template, 1, 0.008, 10 + e)[0] * front[:, None]
    weights = torch.zeros(V, J + 1)
    head = torch.sigmoid((y + 0.07) / 0.012)
    weights[:, 1], weights[:, -1] = head, 1 - head
    regions = torch.full((len(faces),), REGIONS.index("face"))
    middle = template[faces].mean(1)
    regions[middle[:, 2] < 0.01] = REGIONS.index("scalp")
    regions[middle[:, 1] < -0.09] = REGIONS.index("neck")

    generator = np.random.default_rng(3)
    candidates = np.flatnonzero(middle[:, 2].numpy() > 0.02)
    face_ids = torch.from_numpy(generator.choice(candidates, 478))
    barycentrics = torch.from_numpy(generator.dirichlet([1, 1, 1], 478)).float()
    for ids, (px, above, below) in _PAIRS.items():
        for mark, py in zip(ids, (above, below), strict=True):
            distance = (middle[:, :2] - torch.tensor([px, py])).norm(dim=-1) + (middle[:, 2] < 0) * 1.0
            face_ids[mark], barycentrics[mark] = distance.argmin(), 1 / 3
    rotations = torch.zeros(E, J, 3)
    rotations[EXPRESSIONS.index("jawOpen"), 2] = torch.tensor([0.2, 0, 0])
    return HeadModel(
        name="toy", template=template, faces=faces, uvs=torch.rand(V, 2), uv_faces=faces, identity_basis=_smooth_fields(template, 6, 0.004, 5),
        expression_basis=basis, expression_names=EXPRESSIONS,
        joint_template=torch.tensor([[0, -0.1, -0.02], [0, -0.05, -0.01], [0, 0, 0], [0.033, 0.03, 0.06], [-0.033, 0.03, 0.06]]),
        joint_identity_basis=torch.zeros(6, J, 3), expression_rotations=rotations, skin_weights=weights, region_names=REGIONS,
        face_regions=regions.to(torch.uint8), landmarks={"mediapipe": Landmarks(face_ids, barycentrics, torch.ones(478, dtype=torch.bool))},
    )  # fmt: skip


def arc(count: int = 5, width: int = 400, height: int = 500) -> Cameras:
    """Cameras on an arc of 100° in front of the head."""
    angles = torch.linspace(-0.85, 0.85, count) if count > 1 else torch.zeros(1)
    up = torch.tensor([0.0, 1.0, 0.0])
    views = [look_at(torch.stack([a.sin(), 0.1 * (-1) ** k * torch.ones(()), a.cos()]), torch.zeros(3), up) for k, a in enumerate(angles)]
    K = torch.tensor([[1600.0, 0, width / 2 + 3], [0, 1600, height / 2 - 5], [0, 0, 1]])
    return Cameras(tuple(f"c{k}" for k in range(count)), K.expand(count, 3, 3).clone(), torch.stack(views), width, height)


def performance(head: HeadModel, frames: int = 24, turn: float = 0.25) -> HeadPose:
    """A smooth performance that begins at rest."""
    t = torch.linspace(0, 1, frames)
    expression = torch.zeros(frames, head.E)
    for e in range(head.E):
        expression[:, e] = (0.5 + 0.05 * e) * (torch.sin(math.pi * (1.3 + 0.4 * e) * t) ** 2) * (t > 0)
    right, left = head.expression_index("eyeBlinkRight"), head.expression_index("eyeBlinkLeft")
    expression[:, right] = expression[:, left]
    joints = torch.zeros(frames, head.J, 3)
    joints[:, 1, 1] = turn * torch.sin(2 * math.pi * t)
    joints[:, 1, 0] = 0.3 * turn * torch.sin(4 * math.pi * t)
    return HeadPose(expression, joints, torch.zeros(frames, 3), torch.zeros(frames, 3))


@dataclass(frozen=True)
class Scene:
    """A capture of which everything is known."""

    capture: SimpleNamespace
    footage: Footage
    identity: Identity
    pose: HeadPose
    cameras: Cameras


def film(
    head: HeadModel,
    cameras: Cameras,
    pose: HeadPose,
    *,
    noise: float = 0.0,
    splits: tuple[int, ...] = (),
    calibrated: bool = True,
    seed: int = 0,
) -> Scene:
    """Landmarks of a performance as a perfect detector would see them, plus noise in pixels."""
    generator = torch.Generator().manual_seed(seed)
    identity = Identity(torch.tensor([0.8, -0.5, 0.4, 0.6, -0.7, 0.3]), None, 1.0 if not calibrated else 1.05)
    points = head.landmark_positions(head.vertices(identity, pose))
    pixels = torch.stack([project_points(points, cameras.viewmats[c], cameras.Ks[c])[0] for c in range(len(cameras))], 1)
    pixels = pixels + noise * torch.randn(pixels.shape, generator=generator)
    T = len(pose)
    bounds = [0, *splits, T]
    segments = tuple(Segment(f"S-{i}", a, b) for i, (a, b) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)))
    store = SimpleNamespace(camera_names=cameras.names)
    footage = Footage(store, segments, pixels.numpy().astype(np.float32), np.full(pixels.shape[:-1], 0.2, np.float32))  # type: ignore[arg-type]
    capture = SimpleNamespace(
        name="toy", path="toy", fps=24.0, camera_names=cameras.names, cameras=cameras if calibrated else None,
        image_size=(cameras.width, cameras.height), sequences=tuple(s.name for s in segments),
    )  # fmt: skip
    return Scene(capture, footage, identity, pose, cameras)
