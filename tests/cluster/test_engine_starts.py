"""Engines of networks with state sample as the learner computes; one that cannot start, or dies, says why."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from transformers import AutoModelForCausalLM

from sdft_ray.errors import EngineError, WorkerLostError
from sdft_ray.workers.deadlines import Pace, Work
from sdft_ray.workers.group import WorkerGroup
from tests.cluster.engine import engine_worker, started_engine
from tests.cluster.student import TrainedStudent
from tests.models.families import FAMILIES
from tests.weights.publications import publish

NUM_TOKENS = 96
PROMPT, COMPLETION = tuple(range(10, 50)), tuple(range(50, 60))  # longer than a block of the KV cache


def saved(name: str, folder: Path, **settings: Any) -> Path:
    config = next(family for family in FAMILIES if family.name == name).config()
    for key, value in settings.items():
        setattr(config, key, value)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("family", "settings"),
    [("falcon_h1", {"head_dim": 32}), ("granitemoehybrid", {"num_attention_heads": 2, "head_dim": 32})],
)
def test_an_engine_of_a_network_with_state_samples_from_what_is_published(
    cluster: Any, tmp_path: Path, family: str, settings: dict[str, int]
) -> None:
    folder = saved(family, tmp_path / family, **settings)
    student = TrainedStudent(str(folder))
    with started_engine(folder, tmp_path / "logs", NUM_TOKENS) as engine:
        for version in range(2):
            assert version == 0 or student.train() == version
            ray.get(engine.load_weights.remote(publish(version, dict(student.network.named_parameters()))))
            with torch.inference_mode():
                logits = student.network(torch.tensor([[*PROMPT, *COMPLETION]])).logits[0, len(PROMPT) - 1 : -1]
            expected = logits.log_softmax(-1).gather(1, torch.tensor(COMPLETION)[:, None])[:, 0].tolist()
            for _ in range(2):  # once more with the prompt that was read before
                assert ray.get(engine.logprobs.remote(PROMPT, COMPLETION)) == pytest.approx(expected, abs=1e-4)


FAILURES = {
    "start": ("lfm2", r"Lfm2ForCausalLM \(model_type=lfm2\) cannot start: AttributeError: .*no attribute 'conv_dim'"),
    "work": ("llama", r"LlamaForCausalLM \(model_type=llama\) has died: RuntimeError: .*head_dim=16"),
}


@pytest.mark.parametrize("when", FAILURES)
def test_an_engine_that_fails_names_family_cause_and_remedy(cluster: Any, tmp_path: Path, when: str) -> None:
    """vLLM wants a setting that transformers has no default for, and has no kernel on CPUs for heads of 16."""
    family, cause = FAILURES[when]
    logs = tmp_path / "logs"
    worker = engine_worker(saved(family, tmp_path / "model"), logs, NUM_TOKENS)
    group = WorkerGroup("rollout", [worker], str(logs))

    async def use() -> None:
        await group.on_all(lambda actor: actor.ready.remote(), Work("start", pace=Pace.START))
        await group.on_first(lambda actor: actor.answer.remote(PROMPT, 2))

    kind, says = (EngineError, ":") if when == "start" else (WorkerLostError, " was lost:")
    with pytest.raises(kind, match=f"^rollout worker 0{says} vLLM's engine for {cause}.*method that samples nothing"):
        asyncio.run(use())
    ray.get(worker.close.remote())
    ray.kill(worker)
