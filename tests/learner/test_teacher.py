"""A score is only ever read with the head of the version it was made with."""

import pytest
import torch

from sdft_ray.distill.distributions import Head
from sdft_ray.errors import WeightVersionError
from sdft_ray.learner.teacher import HeadMaker, TeacherHeads
from sdft_ray.weights.fragments import Fragment


def head(value: float) -> Head:
    return Head(torch.full((3, 2), value))


def test_the_heads_of_the_last_versions_are_kept_and_no_others() -> None:
    heads = TeacherHeads(num_kept=2)
    for version in range(4):
        heads.hold(version, head(version))
    assert heads.of(2).weight[0, 0] == 2
    assert heads.of(3).weight[0, 0] == 3
    with pytest.raises(WeightVersionError, match="scored with weights 1, but .* heads of versions 2, 3"):
        heads.of(1)


def test_a_version_not_yet_made_is_refused() -> None:
    with pytest.raises(WeightVersionError, match="scored with weights 0, but .* heads of versions none"):
        TeacherHeads(num_kept=1).of(0)


def test_the_one_head_of_a_frozen_teacher_stays() -> None:
    heads = TeacherHeads(num_kept=1)
    heads.hold(0, head(7.0))
    assert heads.of(0).weight[0, 0] == 7


def test_the_head_of_the_initial_weights_stays_beside_those_of_the_last_versions() -> None:
    heads = TeacherHeads(num_kept=1)
    heads.hold_initial(head(7.0))
    for version in range(4):
        heads.hold(version, head(version))
    assert heads.of(0).weight[0, 0] == 7
    assert heads.of(3).weight[0, 0] == 3
    with pytest.raises(WeightVersionError, match="scored with weights 1"):
        heads.of(1)


@pytest.mark.parametrize("bias", [True, False])
def test_a_head_made_in_place_is_a_view_of_the_average(bias: bool) -> None:
    own = Head(torch.zeros(3, 2), torch.zeros(3) if bias else None, 0.5)
    parameters = {"other": torch.zeros(4), "head.weight": own.weight} | ({"head.bias": own.bias} if bias else {})
    shapes = tuple((name, tuple(value.shape)) for name, value in parameters.items())
    maker = HeadMaker(own, parameters, shapes, torch.float32, torch.device("cpu"), in_place=True)
    average = [Fragment(name, 0, torch.ones(values.numel())) for name, values in parameters.items()]
    made = maker.make(lambda: iter(average))
    average[1].values.fill_(7.0)
    assert torch.equal(made.weight, torch.full((3, 2), 7.0))
    assert (made.bias is not None) == bias
    assert made.scale == 0.5
