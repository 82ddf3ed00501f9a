"""Methods beside sdft and sft, two steps each, as a user runs them: real parts, a tiny model."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.repeated import assert_same

STEPS = ["num_steps=2", "loss.skip_first_tokens=0", "evaluation.num_gap_examples=0", "tracking.num_samples=4"]
EVALUATED = "+evaluation.sets.taught='builtin:facts:taught[:4]'"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def step_lines(run_dir: Path) -> list[dict[str, Any]]:
    found = [line for line in lines(run_dir / "metrics.jsonl") if "learner/loss" in line]
    assert [line["step"] for line in found] == [1, 2]
    return found


@pytest.fixture(scope="module")
def offline(launch: Callable[..., Any]) -> Path:
    # Four examples, four a batch: both steps see all of them, and the second is a second epoch.
    run_dir: Path = launch(
        "offline", "method=offline_distillation", "data.source='builtin:facts:taught[:4]'", EVALUATED, *STEPS
    )[0]
    return run_dir


def test_the_teacher_writes_once_and_both_epochs_train_on_it(offline: Path) -> None:
    written = {line["example_id"]: line["tokens"] for line in lines(offline / "completions.jsonl")}
    trained = [(line["step"], line["example_id"], line["token_ids"]) for line in lines(offline / "samples.jsonl")]
    assert len(written) == 4
    assert {(step, name) for step, name, _ in trained} == {(step, name) for step in (1, 2) for name in written}
    assert all(tokens == written[name] for _, name, tokens in trained)
    assert all(line["learner/divergence_nats"] > 0 for line in step_lines(offline))
    assert [line["rollout/tokens"] for line in step_lines(offline)] == [0, 0]
    assert not any("rollout/tokens_per_s" in line for line in step_lines(offline))
    assert all(line["teacher/tokens"] > 0 for line in step_lines(offline))


def test_a_run_whose_completions_are_recorded_is_still_evaluated_with_its_own_weights(offline: Path) -> None:
    evaluated = [line["step"] for line in lines(offline / "metrics.jsonl") if "evaluation/taught_accuracy" in line]
    assert evaluated == [0, 2]
    statuses = json.loads((offline / "summary.json").read_text())["weight_version"]
    assert statuses == {"rollout": [2], "teacher": [0], "learner": [2]}


def test_raw_text_is_learned_at_every_position_by_the_learner_alone(launch: Callable[..., Any]) -> None:
    run_dir, _ = launch("cpt", "method=cpt", *STEPS)
    samples = lines(run_dir / "samples.jsonl")
    counted = [line["learner/counted_tokens"] for line in step_lines(run_dir)]
    assert counted == [sum(len(line["token_ids"]) for line in samples if line["step"] == step) for step in (1, 2)]
    assert {path.name for path in (run_dir / "logs").iterdir()} == {"driver.log", "learner-0.log"}


def test_reinvoke_begins_with_no_divergence_where_student_and_base_are_one(
    launch: Callable[..., Any], folder: str
) -> None:
    run_dir, _ = launch(
        "reinvoke",
        "method=reinvoke",
        f"teacher.path={folder}",
        "data.source=builtin:general",
        *STEPS,
    )
    assert abs(step_lines(run_dir)[0]["learner/divergence_nats"]) < 1e-6


def test_reinvoke_without_a_base_model_is_refused_by_name(launch: Callable[..., Any]) -> None:
    assert "teacher.path" in launch("nobase", "method=reinvoke", fails=True)[1]


def test_dft_weighs_each_token_by_its_own_probability(launch: Callable[..., Any]) -> None:
    """Of one token at probability p the loss is -p log p, its divergence -log p; the first step's weights are known."""
    run_dir, _ = launch("dft", "method=dft", *STEPS)
    first, samples = step_lines(run_dir)[0], [line for line in lines(run_dir / "samples.jsonl") if line["step"] == 1]
    losses = [
        sum(math.exp(-nats) * nats for nats in sample["divergence"]) / len(sample["divergence"]) for sample in samples
    ]
    assert first["learner/loss"] == pytest.approx(sum(losses) / len(losses), abs=1e-4)


@pytest.fixture(scope="module")
def pooled(launch: Callable[..., Any]) -> tuple[Path, str, Path]:
    """A run with a frozen teacher and its output, and one that goes on from its first checkpoint.

    Four examples, four a batch: every example is trained on before that checkpoint and behind it.
    """
    rag = "+evaluation.sets.rag={source: 'builtin:facts:taught[:4]', context: POOL}"
    drawn = ["method=sdft_pool", "teacher.pool.retriever=RANDOM"]  # no word is common to all four questions
    repeated = ["deterministic=true", "teacher.weights=FROZEN", "checkpoint_every=1"]
    settings = [*drawn, *repeated, "data.source='builtin:facts:taught[:4]'", rag, *STEPS]
    run_dir, output = launch("pooled", *settings)
    resumed, _ = launch("pooled-on", *settings, f"resume={run_dir / 'checkpoints' / 'step-000001'}")
    return run_dir, output, resumed


def test_what_the_pool_shows_is_written_down(pooled: tuple[Path, str, Path]) -> None:
    run_dir, output, _ = pooled
    assert "4 rows of builtin:facts:taught[:4], of which a prompt is shown 1 by RANDOM" in " ".join(output.split())
    samples = lines(run_dir / "samples.jsonl")
    shown = [{line["example_id"]: line["pool"] for line in samples if line["step"] == step} for step in (1, 2)]
    assert len(shown[0]) == 4 and shown[0] == shown[1]
    assert all(name != pool[0]["example_id"] for name, pool in shown[0].items())
    assert {line["set"] for line in lines(run_dir / "answers.jsonl")} == {"rag"}


def test_a_run_with_a_frozen_teacher_goes_on_bit_for_bit_and_is_shown_the_same(pooled: tuple[Path, str, Path]) -> None:
    whole, _, resumed = pooled
    behind = lines(resumed / "samples.jsonl")
    assert [line["step"] for line in behind] == [2] * 4 and all(line["pool"] for line in behind)
    assert_same(resumed, whole, first_step=2)
