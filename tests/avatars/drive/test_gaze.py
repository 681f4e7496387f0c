"""Eyes that look at a point, whatever the head does."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from avatars.drive.gaze import MOST_YAW, looking_at
from avatars.head import ShapedHead, load_head
from avatars.transforms import axis_angle_to_matrix


@pytest.fixture(scope="module")
def head():
    return load_head()


def rays(head, pose) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Centre and direction of both eyes in the world."""
    T = head.joint_transforms(ShapedHead(head.template, head.joint_template, 1.0), pose)[0]
    found = []
    for name in ("eye_left", "eye_right"):
        j = head.joint_names.index(name)
        found.append((T[j, :3, :3] @ head.joint_template[j] + T[j, :3, 3], T[j, :3, 2]))
    return found


@pytest.mark.parametrize("target", [(0.0, 0.03, 0.5), (0.12, 0.1, 0.6), (-0.2, -0.1, 0.8), (0.0, 0.0, 30.0)])
def test_both_eyes_point_at_it_from_any_pose(head, target) -> None:
    identity, generator = head.mean_identity(), torch.Generator().manual_seed(0)
    for turned in (0.0, 0.25):
        noise = torch.rand(1, head.J, 3, generator=generator) - 0.5
        pose = replace(
            head.neutral(),
            joints=turned * noise,
            rotation=turned * torch.tensor([[0.1, -0.5, 0.2]]),
            translation=turned * torch.tensor([[0.1, 0.2, 0.1]]),
        )
        weights = pose.expression.clone()
        weights[0, head.expression_index("eyeLookOutLeft")] = 0.7  # what it looked at before does not matter
        point = torch.tensor(target)
        posed = looking_at(head, identity, replace(pose, expression=weights), point)
        for centre, direction in rays(head, posed):
            wanted = torch.nn.functional.normalize(point - centre, dim=0)
            assert math.degrees(math.acos(min(1.0, float(direction @ wanted) / float(direction.norm())))) < 0.1


def test_eyes_converge_on_near_points_and_lids_follow(head) -> None:
    posed = looking_at(head, head.mean_identity(), head.neutral(), torch.tensor([0.0, 0.03, 0.15]))
    left, right = (direction for _, direction in rays(head, posed))
    assert float(left[0]) < -0.1 < 0.1 < float(right[0])
    down = looking_at(head, head.mean_identity(), head.neutral(), torch.tensor([0.0, -0.25, 0.6]))
    index = head.expression_index
    assert float(down.expression[0, index("eyeLookDownLeft")]) > 0.5 and float(down.expression[0, index("eyeLookUpLeft")]) == 0
    assert float(down.expression[0, index("jawOpen")]) == 0


def test_eyes_turn_only_as_far_as_eyes_can(head) -> None:
    posed = looking_at(head, head.mean_identity(), head.neutral(), torch.tensor([2.0, 0.0, -1.0]))
    R = axis_angle_to_matrix(head.joint_rotations(posed))[0, head.joint_names.index("eye_left")]
    assert math.atan2(float(R[0, 2]), float(R[2, 2])) == pytest.approx(MOST_YAW, abs=1e-3)
    assert torch.isfinite(posed.joints).all()


def test_shapes_are_checked(head) -> None:
    with pytest.raises(ValueError, match="one frame"):
        looking_at(head, head.mean_identity(), head.neutral(2), torch.zeros(3))
    with pytest.raises(ValueError):
        looking_at(head, head.mean_identity(), head.neutral(), torch.zeros(2))
