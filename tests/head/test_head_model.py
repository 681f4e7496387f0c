"""Laws of any head, and what is promised of the default one: it is the template at rest, its numbers are consistent."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from avatars.head import ARKIT, JOINTS, REGIONS, HeadModel, load_head
from avatars.transforms import axis_angle_to_matrix
from avatars.types import HeadPose, Identity


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head()


def random_pose(head: HeadModel, batch: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> HeadPose:
    g = torch.Generator().manual_seed(seed)
    return HeadPose(
        torch.rand(batch, head.E, generator=g, dtype=dtype) * 0.4,
        torch.randn(batch, head.J, 3, generator=g, dtype=dtype) * 0.1,
        torch.randn(batch, 3, generator=g, dtype=dtype) * 0.3,
        torch.randn(batch, 3, generator=g, dtype=dtype) * 0.1,
    )


def test_rest_is_the_template_exactly(head: HeadModel, device: torch.device) -> None:
    head = head.to(device)
    vertices = head.vertices(head.mean_identity(), head.neutral(2))
    assert vertices.shape == (2, head.V, 3)
    assert (vertices - head.template).abs().max() < 1e-7


def test_identity_moves_along_its_basis(head: HeadModel) -> None:
    coefficients = torch.zeros(head.I)
    coefficients[3], coefficients[40] = 1.5, -2.0
    vertices = head.vertices(Identity(coefficients), head.neutral())[0]
    expected = head.template + 1.5 * head.identity_basis[3] - 2 * head.identity_basis[40]
    assert torch.allclose(vertices, expected, atol=1e-6)


def test_scale_offsets_and_root(head: HeadModel) -> None:
    pose = random_pose(head, 2)
    still = replace(pose, rotation=torch.zeros(2, 3), translation=torch.zeros(2, 3))
    moved = head.vertices(Identity(torch.zeros(head.I), scale=1.1), pose)
    R = axis_angle_to_matrix(pose.rotation)
    expected = 1.1 * head.vertices(head.mean_identity(), still) @ R.transpose(1, 2) + pose.translation[:, None]
    assert torch.allclose(moved, expected, atol=1e-5)
    offsets = torch.zeros(head.V, 3)
    offsets[:, 1] = 0.01
    shifted = head.vertices(Identity(torch.zeros(head.I), offsets), head.neutral())[0]
    assert torch.allclose(shifted, head.template + offsets, atol=1e-6)


def test_batch_equals_single(head: HeadModel) -> None:
    pose = random_pose(head, 4)
    shaped = head.shape(Identity(torch.randn(head.I, generator=torch.Generator().manual_seed(2))))
    together = head.vertices(shaped, pose)
    for b in range(4):
        assert torch.allclose(together[b : b + 1], head.vertices(shaped, pose[b]), atol=1e-6)


def test_gradients_are_right(head: HeadModel) -> None:
    """Finite differences of a random projection of the vertices, in double, with respect to everything at once."""
    model = head.to(dtype=torch.float64)
    pose = random_pose(head, 1, dtype=torch.float64)
    g = torch.Generator().manual_seed(5)
    target = torch.randn(1, head.V, 3, generator=g, dtype=torch.float64)
    scale = torch.tensor(1.02, dtype=torch.float64)
    inputs = [
        pose.expression,
        pose.joints,
        pose.rotation,
        pose.translation,
        torch.randn(head.I, generator=g, dtype=torch.float64) * 0.5,
        scale,
    ]

    def value(*x: torch.Tensor) -> torch.Tensor:
        return (head_vertices(model, x) * target).sum()

    def head_vertices(m: HeadModel, x) -> torch.Tensor:
        return m.vertices(Identity(x[4], scale=x[5]), HeadPose(*x[:4]))

    leaves = [x.clone().requires_grad_() for x in inputs]
    gradients = torch.autograd.grad(value(*leaves), leaves)
    for k, (x, gradient) in enumerate(zip(inputs, gradients, strict=True)):
        direction = torch.randn(x.shape, generator=g, dtype=torch.float64)
        step = 1e-5
        ahead, behind = ([y + s * step * direction if i == k else y for i, y in enumerate(inputs)] for s in (1, -1))
        numeric = (value(*ahead) - value(*behind)) / (2 * step)
        assert torch.allclose(numeric, (gradient * direction).sum(), rtol=1e-5, atol=1e-7), k


def test_gradient_flows_at_rest(head: HeadModel) -> None:
    joints = torch.zeros(1, head.J, 3, requires_grad=True)
    head.vertices(head.mean_identity(), replace(head.neutral(), joints=joints)).square().sum().backward()
    assert joints.grad is not None and torch.isfinite(joints.grad).all() and joints.grad.abs().max() > 0


def test_skin_weights_are_a_partition(head: HeadModel) -> None:
    assert head.skin_weights.shape == (head.V, len(JOINTS) + 1)
    assert (head.skin_weights >= 0).all()
    assert torch.allclose(head.skin_weights.sum(1), torch.ones(head.V), atol=1e-5)


def test_skin_weights_are_smooth(head: HeadModel) -> None:
    """Along no edge of the skin (they are up to 20 mm long at the nape) does a weight jump by more than two fifths."""
    faces = head.faces[head.region_faces("face", "lips", "nose", "scalp", "neck", "torso")]
    for a, b in ((0, 1), (1, 2), (2, 0)):
        assert (head.skin_weights[faces[:, a]] - head.skin_weights[faces[:, b]]).abs().max() < 0.4


def test_neck_leaves_the_shoulders_and_head_turns_whole(head: HeadModel) -> None:
    pose = head.neutral()
    joints = pose.joints.clone()
    joints[0, JOINTS.index("neck"), 1] = 0.4
    moved = (head.vertices(head.mean_identity(), replace(pose, joints=joints))[0] - head.template).norm(dim=1)
    torso = head.region_vertices("torso")
    assert moved[torso][head.template[torso, 1] < -0.18].max() < 5e-4
    assert moved[head.region_vertices("nose")].min() > 0.02
    weights = head.skin_weights[head.region_vertices("nose", "brows")]
    assert weights[:, JOINTS.index("head")].min() > 0.99


def test_arkit_is_complete_and_regions_cover(head: HeadModel) -> None:
    assert head.expression_names == ARKIT and len(ARKIT) == 52
    strength = head.expression_basis.abs().amax((1, 2)) + head.expression_rotations.abs().amax((1, 2))
    assert strength.min() > 1e-3
    assert head.region_names == REGIONS
    counts = torch.bincount(head.face_regions.long(), minlength=len(REGIONS))
    assert (counts > 0).all(), [n for n, c in zip(REGIONS, counts, strict=True) if c == 0]
    assert sum(len(head.region_faces(n)) for n in REGIONS) == head.F


def test_left_and_right_are_where_they_say(head: HeadModel) -> None:
    assert head.joint_template[JOINTS.index("eye_left"), 0] > 0.02
    assert head.joint_template[JOINTS.index("eye_right"), 0] < -0.02
    for name in ("eyeBlinkLeft", "mouthSmileLeft", "browDownLeft", "noseSneerLeft"):
        size = head.expression_basis[head.expression_index(name)].norm(dim=1)
        assert head.template[size.argmax(), 0] > 0.005, name


def test_gaze_turns_the_eyes_the_right_way(head: HeadModel) -> None:
    for name, axis, sign in (("eyeLookOutLeft", 0, 1), ("eyeLookInLeft", 0, -1), ("eyeLookUpRight", 1, 1), ("eyeLookDownRight", 1, -1)):
        side = "left" if name.endswith("Left") else "right"
        pupil = head.region_vertices(f"pupil_{side}")
        moved = head.vertices(head.mean_identity(), replace(head.neutral(), expression=head.expression(**{name: 1.0})))[0]
        assert sign * (moved - head.template)[pupil].mean(0)[axis] > 0.001, name


def test_identity_modes_are_orthogonal_and_ordered(head: HeadModel) -> None:
    assert head.I >= 60
    flat = head.identity_basis.reshape(head.I, -1).double()
    gram = flat @ flat.T
    sizes = gram.diagonal().sqrt()
    cosine = gram / (sizes[:, None] * sizes)
    assert (cosine - torch.eye(head.I)).abs().max() < 0.03  # float16 on disk
    assert (sizes[1:] <= sizes[:-1] * 1.001).all()


def test_joints_follow_identity(head: HeadModel) -> None:
    """Eyes stay in the middle of their eyeballs for anyone."""
    for seed in range(5):
        identity = Identity(torch.randn(head.I, generator=torch.Generator().manual_seed(seed)))
        shaped = head.shape(identity)
        for side in ("left", "right"):
            ball = shaped.vertices[head.region_vertices(f"eyeball_{side}", f"iris_{side}", f"pupil_{side}")]
            radius = (ball - shaped.joints[JOINTS.index(f"eye_{side}")]).norm(dim=1)
            assert radius.std() < 3e-5 and 0.010 < radius.mean() < 0.018


def test_expression_weights_by_name(head: HeadModel) -> None:
    assert head.expression(jawOpen=0.5)[0, head.expression_index("jawOpen")] == 0.5
    with pytest.raises(ValueError, match="no expression 'smile'"):
        head.expression(smile=1.0)


def test_wrong_shapes_are_refused(head: HeadModel) -> None:
    with pytest.raises(ValueError, match=rf"\[{head.I}\].*\[3\]"):
        head.shape(Identity(torch.zeros(3)))
    with pytest.raises(ValueError, match="offsets"):
        head.shape(Identity(torch.zeros(head.I), torch.zeros(5, 3)))
    with pytest.raises(ValueError, match="pose.joints"):
        head.vertices(head.mean_identity(), replace(head.neutral(), joints=torch.zeros(1, 2, 3)))
    with pytest.raises(ValueError, match="no region ankle"):
        head.region_faces("ankle")
    with pytest.raises(ValueError, match="no 'knee' landmarks"):
        head.landmark_positions(head.template[None], "knee")
    with pytest.raises(ValueError, match="skin_weights"):
        replace(head, skin_weights=head.skin_weights[:-1])
    with pytest.raises(ValueError, match="faces must lie in"):
        replace(head, faces=head.faces + head.V)


def test_hash_follows_the_numbers(head: HeadModel) -> None:
    assert head.content_hash() == load_head().content_hash() == head.to(dtype=torch.float64).content_hash()
    changed = head.template.clone()
    changed[0, 0] += 1e-3
    assert replace(head, template=changed).content_hash() != head.content_hash()


def test_joint_transforms_move_the_joints(head: HeadModel) -> None:
    """The eye's transform carries the eyeball's vertices, which only it moves."""
    pose = random_pose(head, 2)
    identity = Identity(torch.randn(head.I, generator=torch.Generator().manual_seed(1)), scale=0.95)
    shaped = head.shape(identity)
    ball = head.region_vertices("eyeball_left")
    T = head.joint_transforms(shaped, pose)[:, JOINTS.index("eye_left")]
    expected = shaped.vertices[ball] @ T[:, :3, :3].transpose(1, 2) + T[:, None, :3, 3]
    assert torch.allclose(head.vertices(shaped, pose)[:, ball], expected, atol=1e-5)


def test_fast_enough(head: HeadModel) -> None:
    """One pose in about 5 ms on two cores; the bound here is loose, for machines that are busy."""
    shaped, pose = head.shape(head.mean_identity()), random_pose(head, 1)
    head.vertices(shaped, pose)
    best = min(_seconds(lambda: head.vertices(shaped, pose)) for _ in range(20))
    assert best < 0.03


def _seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def test_landmarks_are_symmetric_and_on_the_face(head: HeadModel) -> None:
    points = head.landmark_positions(head.template[None], "ibug68")[0].numpy()
    assert head.landmarks["mediapipe"].valid.shape == (478,) and int(head.landmarks["mediapipe"].valid.sum()) > 400
    for left, right in ((45, 36), (42, 39), (54, 48), (35, 31), (26, 17)):  # eyes, mouth, nose, brows
        assert np.abs(points[left] * [-1, 1, 1] - points[right]).max() < 0.004, (left, right)
    assert abs(points[30, 0]) < 0.002 and points[30, 2] > points[36:48, 2].max()  # the nose leads
    irises = head.landmark_positions(head.template[None], "mediapipe")[0, [468, 473]]
    assert (irises[1] - head.joint_template[JOINTS.index("eye_left")])[:2].abs().max() < 0.004
    assert (irises[0] - head.joint_template[JOINTS.index("eye_right")])[:2].abs().max() < 0.004


@pytest.mark.parametrize("posed", [False, True])
def test_a_settled_head_moves_as_any_other(head: HeadModel, posed: bool, device: torch.device) -> None:
    """The kernels' way and the plain one, closures and pose-dependent shapes included, gradients to the codes too."""
    if posed:
        head = replace(head, pose_basis=0.002 * torch.randn(9 * head.J, head.V, 3, generator=torch.Generator().manual_seed(3)))
    head = head.to(device)
    identity = Identity(0.5 * torch.randn(head.I, generator=torch.Generator().manual_seed(1)).to(device), scale=1.05)
    upstream = torch.randn(2, head.V, 3, generator=torch.Generator().manual_seed(2)).to(device)
    results = []
    for shaped in (head.settle(identity), head.shape(identity)):
        pose = random_pose(head, 2).to(device)
        leaves = [getattr(pose, k).requires_grad_() for k in ("expression", "joints", "rotation", "translation")]
        vertices = head.vertices(shaped, pose)
        vertices.backward(upstream)
        results.append([vertices.detach(), *(leaf.grad for leaf in leaves)])
    assert (results[0][0] - results[1][0]).abs().max() < 1e-6
    for a, b in zip(results[0][1:], results[1][1:], strict=True):
        assert (a - b).norm() < 1e-4 * b.norm()
