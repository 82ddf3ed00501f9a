"""The learning rate, and what DeepSpeed is told."""

import pytest

from sdft_ray.config import LearnerConfig, Precision, Schedule
from sdft_ray.learner.optimizer import deepspeed_settings, learning_rate


def test_warm_up_is_linear_and_reaches_the_full_rate_after_its_steps() -> None:
    cfg = LearnerConfig(learning_rate=1.0, warmup_steps=4, schedule=Schedule.CONSTANT)
    assert [learning_rate(cfg, step, 10) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_cosine_falls_from_the_full_rate_towards_zero() -> None:
    cfg = LearnerConfig(learning_rate=2.0, warmup_steps=2, schedule=Schedule.COSINE)
    rates = [learning_rate(cfg, step, 10) for step in range(10)]
    assert rates[2] == 2.0
    assert rates[6] == pytest.approx(1.0)  # half way
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert 0 < rates[-1] < 0.1
    assert learning_rate(cfg, 10, 10) == pytest.approx(0.0)


def test_a_run_shorter_than_its_warm_up_still_has_a_rate() -> None:
    cfg = LearnerConfig(learning_rate=1.0, warmup_steps=10)
    assert all(0 < learning_rate(cfg, step, 3) < 1 for step in range(3))


def test_deepspeed_is_told_stage_clipping_and_precision() -> None:
    settings = deepspeed_settings(LearnerConfig(zero_stage=3, precision=Precision.BFLOAT16, max_grad_norm=0.5))
    assert settings["zero_optimization"]["stage"] == 3
    assert settings["gradient_clipping"] == 0.5
    assert settings["bf16"] == {"enabled": True}
    assert settings["gradient_accumulation_steps"] == 1
    assert "bf16" not in deepspeed_settings(LearnerConfig())
