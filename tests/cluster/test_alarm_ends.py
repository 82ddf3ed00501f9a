"""An alarm that is to end the run ends it behind its last step as well, with a checkpoint, and it can go on."""

import json
from collections.abc import Callable
from typing import Any

import pytest

NUM_STEPS = 3
RUN = ["method=sft", f"num_steps={NUM_STEPS}", "checkpoint_every=100", "tracking.alarms.stop=true"]
# Every gradient is too small: the alarm comes with the third step.
ALARM = [f"tracking.alarms.patience={NUM_STEPS}", "tracking.alarms.grad_norm=1e9"]


@pytest.mark.parametrize("stages", [[], ["stages=['facts num_steps=3','facts num_steps=2']"]], ids=["run", "stage"])
def test_an_alarm_at_the_last_step_ends_with_an_error_and_a_checkpoint(
    launch: Callable[..., Any], stages: list[str]
) -> None:
    name = "staged" if stages else "whole"
    path, output = launch(name, *RUN, *ALARM, *stages, fails=True)
    assert f"alarm at step {NUM_STEPS}" in output and "tracking.alarms.stop=true ends the run there" in output
    assert f"stopped        behind step {NUM_STEPS}, with a checkpoint of it" in output
    assert not (path / "summary.json").exists() and not (path / "model").exists()
    if not stages:
        path, output = launch(name, *RUN, *ALARM, "resume=auto")
        assert json.loads((path / "summary.json").read_text())["num_steps"] == NUM_STEPS
