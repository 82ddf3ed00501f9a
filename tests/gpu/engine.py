"""A sampling engine in this process, as a rollout worker starts it, without Ray."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sdft_ray.config import ModelConfig, Precision, RolloutConfig
from sdft_ray.rollout.engine import SamplingEngine
from sdft_ray.weights.channel import Receiver


@asynccontextmanager
async def started_engine(
    folder: str, logs: Path, precision: Precision, *, sleeps: bool = False
) -> AsyncIterator[SamplingEngine]:
    """An engine whose memory for keys and values is small, until the block ends."""
    log = logs / "rollout-0.log"
    log.touch()
    engine = SamplingEngine(
        worker="rollout worker 0",
        log=log,
        rollout=RolloutConfig(kv_cache_gib=0.125, max_new_tokens=8),
        stop_token_ids=(2,),
        receiver=Receiver(),
        seed=0,
        model_path=folder,
        model=ModelConfig(path=folder, dtype=precision),
        max_model_len=64,
        tensor_parallel_size=1,
        shares_device=True,
        sleeps=sleeps,
    )
    try:
        yield engine
    finally:
        engine.close()
