"""A teacher with an adapter scores with it, and without it where the run's first weights are asked for."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdft_ray.config import AdapterConfig, AdapterKind, ModelConfig, Payload, Precision, TeacherConfig
from sdft_ray.models.adapter import averaged
from sdft_ray.models.state import trained_parameters
from sdft_ray.teacher.scoring_network import ScoringNetwork
from tests.tiny import GUARD_ROWS, make_tiny_model

SEQUENCES = [(row.prompt_tokens, row.completion_tokens) for row in GUARD_ROWS]


def load(folder: str, adapter: AdapterConfig) -> ScoringNetwork:
    return ScoringNetwork(
        folder,
        ModelConfig(path=folder, dtype=Precision.FLOAT32, adapter=adapter),
        TeacherConfig(payload=Payload.LOGITS),
        num_tokens=300,
        temperature=1.0,
        device=torch.device("cpu"),
        guard_rows=GUARD_ROWS,
        max_len=64,
    )


def scored(payloads: list[Any]) -> np.ndarray:
    return np.concatenate([payload.logits for payload in payloads])


def test_the_runs_first_weights_are_the_network_with_its_adapter_switched_off(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path)
    initial = scored(load(folder, AdapterConfig()).payloads(SEQUENCES))
    network = load(folder, averaged(AdapterConfig(kind=AdapterKind.LORA, rank=4)))
    assert all(".lora_" in name for name in network.parameters), "nothing else is awaited of a publication"
    assert np.array_equal(scored(network.payloads(SEQUENCES)), initial)
    for value in trained_parameters(network._network).values():
        value.data += 0.05
    assert np.abs(scored(network.payloads(SEQUENCES)) - initial).max() > 0.1
    assert np.array_equal(scored(network.initial_payloads(SEQUENCES)), initial)
