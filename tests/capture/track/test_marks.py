"""What is known of landmarks beyond their position: facing, constant errors, how far lids and lips are apart; and the priors."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from scene import arc, film, performance

from avatars.head import HeadModel
from capture.track.config import Priors, Smooth, TrackConfig
from capture.track.first import observe
from capture.track.fit import evaluate
from capture.track.marks import LID_PAIRS, facing, landmark_rig, landmark_term, residuals, seen_weights, without_bias
from capture.track.points import pack, parameter_count
from capture.track.priors import frame_priors, rest_precision, smoothness

CONFIG = TrackConfig()


def test_points_that_face_away_do_not_count(toy_head: HeadModel) -> None:
    scene = film(toy_head, arc(5), performance(toy_head, 2))
    rig = landmark_rig(toy_head)
    cosine = facing(rig, rig.corners.shape(scene.identity), scene.pose, scene.cameras)
    left = rig.points.template[:, 0] > 0.06
    assert cosine[0, 0, left].mean() < 0 < cosine[0, 4, left].mean()  # the first camera stands on the subject's right
    weights = seen_weights(rig, scene.identity, scene.pose, observe(rig, scene.footage, scene.cameras, CONFIG))
    assert weights[0, 0, left].mean() < 0.1 * weights[0, 4, left].mean()


def test_a_constant_error_of_meaning_is_taken_out(toy_head: HeadModel) -> None:
    scene = film(toy_head, arc(3), performance(toy_head, 6, turn=0.0))
    rig = landmark_rig(toy_head)
    wrong = observe(rig, scene.footage, scene.cameras, CONFIG)
    wrong = replace(wrong, rays=wrong.rays + 0.004 * torch.randn(1, 3, len(rig.ids), 2, generator=torch.Generator().manual_seed(0)))
    right = without_bias(rig, scene.identity, scene.pose, 0, wrong)
    weights = seen_weights(rig, scene.identity, scene.pose, right)
    before = residuals(rig, scene.identity, scene.pose, wrong, weights).norm(dim=-1).nanmedian()
    after = residuals(rig, scene.identity, scene.pose, right, weights).norm(dim=-1).nanmedian()
    assert float(after) < 0.1 * float(before)


def test_eyes_that_the_detector_never_reports_closed_are_closed(toy_head: HeadModel) -> None:
    scene = film(toy_head, arc(3), performance(toy_head, 6, turn=0.0))
    rig = landmark_rig(toy_head)
    seen = observe(rig, scene.footage, scene.cameras, CONFIG)
    eye = [q for q, ids in enumerate(rig.ids[rig.pairs].tolist()) if tuple(ids) in LID_PAIRS[:5]]
    upper, lower = rig.pairs[eye].unbind(1)
    rays = seen.rays.clone()
    gap = (rays[:1, :, upper] - rays[:1, :, lower]).clone()
    for t, openness in enumerate((1.0, 0.8, 0.6, 0.4, 0.3, 0.3)):  # as reported: 0.3 is closed
        middle = (rays[t, :, upper] + rays[t, :, lower]) / 2
        rays[t, :, upper], rays[t, :, lower] = middle + openness * gap[0] / 2, middle - openness * gap[0] / 2
    fixed = without_bias(rig, scene.identity, scene.pose, 0, replace(seen, rays=rays))
    assert fixed.gaps is not None
    length = fixed.gaps[:, 1, eye[0]].norm(dim=-1) / gap[0, 1, 0].norm()
    assert length.tolist() == pytest.approx([1.0, 0.714, 0.429, 0.143, 0.0, 0.0], abs=0.02)


def test_the_gap_term_pulls_lids_together(toy_head: HeadModel) -> None:
    scene = film(toy_head, arc(3), performance(toy_head, 2, turn=0.0))
    rig = landmark_rig(toy_head)
    seen = observe(rig, scene.footage, scene.cameras, CONFIG)
    left = [q for q, ids in enumerate(rig.ids[rig.pairs].tolist()) if tuple(ids) == LID_PAIRS[5]]
    rig = replace(rig, pairs=rig.pairs[left])
    gaps = torch.zeros(2, 3, 1, 2)
    term = landmark_term(rig, replace(seen, gaps=gaps), seen.weights, 1e6, 1.0, 1e3)
    gradient = evaluate([term], scene.identity, toy_head.neutral(2)).g[0]
    blink = toy_head.expression_index("eyeBlinkLeft")
    assert float(gradient[blink]) < 0  # a step towards blinking lowers the energy


def test_priors(toy_head: HeadModel) -> None:
    priors = Priors()
    rest = frame_priors(toy_head, toy_head.neutral(2), priors)
    assert float(rest.cost) == 0 and rest.H.shape == (2, parameter_count(toy_head), parameter_count(toy_head))
    wink = toy_head.neutral(1)
    wink.expression[0, toy_head.expression_index("eyeBlinkLeft")] = 0.5
    blink = replace(wink, expression=wink.expression.clone())
    blink.expression[0, toy_head.expression_index("eyeBlinkRight")] = 0.5
    assert float(frame_priors(toy_head, blink, priors).cost) < float(frame_priors(toy_head, wink, priors).cost)
    held = frame_priors(toy_head, blink, priors, torch.tensor([True]))
    assert float(held.cost) > 100 * float(frame_priors(toy_head, blink, priors).cost)
    assert (rest_precision(toy_head, priors)[-6:] == 0).all()
    assert pack(blink).shape == (1, parameter_count(toy_head))


def test_smoothness_knows_the_frame_rate_and_the_root(toy_head: HeadModel) -> None:
    slow, fast = (smoothness(toy_head, Smooth(), fps, True) for fps in (24, 72))
    assert torch.allclose(fast.acceleration, 9 * slow.acceleration)
    free = smoothness(toy_head, Smooth(), 24, False)
    assert float(free.acceleration[-1]) < float(slow.acceleration[-1]) and float(slow.velocity[0]) == 0
