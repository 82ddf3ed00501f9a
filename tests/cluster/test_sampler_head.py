"""The sampler's output head in bf16 runs: its sums are fp32, as the learner's are."""

from pathlib import Path
from typing import Any

import ray

from sdft_ray.config import ModelConfig, Precision, RolloutConfig
from sdft_ray.rollout.worker import RolloutWorker
from tests.weights.plans import make_plan

PROMPT = tuple(range(10, 40))
TOKENS = range(40, 72)
GRID = 2**10  # in bf16 every logit of at least 1/8 is a multiple of 1/1024


def test_logits_of_a_bf16_engine_are_not_rounded_to_bf16(cluster: Any, folder: str, tmp_path: Path) -> None:
    worker = ray.remote(RolloutWorker).remote(
        rank=0,
        log_dir=str(tmp_path),
        model_path=folder,
        model=ModelConfig(path=folder, dtype=Precision.BFLOAT16),
        rollout=RolloutConfig(kv_cache_gib=0.125, max_new_tokens=8),
        num_tokens=380,
        eos_token_ids=(2,),
        max_model_len=64,
        tensor_parallel_size=1,
        shares_device=True,
        sleeps=False,
        weights=make_plan(),
        seed=0,
    )
    ray.get(worker.ready.remote())
    # Of tokens at one place, logprobs differ as logits do.
    first, *others = [ray.get(worker.logprobs.remote(PROMPT, (token,)))[0] for token in TOKENS]
    steps = [(other - first) * GRID for other in others]
    ray.get(worker.close.remote())
    ray.kill(worker)
    on_grid = sum(abs(step - round(step)) < 0.02 for step in steps)
    assert on_grid < len(steps) / 4
