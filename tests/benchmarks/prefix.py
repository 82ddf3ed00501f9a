"""What a common prefix of all prompts of a step saves.

SmolLM2-135M-Instruct, 8 prompts a step with the same articles of about 220 tokens, completions of at most 8 tokens.
Once the articles stand at the start of every prompt, once behind a number of its own, so that no two prompts begin
alike beyond the system message. Rollout workers find a common prefix in vLLM's prefix cache, which new weights empty;
teacher and learner read it once for the samples of a forward pass. Medians over the steps without the first.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks.command import STEPS_ONLY, run_command
from tests.benchmarks.examples import Row, write_rows
from tests.examples import load_examples

NUM_STEPS, BATCH_SIZE, NUM_ARTICLES = 4, 8, 6
SHOWN = (
    "loop/rollout_s",
    "loop/score_s",
    "learner/forward_backward_s",
    "loop/step_s",
    "learner/shared_share",
)


def measure() -> dict[str, Any]:
    """Runs both."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        table = [_row(kind, folder) for kind in ("shared", "distinct")]
    shared, distinct = table
    return {
        "prefix_rollout_ratio": shared["rollout_s"] / distinct["rollout_s"],
        "prefix_step_ratio": shared["step_s"] / distinct["step_s"],
        "prefix_raw": {"tables": {"": table}},
    }


def _row(kind: str, folder: Path) -> dict[str, Any]:
    examples = write_rows(folder / f"{kind}.jsonl", _rows(kind))
    settings = [
        *STEPS_ONLY,
        f"data.source={examples}",
        f"batch_size={BATCH_SIZE}",
        f"num_steps={NUM_STEPS}",
        "rollout.max_new_tokens=8",
        "rollout.kv_cache_gib=0.5",
        "loss.skip_first_tokens=0",
        "learner.zero_stage=0",
    ]
    run = run_command(kind, settings, folder)
    return {"prefix": kind} | {key.partition("/")[2]: run.median(key) for key in SHOWN}


def _rows(kind: str) -> list[Row]:
    facts = load_examples("builtin:facts", "train", {}, "", 0)
    article = "\n\n".join(list(dict.fromkeys(example.text for example in facts))[:NUM_ARTICLES])
    rows = []
    for number, example in enumerate(facts[: NUM_STEPS * BATCH_SIZE]):
        own = "" if kind == "shared" else f"{number}. "
        question = example.prompt[-1].content
        rows.append(
            {
                "id": example.example_id,
                "prompt": [{"role": "user", "content": f"{own}{article}\n\n{question}"}],
                "demonstration": example.demonstration,
            }
        )
    return rows


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
