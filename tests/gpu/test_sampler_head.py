"""The sampler's output head in bf16 on a GPU; a run's mismatch is too coarse to see how its logits are rounded."""

import asyncio
from pathlib import Path

from sdft_ray.config import Precision
from tests.cluster.test_sampler_head import GRID, PROMPT, TOKENS
from tests.gpu.engine import started_engine
from tests.tiny import make_tiny_model


async def logprobs(folder: str, logs: Path) -> list[float]:
    """Those of every one of TOKENS behind PROMPT [nats]."""
    async with started_engine(folder, logs, Precision.BFLOAT16) as engine:
        return [(await engine.logprobs(PROMPT, (token,)))[0][0] for token in TOKENS]


def test_logits_of_a_bf16_engine_are_not_rounded_to_bf16(tmp_path: Path) -> None:
    first, *others = asyncio.run(logprobs(make_tiny_model(tmp_path / "model"), tmp_path))
    steps = [(other - first) * GRID for other in others]
    assert sum(abs(step - round(step)) < 0.02 for step in steps) < len(steps) / 4
