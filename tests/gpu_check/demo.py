"""The demo for a few steps, its roles in turns on one GPU."""

from typing import Any

from sdft_ray.errors import ModelError
from sdft_ray.models.embedded import embedded_model
from tests.benchmarks.command import run_command
from tests.gpu_check.parts import Absent, Place

NUM_STEPS = 4
ON_GPU = ("+cluster=1xH100", "learner.zero_stage=2")
SHOWN = ("loop/step_s", "loop/rollout_s", "loop/score_s", "learner/forward_backward_s", "learner/optimizer_s")


def settings(device: str) -> list[str]:
    """Those of the command."""
    place = ON_GPU if device == "cuda" else ("+cluster=local",)
    return [*place, "+experiment=demo", f"num_steps={NUM_STEPS}", f"checkpoint_every={NUM_STEPS}"]


def measure(place: Place) -> dict[str, Any]:
    """Seconds of a step and what was learned; a demo without its model is absent."""
    try:
        embedded_model()
    except ModelError as error:
        raise Absent(str(error)) from error
    run = run_command("demo", settings(place.device), place.scratch)
    assert all(step["learner/grad_norm"] > 0 for step in run.steps), "a step had no gradient"
    assert (run.folder / "model" / "config.json").exists(), "the run has exported no model"
    steps: dict[str, Any] = {key.partition("/")[2]: run.median(key) for key in SHOWN}
    steps["mismatch_nats"] = max(run.values("learner/mismatch_max_nats"))
    results = [{"what": name, **both} for name, both in run.summary["evaluation"].items()]
    return {"tables": {"A step": [steps], "Before and after": results}}
