"""The sampler's output head in bf16 on a GPU; a run's mismatch is too coarse to see how its logits are rounded."""

import asyncio
from pathlib import Path

from sdft_ray.config import ModelConfig, Precision, RolloutConfig
from sdft_ray.rollout.engine import SamplingEngine
from sdft_ray.weights.channel import Receiver
from tests.cluster.test_sampler_head import GRID, PROMPT, TOKENS
from tests.tiny import make_tiny_model


async def logprobs(folder: str) -> list[float]:
    """Those of every one of TOKENS behind PROMPT [nats]."""
    engine = SamplingEngine(
        rollout=RolloutConfig(kv_cache_gib=0.125, max_new_tokens=8),
        stop_token_ids=(2,),
        receiver=Receiver(),
        seed=0,
        model_path=folder,
        model=ModelConfig(path=folder, dtype=Precision.BFLOAT16),
        max_model_len=64,
        tensor_parallel_size=1,
        shares_device=True,
        sleeps=False,
    )
    try:
        return [(await engine.logprobs(PROMPT, (token,)))[0][0] for token in TOKENS]
    finally:
        engine.close()


def test_logits_of_a_bf16_engine_are_not_rounded_to_bf16(tmp_path: Path) -> None:
    first, *others = asyncio.run(logprobs(make_tiny_model(tmp_path)))
    steps = [(other - first) * GRID for other in others]
    assert sum(abs(step - round(step)) < 0.02 for step in steps) < len(steps) / 4
