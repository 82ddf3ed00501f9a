"""Which stage a step belongs to, and what follows from it."""

import pytest

from sdft_ray.config import LearnerConfig, Schedule
from sdft_ray.learner.schedule import LearnerStage, StagePlan, learning_rate


def stage(num_steps: int, rate: float = 1e-3, batch_size: int = 4) -> LearnerStage:
    learner = LearnerConfig(learning_rate=rate, warmup_steps=1, schedule=Schedule.COSINE)
    return LearnerStage(num_steps=num_steps, batch_size=batch_size, skip_first_tokens=0, learner=learner)


def test_every_step_belongs_to_one_stage() -> None:
    plan = StagePlan([stage(2, batch_size=4), stage(3, batch_size=8)])
    assert plan.num_steps == 5
    assert [plan.at(version).batch_size for version in range(5)] == [4, 4, 8, 8, 8]


def test_each_stage_has_a_schedule_of_its_own() -> None:
    first, second = stage(3), stage(4, rate=5e-4)
    rates = [StagePlan([first, second]).learning_rate(version) for version in range(7)]
    assert rates[:3] == [learning_rate(first.learner, step, 3) for step in range(3)]
    assert rates[3:] == [learning_rate(second.learner, step, 4) for step in range(4)]


def test_a_border_lies_between_two_stages_only() -> None:
    assert [version for version in range(8) if StagePlan([stage(3), stage(4)]).is_boundary(version)] == [3]
    assert not any(StagePlan([stage(3)]).is_boundary(version) for version in range(5))


def test_what_is_asked_beyond_the_end_is_the_last_stage() -> None:
    plan = StagePlan([stage(3), stage(4, batch_size=8)])
    assert plan.at(7).batch_size == 8
    assert plan.learning_rate(7) == pytest.approx(0.0, abs=1e-12)


def test_warm_up_is_linear_and_reaches_the_full_rate_after_its_steps() -> None:
    cfg = LearnerConfig(learning_rate=1.0, warmup_steps=4, schedule=Schedule.CONSTANT)
    assert [learning_rate(cfg, step, 10) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_cosine_falls_from_the_full_rate_towards_zero() -> None:
    cfg = LearnerConfig(learning_rate=1.0, warmup_steps=2, schedule=Schedule.COSINE)
    rates = [learning_rate(cfg, step, 10) for step in range(10)]
    assert rates[2] == 1.0
    assert rates[6] == pytest.approx(0.5)  # half way
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert 0 < rates[-1] < 0.1
    assert learning_rate(cfg, 10, 10) == pytest.approx(0.0)


def test_a_run_shorter_than_its_warm_up_still_has_a_rate() -> None:
    cfg = LearnerConfig(learning_rate=1.0, warmup_steps=10)
    assert all(0 < learning_rate(cfg, step, 3) < 1 for step in range(3))
