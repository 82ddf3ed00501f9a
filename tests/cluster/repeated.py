"""What two runs have to agree in, bit for bit."""

import json
from pathlib import Path
from typing import Any

DAMAGED = "loop/damaged_checkpoints"
NOT_REPEATED = {"learner/matmul_share", DAMAGED}  # measured by a clock; told by the start that has found it
COMPARED = ("metrics.jsonl", "samples.jsonl")


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def repeated(path: Path, first_step: int = 0) -> list[dict[str, Any]]:
    """The lines of a file from a step on, without what a clock has measured."""
    return [
        {key: value for key, value in line.items() if not key.endswith("_s") and key not in NOT_REPEATED}
        for line in lines_of(path)
        if line["step"] >= first_step
    ]


def assert_same(run: Path, other: Path, first_step: int = 0, what: str = "") -> None:
    """Holds metrics, samples and exported weights of `run` against those of `other`, bit for bit."""
    for name in COMPARED:
        assert repeated(run / name, first_step) == repeated(other / name, first_step), what
    for name in ("model.safetensors", "config.json"):
        assert (run / "model" / name).read_bytes() == (other / "model" / name).read_bytes(), what
