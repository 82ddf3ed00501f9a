"""What the wall to DeepSpeed tells it; tests/cluster/test_learner.py has real ranks and every ZeRO stage."""

import pytest

from sdft_ray.config import LearnerConfig, Precision
from sdft_ray.errors import ConfigError
from sdft_ray.learner.optimizer import deepspeed_settings


def test_deepspeed_is_told_stage_clipping_and_precision() -> None:
    settings = deepspeed_settings(
        LearnerConfig(zero_stage=3, precision=Precision.BFLOAT16, max_grad_norm=0.5), on_gpu=True
    )
    assert settings["zero_optimization"]["stage"] == 3
    assert settings["gradient_clipping"] == 0.5
    assert settings["bf16"] == {"enabled": True}
    assert settings["gradient_accumulation_steps"] == 1
    assert "bf16" not in deepspeed_settings(LearnerConfig(), on_gpu=True)


def test_an_optimizer_in_host_memory_is_pinned_where_a_gpu_reads_it() -> None:
    offloaded = LearnerConfig(zero_stage=2, offload=True)
    for on_gpu in (False, True):
        zero = deepspeed_settings(offloaded, on_gpu=on_gpu)["zero_optimization"]
        assert zero["offload_optimizer"] == {"device": "cpu", "pin_memory": on_gpu}
    assert "offload_optimizer" not in deepspeed_settings(LearnerConfig(), on_gpu=True)["zero_optimization"]
    with pytest.raises(ConfigError, match="^learner.offload=True"):
        LearnerConfig(zero_stage=1, offload=True)
