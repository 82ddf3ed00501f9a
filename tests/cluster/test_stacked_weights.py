"""Weights that go around vLLM's reload, in a network with biases and a head of its own.

tests/cluster/test_rollout_and_teacher.py has one with neither, test_teacher_backends.py vLLM's own reload.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray.exceptions import RayTaskError
from transformers import Qwen2Config, Qwen2ForCausalLM

from tests.cluster.engine import started_engine
from tests.cluster.student import TrainedStudent
from tests.weights.publications import publish

NUM_TOKENS = 100  # vLLM's embedding has rows for 128
PROMPT, COMPLETION = tuple(range(10, 40)), tuple(range(40, 60))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("qwen")
    config = Qwen2Config(
        vocab_size=NUM_TOKENS,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        initializer_range=0.2,
        dtype="float32",
    )
    Qwen2ForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def engine(cluster: Any, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with started_engine(folder, tmp_path_factory.mktemp("logs"), NUM_TOKENS) as worker:
        yield worker


@pytest.mark.parametrize("max_elements", [100, 10**9])  # parameters that lie together in one bucket, or in many
def test_an_engine_samples_from_the_published_weights(engine: Any, folder: Path, max_elements: int) -> None:
    student = TrainedStudent(str(folder))
    before = ray.get(engine.logprobs.remote(PROMPT, COMPLETION))
    student.train()
    publication = publish(student.version, dict(student.network.named_parameters()), max_elements)
    assert ray.get(engine.load_weights.remote(publication)) == student.version
    with torch.inference_mode():
        logits = student.network(torch.tensor([[*PROMPT, *COMPLETION]])).logits[0, len(PROMPT) - 1 : -1]
    expected = logits.log_softmax(-1).gather(1, torch.tensor(COMPLETION)[:, None])[:, 0].tolist()
    held = ray.get(engine.logprobs.remote(PROMPT, COMPLETION))
    assert held == pytest.approx(expected, abs=1e-4)
    if max_elements == 100:
        assert held != pytest.approx(before, abs=1e-2)


def test_a_publication_that_lacks_a_part_of_a_parameter_is_refused_by_the_name_of_the_part(
    engine: Any, folder: Path
) -> None:
    parameters = dict(TrainedStudent(str(folder)).network.named_parameters())
    del parameters["model.layers.1.self_attn.k_proj.bias"]
    with pytest.raises(
        RayTaskError, match=r"does not reach 1 of its parameters, such as model.layers.1.self_attn.k_proj.bias"
    ):
        ray.get(engine.load_weights.remote(publish(1, parameters)))
