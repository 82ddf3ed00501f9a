"""A score is only ever read with the head of the version it was made with."""

import pytest
import torch

from sdft_ray.distill.head import Head
from sdft_ray.errors import WeightVersionError
from sdft_ray.learner.teacher_heads import TeacherHeads


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
