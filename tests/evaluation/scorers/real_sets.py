"""Real data sets, which are not part of the project."""

import os
from pathlib import Path

import pytest

from sdft_ray.examples import Example
from tests.examples import load_examples

SHARED = Path(os.environ.get("SDFT_RAY_DATA") or Path(__file__).parents[4] / "shared" / "data")


def real_rows(name: str, **columns: str) -> list[Example]:
    """The rows of a file of the shared folder; skips the test where it is absent."""
    path = SHARED / f"{name}.jsonl"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return load_examples(str(path), "test", columns, "", 0, required=("prompt",))
