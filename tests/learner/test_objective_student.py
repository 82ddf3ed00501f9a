"""The head of a network inside its engine; tests/cluster/test_learner.py has engines whose weights are cut up."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, CohereConfig, PhiConfig

from sdft_ray.config import ModelConfig, Precision
from sdft_ray.errors import ModelError
from sdft_ray.learner.objective import Student, check_partitioned_head
from sdft_ray.models.network import check_folder_head
from tests.buffered import SIZES

KNOWN = {
    "scaled": CohereConfig(logit_scale=0.25, **SIZES),
    "with a bias": PhiConfig(**SIZES),
}


def make_network(config: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = AutoModelForCausalLM.from_config(config).eval()
        bias = getattr(network.get_output_embeddings(), "bias", None)
        if bias is not None:
            bias.data.normal_()
    return network


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_head_passes_in_an_engine_and_in_a_folder(tmp_path: Path, name: str) -> None:
    network = make_network(KNOWN[name])
    network.save_pretrained(tmp_path)
    check_partitioned_head(Student(network), network, torch.device("cpu"))
    check_folder_head(str(tmp_path), ModelConfig(path=str(tmp_path), dtype=Precision.FLOAT32, attention="sdpa"))


def test_a_head_that_does_something_else_is_refused_in_an_engine_and_in_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdft_ray.models.network.logit_transform", lambda config: (1.0, 0.0))  # as if it knew no scale
    network = make_network(KNOWN["scaled"])
    network.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="CohereForCausalLM computes other logits"):
        check_partitioned_head(Student(network), network, torch.device("cpu"))
    with pytest.raises(ModelError, match="CohereForCausalLM computes other logits"):
        check_folder_head(str(tmp_path), ModelConfig(path=str(tmp_path), dtype=Precision.FLOAT32, attention="sdpa"))
