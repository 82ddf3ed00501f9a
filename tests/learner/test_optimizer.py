"""What the wall to DeepSpeed tells it; tests/cluster/test_learner.py has real ranks and every ZeRO stage."""

from sdft_ray.config import LearnerConfig, Precision
from sdft_ray.learner.optimizer import deepspeed_settings


def test_deepspeed_is_told_stage_clipping_and_precision() -> None:
    settings = deepspeed_settings(LearnerConfig(zero_stage=3, precision=Precision.BFLOAT16, max_grad_norm=0.5))
    assert settings["zero_optimization"]["stage"] == 3
    assert settings["gradient_clipping"] == 0.5
    assert settings["bf16"] == {"enabled": True}
    assert settings["gradient_accumulation_steps"] == 1
    assert "bf16" not in deepspeed_settings(LearnerConfig())
