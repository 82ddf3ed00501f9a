"""New weights of a mixture of experts: fused where they are published, named and packed anew in the engine."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from tests.cluster.engine import started_engine
from tests.cluster.student import TrainedStudent
from tests.weights.publications import publish

NUM_TOKENS = 128
PROMPT, COMPLETION = tuple(range(10, 40)), tuple(range(40, 60))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("experts")
    config = Qwen3MoeConfig(
        vocab_size=NUM_TOKENS,
        hidden_size=64,
        moe_intermediate_size=48,  # which vLLM's kernel pads
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        num_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        initializer_range=0.2,
        dtype="float32",
    )
    Qwen3MoeForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def engine(cluster: Any, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with started_engine(folder, tmp_path_factory.mktemp("logs"), NUM_TOKENS) as worker:
        yield worker


def test_an_engine_samples_from_the_published_experts_version_after_version(engine: Any, folder: Path) -> None:
    student = TrainedStudent(str(folder))
    for version in range(3):  # version 0: what the engine holds already
        assert version == 0 or student.train() == version
        parameters = dict(student.network.named_parameters())
        assert any(name.endswith("experts.gate_up_proj") for name in parameters)
        assert ray.get(engine.load_weights.remote(publish(version, parameters))) == version
        with torch.inference_mode():
            logits = student.network(torch.tensor([[*PROMPT, *COMPLETION]])).logits[0, len(PROMPT) - 1 : -1]
        expected = logits.log_softmax(-1).gather(1, torch.tensor(COMPLETION)[:, None])[:, 0].tolist()
        assert ray.get(engine.logprobs.remote(PROMPT, COMPLETION)) == pytest.approx(expected, abs=1e-4)
