"""The share of the demo's steps that new weights take, from the learner to one rollout and one teacher worker.

`make demo` for a few steps: SmolLM2-135M-Instruct in fp32, 8 facts a step. The share is loop/load_weights_s over
loop/step_s, its median over the steps without the first.
"""

import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks.command import run_command

SHOWN = ("loop/step_s", "loop/load_weights_s", "weights/publish_s", "weights/load_s", "learner/ema_s")


def measure(num_steps: int = 8) -> dict[str, Any]:
    """Runs the demo."""
    settings = ["+cluster=local", "+experiment=demo", f"num_steps={num_steps}", "checkpoint_every=0"]
    with tempfile.TemporaryDirectory() as scratch:
        run = run_command("demo", settings, Path(scratch))
    pairs = zip(run.values("loop/load_weights_s"), run.values("loop/step_s"), strict=True)
    row = {key: run.median(key) for key in SHOWN}
    published = {"published_mib": run.median("weights/published_bytes") / 2**20}
    return {
        "publish_share_of_step": statistics.median(load_s / step_s for load_s, step_s in pairs),
        "publish_raw": {"tables": {"": [row | published]}},
    }


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
