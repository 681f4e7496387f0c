"""A toy person: a ball with a face, three expressions, four cameras and two short sequences, rendered by our own reference."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from avatars import deform
from avatars.gaussians import sample_surface, with_colors
from avatars.head import JOINTS, REGIONS, HeadModel
from avatars.render import render
from avatars.sequence import Segment, TrackedSequence, load_tracked, save_tracked
from avatars.transforms import look_at
from avatars.types import Cameras, Gaussians, HeadPose, Identity


def _ball(rings: int = 9, sectors: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Vertices [V, 3] and outward faces [F, 3] of a ball of 0.1 m, poles up and down."""
    points = [[0.0, 0.1, 0.0]]
    for i in range(1, rings):
        polar = math.pi * i / rings
        for j in range(sectors):
            a = 2 * math.pi * j / sectors
            points.append([0.09 * math.sin(polar) * math.sin(a), 0.1 * math.cos(polar), 0.1 * math.sin(polar) * math.cos(a)])
    points.append([0.0, -0.1, 0.0])
    last = len(points) - 1
    faces = []
    for j in range(sectors):
        k = (j + 1) % sectors
        faces.append([0, 1 + j, 1 + k])
        faces.append([last, last - sectors + k, last - sectors + j])
        for i in range(rings - 2):
            a, b = 1 + i * sectors + j, 1 + i * sectors + k
            faces += [[a, a + sectors, b], [b, a + sectors, b + sectors]]
    return torch.tensor(points), torch.tensor(faces)


@pytest.fixture(scope="session")
def tiny_head() -> HeadModel:
    """82 or so vertices; regions by position: lips and irises in front, scalp on top, torso at the bottom."""
    vertices, faces = _ball()
    V, F = len(vertices), len(faces)
    x, y, z = vertices[faces].mean(1).unbind(-1)
    regions = torch.full((F,), REGIONS.index("face"))
    regions[(y > 0.05) | (z < 0)] = REGIONS.index("scalp")
    regions[y < -0.075] = REGIONS.index("torso")
    regions[(z > 0.06) & (y < -0.02) & (y > -0.06)] = REGIONS.index("lips")
    regions[(z > 0.06) & (y > 0.0) & (y < 0.035) & (x > 0)] = REGIONS.index("iris_left")
    regions[(z > 0.06) & (y > 0.0) & (y < 0.035) & (x < 0)] = REGIONS.index("iris_right")
    front = (vertices[:, 2] > 0.05).float()
    basis = torch.zeros(3, V, 3)
    basis[0, :, 1] = -0.02 * front * (vertices[:, 1] < -0.01)  # jawOpen
    basis[1, :, 2] = -0.01 * front * (vertices[:, 1] > 0.01)  # eyeBlinkLeft
    basis[2, :, 0] = 0.015 * front * vertices[:, 0].sign()  # mouthSmileLeft
    weights = torch.zeros(V, len(JOINTS) + 1)
    weights[:, 1] = (vertices[:, 1] > -0.07).float()
    weights[:, -1] = 1 - weights[:, 1]
    generator = torch.Generator().manual_seed(1)
    return HeadModel(
        name="tiny", template=vertices, faces=faces, uvs=torch.rand(V, 2, generator=generator), uv_faces=faces,
        identity_basis=0.003 * torch.randn(2, V, 3, generator=generator), expression_basis=basis,
        expression_names=("jawOpen", "eyeBlinkLeft", "mouthSmileLeft"), joint_template=torch.zeros(5, 3) + torch.tensor([0, -0.08, 0]),
        joint_identity_basis=torch.zeros(2, 5, 3), expression_rotations=torch.zeros(3, 5, 3), skin_weights=weights,
        region_names=REGIONS, face_regions=regions.to(torch.uint8),
    )  # fmt: skip


def _poses(frames: int) -> HeadPose:
    """[T] a mouth that opens, a head that turns."""
    phase = torch.linspace(0, math.pi, frames)
    expression = torch.stack([phase.sin(), (2 * phase).sin().clamp_min(0), 1 - phase.cos()], 1) * 0.5
    joints = torch.zeros(frames, 5, 3)
    joints[:, 1, 1] = 0.3 * phase.sin()
    return HeadPose(expression, joints, torch.zeros(frames, 3), torch.zeros(frames, 3))


def _cameras(width: int = 48, height: int = 56) -> Cameras:
    """Four in an arc in front, 0.6 m away; principal points off the centre."""
    views = []
    for angle in (-0.7, -0.2, 0.25, 0.8):
        eye = torch.tensor([0.6 * math.sin(angle), 0.05, 0.6 * math.cos(angle)])
        views.append(look_at(eye, torch.zeros(3), torch.tensor([0.0, 1.0, 0.0])))
    K = torch.tensor([[2.0 * width, 0, 0.5 * width + 1.5], [0, 2.0 * width, 0.5 * height - 2], [0, 0, 1]])
    return Cameras(("a", "b", "c", "d"), K.repeat(4, 1, 1), torch.stack(views), width, height)


def make_tracked(folder: Path, head: HeadModel, frames: int = 6) -> TrackedSequence:
    """Render the toy person into a tracked folder: sequences ONE (4 frames) and TWO (2 frames)."""
    from avatars.head import load_head, save_head

    folder.mkdir(parents=True, exist_ok=True)
    save_head(head, folder / "head.npz")
    head = load_head(folder / "head.npz")
    identity = Identity(torch.tensor([0.5, -0.3]))
    generator = torch.Generator().manual_seed(0)
    shaped = head.shape(identity)
    canonical = sample_surface(head, head.vertices(shaped, head.neutral())[0], 900, generator, {}, degree=0)
    where = shaped.vertices[head.faces[canonical.face_ids]].mean(1)
    colors = 0.5 + 0.4 * torch.sin(where * torch.tensor([60.0, 45.0, 80.0]))
    canonical = with_colors(canonical, colors)
    poses, cameras = _poses(frames), _cameras()
    segments = (Segment("ONE", 0, frames - 2), Segment("TWO", frames - 2, frames))
    tracked = TrackedSequence(
        folder,
        "toy",
        24.0,
        cameras,
        segments,
        identity,
        poses,
        np.ones((frames, 4), bool),
        head.name,
        head.content_hash(),
        head.expression_names,
    )
    for t in range(frames):
        means, quats, scales, _ = deform.carried(None, {}, canonical, torch.zeros(0), head.vertices(shaped, poses[t])[0], head.faces)
        image = render(Gaussians(means, quats, scales, torch.full((len(means),), 0.95), canonical.sh), cameras)
        for c in range(4):
            path = tracked.image_path(t, c)
            path.parent.mkdir(parents=True, exist_ok=True)
            rgb = (image.color[c].clamp(0, 1) * 255).round().byte().numpy()
            # Foreground pictures hold the full colour: the matte alone carries the soft edge.
            alpha = image.alpha[c].numpy()
            rgb = np.where(alpha > 0.02, np.clip(rgb / np.maximum(alpha, 0.02), 0, 255), 120).astype(np.uint8)
            cv2.imwrite(str(path), rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])
            cv2.imwrite(str(tracked.mask_path(t, c)), (alpha[..., 0] * 255).round().astype(np.uint8))
    save_tracked(tracked)
    return load_tracked(folder)


@pytest.fixture(scope="session")
def tiny_tracked(tmp_path_factory: pytest.TempPathFactory, tiny_head: HeadModel) -> TrackedSequence:
    """The toy person's tracked sequence; do not write into it."""
    return make_tracked(tmp_path_factory.mktemp("tiny") / "tracked", tiny_head)


@pytest.fixture(scope="session")
def tiny_cameras() -> Cameras:
    """The toy person's four cameras."""
    return _cameras()
