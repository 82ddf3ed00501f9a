"""One vLLM engine in a worker of its own, for tests of what it does with published weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from sdft_ray.config import Channel, ModelConfig, Precision, RolloutConfig
from sdft_ray.rollout.worker import RolloutWorker
from tests.weights.plans import make_plan


def engine_worker(folder: Path, logs: Path, num_tokens: int) -> Any:
    """An actor that starts an engine which maps shared memory once it is made ready."""
    return ray.remote(RolloutWorker).remote(
        rank=0,
        log_dir=str(logs),
        model_path=str(folder),
        model=ModelConfig(path=str(folder), dtype=Precision.FLOAT32),
        rollout=RolloutConfig(kv_cache_gib=0.125, max_new_tokens=8),
        num_tokens=num_tokens,
        eos_token_ids=(2,),
        max_model_len=64,
        tensor_parallel_size=1,
        shares_device=True,
        sleeps=False,
        weights=make_plan(Channel.SHARED_MEMORY),
        seed=0,
    )


@contextmanager
def started_engine(folder: Path, logs: Path, num_tokens: int) -> Iterator[Any]:
    """Such an actor with its engine, until the block ends."""
    worker = engine_worker(folder, logs, num_tokens)
    try:
        ray.get(worker.ready.remote())
        yield worker
        ray.get(worker.close.remote())
    finally:
        ray.kill(worker)
