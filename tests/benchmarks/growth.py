"""How a step grows, one size at a time, on a small network with random weights (4 layers, hidden size 256).

Every row is a run of the command on this machine's CPU: 4 steps, their median without the first, and the peak memory
of all workers together. The exponent is the slope of a straight line through the logarithms: 1 is growth in proportion.
Memory starts from what the processes hold without a model, so its exponent tends to 0 as long as that dominates.
"""

import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.command import STEPS_ONLY, run_command
from tests.benchmarks.examples import builtin_rows, write_rows
from tests.tiny import make_tiny_model

NUM_STEPS = 4
HIDDEN_SIZE, NUM_LAYERS = 256, 4
BASE = {"sequence": 128, "batch": 8, "vocabulary": 8192, "actors": 1}
SIZES = {
    "sequence": (32, 128, 512),  # completion tokens; prompts have about 30
    "batch": (2, 8, 32),  # samples a step
    "vocabulary": (1024, 8192, 65_536),  # rows of the head, all of which count
    "actors": (1, 2, 3),  # rollout workers on the same cores
}
ZERO_STAGES = (0, 1, 2, 3)  # with two learner ranks
MEASURED = ("step_s", "memory_gib")


def measure(names: Sequence[str] = (*SIZES, "zero_stage")) -> dict[str, Any]:
    """Grows the named sizes; a run that several of them need is run once."""
    with tempfile.TemporaryDirectory() as scratch:
        runs = _Runs(Path(scratch))
        rows, exponents = [], []
        for name in names:
            if name == "zero_stage":
                settings = ["cluster.learner.num_workers=2", "cluster.learner.threads_per_worker=1"]
                for stage in ZERO_STAGES:
                    rows.append(
                        {"grows": name, "size": stage, **runs.run(BASE, f"learner.zero_stage={stage}", *settings)}
                    )
                continue
            grown = [{"grows": name, "size": size, **runs.run(BASE | {name: size})} for size in SIZES[name]]
            exponents.append({"grows": name} | {f"{key}_exponent": exponent(grown, key) for key in MEASURED})
            rows += grown
    return {"growth_raw": {"tables": {"": rows, "Exponents": exponents}}}


def exponent(rows: Sequence[dict[str, Any]], key: str) -> float:
    """The b of the fit key = a * size^b."""
    sizes, values = ([math.log(row[name]) for row in rows] for name in ("size", key))
    return float(np.polyfit(sizes, values, 1)[0])


class _Runs:
    """Runs of the command by their settings."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._done: dict[tuple[str, ...], dict[str, float]] = {}
        self._examples = write_rows(folder / "examples.jsonl", builtin_rows("facts", "train"))

    def run(self, sizes: dict[str, int], *more: str) -> dict[str, float]:
        """`step_s` and `memory_gib` of the run of these sizes."""
        settings = (
            *STEPS_ONLY,
            f"model.path={self._model(sizes['vocabulary'])}",
            f"data.source={self._examples}",
            f"batch_size={sizes['batch']}",
            f"num_steps={NUM_STEPS}",
            f"rollout.max_new_tokens={sizes['sequence']}",
            "rollout.kv_cache_gib=0.25",
            f"cluster.rollout.num_workers={sizes['actors']}",
            "cluster.rollout.threads_per_worker=1",
            "learner.zero_stage=0",
            *more,
        )
        if settings not in self._done:
            run = run_command(f"run-{len(self._done)}", settings, self._folder)
            memory = sum(role["sum"] for role in run.summary["peak_memory_gib"].values())
            self._done[settings] = {"step_s": run.median("loop/step_s"), "memory_gib": memory}
        return self._done[settings]

    def _model(self, num_vocab: int) -> str:
        """A network whose tokenizer has that many entries."""
        folder = self._folder / f"model-{num_vocab}"
        if not folder.exists():
            make_tiny_model(folder, vocab=num_vocab, hidden=HIDDEN_SIZE, layers=NUM_LAYERS, context=1024)
            path = folder / "tokenizer.json"
            tokenizer = json.loads(path.read_text())
            vocabulary = tokenizer["model"]["vocab"]
            vocabulary |= {f"unused{row}": row for row in range(len(vocabulary), num_vocab)}
            path.write_text(json.dumps(tokenizer))
        return str(folder)


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
