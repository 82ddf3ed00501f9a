"""Runs with `deterministic=true` that go on from a checkpoint: bit for bit the run that was not stopped.

`test_killed.py` has a teacher with EMA weights, and real kills. Teacher logprobs are among the samples that are
compared: the completions are the same, so another teacher's would show.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.cluster.repeated import assert_same, lines_of

LEARNING_RATE = 1e-3
NUM_STEPS, STOPPED_BEHIND, BATCH_SIZE = 4, 2, 4
RUN = [
    f"num_steps={NUM_STEPS}",
    f"checkpoint_every={STOPPED_BEHIND}",
    f"tracking.num_samples={BATCH_SIZE}",
    f"learner.learning_rate={LEARNING_RATE}",
]
METHODS = {
    "frozen": ["method=sdft", "teacher.weights=FROZEN"],
    "live": ["method=sdft_paper", "teacher.weights=LIVE", "evaluation.every=2"],
}


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_goes_on_from_a_checkpoint_repeats_the_other_bit_for_bit(
    method: str, launch: Callable[..., Any]
) -> None:
    whole, resumed = whole_and_resumed(launch, method, *METHODS[method], "deterministic=true")
    assert len(lines_of(resumed / "samples.jsonl")) == (NUM_STEPS - STOPPED_BEHIND) * BATCH_SIZE
    assert_same(resumed, whole, first_step=STOPPED_BEHIND + 1)


def test_an_asynchronous_run_that_goes_on_trains_each_example_once_and_ends_close_by(
    launch: Callable[..., Any],
) -> None:
    whole, resumed = whole_and_resumed(launch, "asynchronous", "method=sdft", "max_staleness=1")
    trained = [(line["step"], line["example_id"]) for line in lines_of(whole / "samples.jsonl")]
    again = [(line["step"], line["example_id"]) for line in lines_of(resumed / "samples.jsonl")]
    assert again == trained[STOPPED_BEHIND * BATCH_SIZE :]
    weights, other = (load_file(run / "model" / "model.safetensors") for run in (whole, resumed))
    gap = max(float((weights[name] - other[name]).abs().max()) for name in weights)
    # AdamW moves a weight by about the learning rate a step; samples of the first step behind the checkpoint are newer.
    assert gap <= 2 * LEARNING_RATE * (NUM_STEPS - STOPPED_BEHIND)


def whole_and_resumed(launch: Callable[..., Any], name: str, *overrides: str) -> tuple[Path, Path]:
    whole, _ = launch(name, *RUN, *overrides)
    checkpoint = whole / "checkpoints" / f"step-{STOPPED_BEHIND:06d}"
    resumed, _ = launch(f"{name}-resumed", *RUN, *overrides, f"resume={checkpoint}")
    return whole, resumed
