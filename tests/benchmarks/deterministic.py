"""What `deterministic=true` costs.

SmolLM2-135M-Instruct in fp32 on the built-in facts, `method=sdft`, 16 prompts a step, completions of at most 32 tokens.
The same run as it is by default and with fixed batches, each with one thread and with as many as the roles have by
default. With one thread sampling and scoring overlap, with more they take turns. Medians over the steps without the
first. The last column says whether the second of two such runs gave the weights of the first, bit for bit.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks.command import CommandRun, run_command
from tests.benchmarks.examples import builtin_rows, write_rows
from tests.benchmarks.method_cost import BATCH_SIZE, ONE_THREAD_EACH, step_settings

SHOWN = ("loop/step_s", "loop/rollout_s", "loop/score_s", "loop/wait_s", "learner/forward_backward_s")
THREADS = {"1": ONE_THREAD_EACH, "default": ()}


def measure(num_steps: int = 5) -> dict[str, Any]:
    """Runs both ways twice, with either number of threads."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        prompts = write_rows(folder / "prompts.jsonl", builtin_rows("facts", "train")[: num_steps * BATCH_SIZE])
        settings = step_settings(prompts, num_steps, "sdft")
        table = [
            _row(threads, is_fixed, [run_command(f"{threads}-{is_fixed}-{turn}", each, folder) for turn in range(2)])
            for threads, more in THREADS.items()
            for is_fixed in (False, True)
            for each in [[*settings, *more, f"deterministic={is_fixed}"]]
        ]
    seconds = {(row["threads"], row["deterministic"]): row["step_s"] for row in table}
    return {
        "deterministic_over_default_overlapping": seconds["1", True] / seconds["1", False],
        "deterministic_over_default": seconds["default", True] / seconds["default", False],
        "deterministic_raw": {"tables": {"": table}},
    }


def _row(threads: str, is_fixed: bool, runs: list[CommandRun]) -> dict[str, Any]:
    exported = [(run.folder / "model" / "model.safetensors").read_bytes() for run in runs]
    shown = {key.partition("/")[2]: min(run.median(key) for run in runs) for key in SHOWN}
    return {"threads": threads, "deterministic": is_fixed, **shown, "same_weights": exported[0] == exported[1]}


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
