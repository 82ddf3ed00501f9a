"""Runs that train an adapter, as a user starts them: real parts, a tiny model, one launch a method."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from sdft_ray.learner.adapter_export import WEIGHTS_FILE
from tests.gpu_check.exported import TOKENS, logprobs
from tests.served import served_logprobs

ADAPTED = ["model.adapter.kind=LORA", "model.adapter.rank=4", "num_steps=3", "checkpoint_every=2"]
SETTINGS = ["method=sdft_paper", "teacher.context=NONE", "loss.skip_first_tokens=0", "deterministic=true", *ADAPTED]
ENGINE_GAP = re.compile(r"logprobs differ from the learner's by up to (\S+) nats")


def step_lines(run_dir: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if "learner/loss" in line]


@pytest.fixture(scope="module")
def averaged(launch: Callable[..., Any]) -> tuple[Path, str]:
    """A run whose teacher is shown nothing, so that it is the student at the start."""
    run: tuple[Path, str] = launch("adapter-sdft", *SETTINGS, "export.merged=true")
    return run


def test_sampler_and_learner_agree_and_teacher_and_student_begin_alike(averaged: tuple[Path, str]) -> None:
    run_dir, output = averaged
    assert (gap := ENGINE_GAP.search(output)) and float(gap[1]) < 1e-4
    steps = step_lines(run_dir)
    assert abs(steps[0]["learner/divergence_nats"]) < 1e-6
    assert all(line["learner/mismatch_max_nats"] < 1e-3 for line in steps), "each version reaches the engines"
    statuses = json.loads((run_dir / "summary.json").read_text())["weight_version"]
    assert statuses["learner"] == [3]


def test_a_publication_and_a_checkpoint_hold_the_factors_alone(averaged: tuple[Path, str], folder: str) -> None:
    run_dir, _ = averaged
    factors = load_file(run_dir / "model" / WEIGHTS_FILE)
    num_elements = sum(value.numel() for value in factors.values())
    for line in step_lines(run_dir):  # fp32, the student's once and the average's of twice the rank
        assert line["weights/published_bytes"] == 4 * 3 * num_elements
    (saved,) = (run_dir / "checkpoints" / "step-000002").glob("rank-*.safetensors")
    assert saved.stat().st_size < 1.2 * 4 * (3 + 2) * num_elements  # masters, two moments, and the average


def test_exports_are_the_base_with_the_update(averaged: tuple[Path, str], folder: str) -> None:
    run_dir, _ = averaged
    tokens = torch.tensor([[0, 20, 21, 22, 23, 24]])
    base = AutoModelForCausalLM.from_pretrained(folder)
    before = base(tokens).logits
    adapted = PeftModel.from_pretrained(base, run_dir / "model").eval()(tokens).logits
    merged = AutoModelForCausalLM.from_pretrained(run_dir / "merged").eval()(tokens).logits
    torch.testing.assert_close(merged, adapted, atol=1e-4, rtol=0)
    assert (adapted - before).abs().max() > 1e-3


def test_vllm_serves_both_exports_as_transformers_and_peft_compute_them(averaged: tuple[Path, str]) -> None:
    merged, adapter = averaged[0] / "merged", averaged[0] / "model"
    # One engine for both folders: the adapter is added to the merged model once more. It ends with its process.
    found = ray.get(ray.remote(max_calls=1)(served_logprobs).remote(str(merged), str(adapter), TOKENS))
    network = AutoModelForCausalLM.from_pretrained(merged)
    expected = [logprobs(network), logprobs(PeftModel.from_pretrained(network, adapter))]  # which changes the network
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.tensor(own), other, atol=1e-4, rtol=0)
    assert (torch.tensor(found[0]) - torch.tensor(found[1])).abs().max() > 1e-3


def test_a_resumed_run_ends_with_the_adapter_of_one_that_was_not_stopped(
    averaged: tuple[Path, str], launch: Callable[..., Any]
) -> None:
    whole, _ = averaged
    again = [*SETTINGS, f"resume={whole / 'checkpoints' / 'step-000002'}"]
    resumed, _ = launch("adapter-resumed", *again)
    one, other = (load_file(run / "model" / WEIGHTS_FILE) for run in (whole, resumed))
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    _, output = launch("adapter-other", *again, "model.adapter.alpha=4", fails=True)
    assert "model.adapter.alpha is 4.0 and was 16.0" in output


@pytest.mark.parametrize("method", ["sft", "sdft_frozen"])
def test_methods_without_an_average_train_an_adapter(launch: Callable[..., Any], method: str) -> None:
    run_dir, _ = launch(f"adapter-{method}", f"method={method}", *ADAPTED)
    assert [line["step"] for line in step_lines(run_dir)] == [1, 2, 3]
    assert all(line["learner/grad_norm"] > 0 for line in step_lines(run_dir))
    factors = load_file(run_dir / "model" / WEIGHTS_FILE)
    assert all(value.any() for name, value in factors.items() if "lora_B" in name), "zero at the start"


def test_bad_targets_end_the_command_before_any_worker_starts(launch: Callable[..., Any], runs: Path) -> None:
    _, output = launch("adapter-bad", "method=sft", *ADAPTED, "model.adapter.targets=[c_attn]", fails=True)
    assert "model.adapter.targets=c_attn: is the end of no layer's name; take some of down_proj" in output
    assert not (runs / "adapter-bad" / "logs" / "learner-0.log").exists()
