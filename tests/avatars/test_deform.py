"""The contract of deformation models, over all that are found."""

from __future__ import annotations

import pytest
import torch

from avatars import deform
from avatars.errors import ConfigError
from avatars.gaussians import CanonicalGaussians, sample_surface
from avatars.head import HeadModel
from avatars.types import HeadPose

RATES = {"means": 0.1, "quats": 0.02, "log_scales": 0.03, "logit_opacities": 0.05, "sh": 0.01}


@pytest.fixture
def gaussians(tiny_head: HeadModel) -> CanonicalGaussians:
    return sample_surface(tiny_head, tiny_head.template, 200, torch.Generator().manual_seed(0))


def _pose(head: HeadModel) -> HeadPose:
    pose = head.neutral()
    pose.expression[0, 0] = 0.7
    pose.joints[0, 1, 1] = 0.2
    return pose


@pytest.mark.parametrize("hidden", [0, 16])
@pytest.mark.parametrize("name", deform.names())
class TestContract:
    def _made(self, name: str, hidden: int, gaussians: CanonicalGaussians, head: HeadModel):
        settings = deform.DeformSettings(bases=4, hidden=hidden)
        model = deform.find(name)
        size = deform.code_size(head.E, head.J)
        return model, settings, model.create(settings, gaussians, size, torch.Generator().manual_seed(0))

    def test_neutral_is_canonical(self, name: str, hidden: int, gaussians: CanonicalGaussians, tiny_head: HeadModel) -> None:
        model, _, parameters = self._made(name, hidden, gaussians, tiny_head)
        parameters = {k: torch.randn(v.shape, generator=torch.Generator().manual_seed(1)) for k, v in parameters.items()}
        result = model.apply(parameters, gaussians, deform.frame_code(tiny_head.neutral()))
        for key, value in result.tensors().items():
            assert torch.allclose(value.float(), gaussians.tensors()[key].float(), atol=1e-6), key

    def test_untrained_changes_nothing(self, name: str, hidden: int, gaussians: CanonicalGaussians, tiny_head: HeadModel) -> None:
        model, _, parameters = self._made(name, hidden, gaussians, tiny_head)
        result = model.apply(parameters, gaussians, deform.frame_code(_pose(tiny_head)))
        assert torch.allclose(result.means, gaussians.means) and torch.allclose(result.sh, gaussians.sh)
        codes = torch.stack([deform.frame_code(_pose(tiny_head))])
        assert model.settle(parameters, codes).keys() >= parameters.keys()

    def test_rates_name_every_parameter(self, name: str, hidden: int, gaussians: CanonicalGaussians, tiny_head: HeadModel) -> None:
        model, settings, parameters = self._made(name, hidden, gaussians, tiny_head)
        assert model.learning_rates(settings, RATES).keys() == parameters.keys()

    def test_rows_follow_the_gaussians(self, name: str, hidden: int, gaussians: CanonicalGaussians, tiny_head: HeadModel) -> None:
        # Taking rows before or after applying is the same: densification may treat "each_" tensors as rows.
        model, _, parameters = self._made(name, hidden, gaussians, tiny_head)
        parameters = {k: torch.randn(v.shape, generator=torch.Generator().manual_seed(1)) for k, v in parameters.items()}
        rows = torch.tensor([5, 17, 3])
        fewer = {k: v[rows] if k.startswith(deform.PER_GAUSSIAN) else v for k, v in parameters.items()}
        code = deform.frame_code(_pose(tiny_head))
        a, b = model.apply(parameters, gaussians, code)[rows], model.apply(fewer, gaussians[rows], code)
        assert torch.allclose(a.means, b.means, atol=1e-6) and torch.allclose(a.sh, b.sh, atol=1e-6)

    def test_gradients_reach_every_parameter(self, name: str, hidden: int, gaussians: CanonicalGaussians, tiny_head: HeadModel) -> None:
        model, _, parameters = self._made(name, hidden, gaussians, tiny_head)
        parameters = {k: (v + 0.1).requires_grad_() for k, v in parameters.items()}
        result = model.apply(parameters, gaussians, deform.frame_code(_pose(tiny_head)))
        if not parameters:
            return
        (result.means.square().sum() + result.sh.square().sum()).backward()
        for key, value in parameters.items():
            assert value.grad is not None and value.grad.abs().sum() > 0, key


def test_settled_blendshapes_stay_within_what_was_trained(gaussians: CanonicalGaussians, tiny_head: HeadModel) -> None:
    model = deform.find("blendshapes")
    parameters = model.create(deform.DeformSettings(bases=3, hidden=8), gaussians, deform.code_size(3, 5), torch.Generator().manual_seed(0))
    parameters["each_basis"] = torch.randn(parameters["each_basis"].shape, generator=torch.Generator().manual_seed(1))
    code = deform.frame_code(_pose(tiny_head))
    settled = model.settle(parameters, torch.stack([0.5 * code, code]))
    inside, edge, beyond = (model.apply(settled, gaussians, s * code).means for s in (0.7, 1.0, 30.0))
    assert torch.allclose(inside, model.apply(parameters, gaussians, 0.7 * code).means, atol=1e-6)
    assert (beyond - gaussians.means).abs().max() < 2 * (edge - gaussians.means).abs().max()
    assert torch.allclose(model.apply(settled, gaussians, 0 * code).means, gaussians.means)


def test_blendshapes_can_be_linear(gaussians: CanonicalGaussians, tiny_head: HeadModel) -> None:
    model = deform.find("blendshapes")
    settings = deform.DeformSettings(bases=3, hidden=0)
    parameters = model.create(settings, gaussians, deform.code_size(3, 5), torch.Generator().manual_seed(0))
    parameters["each_basis"] = torch.randn(parameters["each_basis"].shape, generator=torch.Generator().manual_seed(1))
    code = deform.frame_code(_pose(tiny_head))
    once, twice = (model.apply(parameters, gaussians, s * code).means - gaussians.means for s in (1.0, 2.0))
    assert torch.allclose(2 * once, twice, atol=1e-4)
    assert once.abs().max() > 0.01


def test_unknown_model_lists_the_known() -> None:
    with pytest.raises(ConfigError, match="binding, blendshapes"):
        deform.find("wobble")


def test_zero_bases_are_refused(gaussians: CanonicalGaussians) -> None:
    with pytest.raises(ValueError, match="bases must be more than 0"):
        deform.find("blendshapes").create(deform.DeformSettings(bases=0), gaussians, 5, torch.Generator())


def test_code_of_several_frames_is_refused(tiny_head: HeadModel) -> None:
    with pytest.raises(ValueError, match="one frame"):
        deform.frame_code(tiny_head.neutral(2))
    assert len(deform.frame_code(tiny_head.neutral())) == deform.code_size(tiny_head.E, tiny_head.J)
