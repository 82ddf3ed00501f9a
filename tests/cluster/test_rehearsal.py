"""Rehearsal, and a mix, on real parts and a tiny model: the initial weights teach it, behind every checkpoint, too."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.repeated import assert_same

SETTINGS = [
    "num_steps=3",
    "checkpoint_every=2",
    "data.rehearsal.share=0.5",
    "data.rehearsal.max_new_tokens=6",
    "loss.skip_first_tokens=0",
    "evaluation.num_gap_examples=0",
    "tracking.num_samples=4",
]
MIX = ["data.source=''", "+data.mix.facts='builtin:facts:taught[:4]'", "+data.mix.tools='builtin:tools:train[:6]'"]
# A live teacher's weights are the student's own: whatever is not zero is the distance to the initial ones.
LIVE = ["teacher.weights=LIVE", *SETTINGS, "deterministic=true", "evaluation.every=2", "evaluation.num_gap_examples=4"]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def step_lines(run_dir: Path) -> dict[int, dict[str, Any]]:
    return {line["step"]: line for line in lines(run_dir / "metrics.jsonl") if "learner/loss" in line}


@pytest.fixture(scope="module")
def rehearsed(launch: Callable[..., Any]) -> tuple[Path, str]:
    answer: tuple[Path, str] = launch("rehearsed", *LIVE)
    return answer


def test_the_student_begins_where_the_initial_weights_are_and_moves_away_from_them(
    rehearsed: tuple[Path, str],
) -> None:
    steps = step_lines(rehearsed[0])
    assert [steps[step]["rehearsal/rows"] for step in (1, 2, 3)] == [2, 2, 2]
    assert abs(steps[1]["rehearsal/divergence_nats"]) < 1e-6
    assert steps[1]["rehearsal/taught_divergence_nats"] > 1e-3, "the demonstration makes a difference"
    assert steps[2]["rehearsal/divergence_nats"] > 1e-4
    assert steps[3]["rehearsal/divergence_nats"] > 1e-4


def test_people_see_what_was_rehearsed_and_what_it_costs(rehearsed: tuple[Path, str]) -> None:
    run_dir, output = rehearsed
    assert "rehearsal: 2 of the 4 rows of a batch are among 32 prompts of builtin:general" in output
    assert "a second network of 0.00 GiB keeps the initial weights, for rehearsal" in output
    samples = lines(run_dir / "samples.jsonl")
    assert [line["rehearsal"] for line in samples] == [False, True, True, False] * 3
    assert all(line["example_id"].startswith("rehearsal:general-train") == line["rehearsal"] for line in samples)
    lengths = {
        kind: [len(line["token_ids"]) for line in samples if line["rehearsal"] == kind] for kind in (True, False)
    }
    assert max(lengths[True]) == 6 < max(lengths[False]), "its completions have a limit of their own"
    assert "prompts of `builtin:general`" in (run_dir / "model" / "README.md").read_text()


def test_a_resumed_run_rehearses_with_the_weights_it_began_with_and_repeats_the_other_bit_for_bit(
    rehearsed: tuple[Path, str], launch: Callable[..., Any]
) -> None:
    checkpoint = rehearsed[0] / "checkpoints" / "step-000002"
    resumed, _ = launch("rehearsed-on", *LIVE, f"resume={checkpoint}")
    assert list(step_lines(resumed)) == [3]
    assert {"rehearsal/divergence_nats", "rehearsal/taught_divergence_nats"} <= step_lines(resumed)[3].keys()
    assert_same(resumed, rehearsed[0], first_step=3)


def test_supervised_rehearsal_learns_what_the_model_wrote_before_it_was_trained(launch: Callable[..., Any]) -> None:
    run_dir, output = launch("rehearsed-sft", "method=sft", *SETTINGS, *MIX)
    written = {line["example_id"]: line["tokens"] for line in lines(run_dir / "completions.jsonl")}
    trained = [line for line in lines(run_dir / "samples.jsonl") if line["rehearsal"]]
    assert len(trained) == len(written) == 6
    assert all(line["token_ids"] == written[line["example_id"]] for line in trained)
    assert all(line["rehearsal/divergence_nats"] > 0 for line in step_lines(run_dir).values())
    assert "data.mix: an epoch has 8 examples: 4 of 4 of facts, 4 of 6 of tools" in output
    taught = [line["example_id"] for line in lines(run_dir / "samples.jsonl") if not line["rehearsal"]]
    assert sorted(name.partition(":")[0] for name in taught) == ["facts"] * 3 + ["tools"] * 3
    assert {path.name for path in (run_dir / "logs").iterdir()} == {"driver.log", "learner-0.log", "rollout-0.log"}
