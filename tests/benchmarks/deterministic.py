"""What `deterministic=true` costs.

SmolLM2-135M-Instruct in fp32 on the built-in facts, `method=sdft`, 16 prompts a step, completions of at most 32 tokens:
the same run by default and with `deterministic=true`. With two threads each the roles take turns by default as well;
with one thread each, sampling and scoring overlap by default. Medians over the steps without the first.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks.command import CommandRun, run_command
from tests.benchmarks.examples import builtin_rows, write_rows
from tests.benchmarks.method_cost import BATCH_SIZE, ONE_THREAD_EACH, step_settings

SHOWN = ("loop/step_s", "loop/rollout_s", "loop/score_s", "loop/wait_s", "learner/forward_backward_s")
THREADS = {2: (), 1: ONE_THREAD_EACH}  # of each role


def measure(num_steps: int = 5) -> dict[str, Any]:
    """Runs both, with either number of threads."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        prompts = write_rows(folder / "prompts.jsonl", builtin_rows("facts", "train")[: num_steps * BATCH_SIZE])
        table = []
        for threads, more in THREADS.items():
            for is_set in (False, True):
                settings = step_settings(prompts, num_steps, "sdft", *more, f"deterministic={is_set}")
                table.append(_row(threads, is_set, run_command(f"{threads}-{is_set}", settings, folder)))
    return {
        "deterministic_over_default": _ratio(table, 2, "step_s"),
        "deterministic_over_overlapping": _ratio(table, 1, "step_s"),
        "deterministic_raw": {"tables": {"": table}, "notes": [_note(table)]},
    }


def _ratio(table: list[dict[str, Any]], threads: int, column: str) -> float:
    seconds = {row["deterministic"]: row[column] for row in table if row["threads"] == threads}
    return seconds[True] / seconds[False]


def _note(table: list[dict[str, Any]]) -> str:
    """What other work on the machine has done to the ratios."""
    same = {threads: _ratio(table, threads, "forward_backward_s") for threads in THREADS}
    return (
        "Forward and backward passes are the same work in both runs. They took "
        + " and ".join(f"{ratio:.2f} times as long with threads={threads}" for threads, ratio in same.items())
        + ": so much is the machine's."
    )


def _row(threads: int, is_set: bool, run: CommandRun) -> dict[str, Any]:
    shown = {key.partition("/")[2]: run.median(key) for key in SHOWN}
    return {"threads": threads, "deterministic": is_set, **shown}


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
