"""An engine's end of a channel merges an adapter into its base, anew for every version."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
import torch

from sdft_ray.config import AdapterConfig, AdapterKind, Channel, ModelConfig, Precision
from sdft_ray.inference.merging import MergingReceiver, make_receiver
from sdft_ray.models.adapter import factor_pairs
from sdft_ray.models.network import load_network
from sdft_ray.models.state import published_state
from sdft_ray.records import Bucket
from sdft_ray.weights.buckets import unpack
from sdft_ray.weights.channel import Receiver
from sdft_ray.weights.shared_memory import MemoryHandle, map_memory
from tests.tiny import make_tiny_model
from tests.weights.publications import publish

ADAPTER = AdapterConfig(kind=AdapterKind.LORA, rank=4, alpha=6.0, targets=["q_proj", "down_proj"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_tiny_model(tmp_path_factory.mktemp("model"))


class FakeEngine:
    """Keeps what it is given last."""

    async def load_buckets(self, buckets: AsyncGenerator[Bucket, None]) -> None:
        self.state: dict[str, torch.Tensor] = {}
        async for bucket in buckets:
            array = map_memory(MemoryHandle(*bucket.array), bucket.dtype)
            self.state |= {name: value.clone() for name, value in unpack(bucket, array)}


@pytest.mark.parametrize("dtype", [Precision.FLOAT32, Precision.BFLOAT16])
def test_an_engine_gets_every_weight_with_the_update_added_to_the_targets(folder: str, dtype: Precision) -> None:
    model = ModelConfig(path=folder, dtype=dtype, attention="sdpa", adapter=ADAPTER)
    base = dict(load_network(folder, dtype, model).named_parameters())
    student = load_network(folder, dtype, model, ADAPTER)
    receiver, engine = make_receiver(Channel.SHARED_MEMORY, folder, model), FakeEngine()
    for version in (0, 1, 2):
        asyncio.run(receiver.load(engine, publish(version, published_state(student))))  # type: ignore[arg-type]
        assert engine.state.keys() == base.keys()
        pairs = factor_pairs(published_state(student).items())
        for name, value in base.items():
            expected: Any = value.detach().float()
            if (target := name.removesuffix(".weight")) in pairs:
                first, second = (factor.detach().float() for factor in pairs[target])
                expected = expected + 1.5 * second @ first
            torch.testing.assert_close(engine.state[name], expected.to(value.dtype))
        with torch.no_grad():
            for value in published_state(student).values():
                value.add_(0.05)


def test_whole_weights_are_loaded_as_they_are(folder: str) -> None:
    plain = make_receiver(Channel.SHARED_MEMORY, folder, ModelConfig(path=folder))
    assert isinstance(plain, Receiver) and not isinstance(plain, MergingReceiver)
