"""The examples that are measured with, as JSON Lines files which both this project and its peer read."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.benchmarks.processes import ROOT
from tests.examples import load_examples

# Real data sets that are no part of the project; measurements that want them are skipped where they are absent.
DATA = Path(os.environ.get("SDFT_RAY_DATA") or ROOT.parent / "shared" / "data")
BFCL = DATA / "tooluse" / "train_bfcl.jsonl"

Row = dict[str, Any]  # prompt: chat messages; demonstration: a string


def builtin_rows(name: str, split: str) -> list[Row]:
    """The rows of a built-in set."""
    return [
        {
            "id": example.example_id,
            "prompt": [{"role": message.role, "content": message.content} for message in example.prompt],
            "demonstration": example.demonstration,
        }
        for example in load_examples(f"builtin:{name}", split, {}, "", 0)
    ]


def bfcl_rows(count: int) -> list[Row]:
    """Rows of the function-calling training set, evenly spread over it, since neighbours are alike."""
    lines = BFCL.read_text().splitlines()
    rows = [json.loads(line) for line in lines[:: len(lines) // (count + 1)][:count]]
    return [
        {
            "id": row["name"],
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "demonstration": "\n".join(row["golden_response"]),
        }
        for row in rows
    ]


def write_rows(path: Path, rows: Iterable[Row]) -> Path:
    """Writes them as JSON Lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
