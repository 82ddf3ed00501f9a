"""What SDFT costs over SFT: seconds of a step on the same examples and the same number of trained tokens.

SmolLM2-135M-Instruct in fp32 on the built-in facts, 16 prompts a step, completions of at most 32 tokens, each example
once. SFT trains on the very completions that the first SDFT run has sampled. Medians over the steps without the first.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks.command import STEPS_ONLY, CommandRun, run_command
from tests.benchmarks.examples import Row, builtin_rows, write_rows

BATCH_SIZE = 16
ONE_THREAD_EACH = tuple(f"cluster.{role}.threads_per_worker=1" for role in ("rollout", "teacher", "learner"))
SHOWN = (
    "loop/step_s",
    "loop/rollout_s",
    "loop/score_s",
    "loop/wait_s",
    "learner/forward_backward_s",
    "learner/optimizer_s",
    "learner/ema_s",
    "loop/load_weights_s",
)


def measure(num_steps: int = 6) -> dict[str, Any]:
    """Runs sdft at max_staleness 0 and 1, then sft."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        rows = builtin_rows("facts", "train")[: num_steps * BATCH_SIZE]
        prompts = write_rows(folder / "prompts.jsonl", rows)
        sdft = [
            run_command(
                f"sdft-{bound}", step_settings(prompts, num_steps, "sdft", f"max_staleness={bound}", *more), folder
            )
            for bound, more in ((0, ()), (1, ONE_THREAD_EACH))
        ]
        completions = write_rows(folder / "completions.jsonl", _with_completions(rows, sdft[0]))
        sft = run_command("sft", step_settings(completions, num_steps, "sft"), folder)
    names = ("sdft, max_staleness=0", "sdft, max_staleness=1", "sft")
    table = [_row(name, run) for name, run in zip(names, (*sdft, sft), strict=True)]
    return {
        "sdft_over_sft_staleness0": sdft[0].median("loop/step_s") / sft.median("loop/step_s"),
        "sdft_over_sft_staleness1": sdft[1].median("loop/step_s") / sft.median("loop/step_s"),
        "method_cost_raw": {"tables": {"": table}},
    }


def step_settings(examples: Path, num_steps: int, method: str, *more: str) -> list[str]:
    """A run of steps and nothing else."""
    return [
        *STEPS_ONLY,
        f"data.source={examples}",
        "data.shuffle=false",
        f"batch_size={BATCH_SIZE}",
        f"num_steps={num_steps}",
        f"method={method}",
        "loss.skip_first_tokens=0",
        "rollout.max_new_tokens=32",
        "rollout.kv_cache_gib=0.25",
        "teacher.template=single_turn_short",
        "learner.zero_stage=0",
        f"tracking.num_samples={BATCH_SIZE}",
        *more,
    ]


def _with_completions(rows: list[Row], run: CommandRun) -> list[Row]:
    """The rows with what the student wrote for their demonstrations."""
    samples = [json.loads(line) for line in (run.folder / "samples.jsonl").read_text().splitlines()]
    end = {sample["tokens"][-1] for sample in samples if not sample["truncated"]}
    written = {sample["example_id"]: sample["completion"] for sample in samples}
    for token in end:
        written = {name: completion.removesuffix(token) for name, completion in written.items()}
    return [row | {"demonstration": written[row["id"]]} for row in rows]


def _row(name: str, run: CommandRun) -> dict[str, Any]:
    # A run without rollouts has no rollout metrics.
    shown = {key.partition("/")[2]: run.median(key) if key in run.steps[-1] else None for key in SHOWN}
    tokens = sum(step["learner/counted_tokens"] for step in run.steps) / len(run.steps)
    return {"which": name, "trained_tokens": tokens, **shown, "peak_memory_gib": run.peak_memory_gib}


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
