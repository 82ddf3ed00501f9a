"""`python -m tests.gpu_check.one PART DEVICE FOLDER` measures a part, and writes PART.json, where figures are."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

from tests.gpu_check import runs
from tests.gpu_check.parts import PARTS, Absent, Place


def measure(name: str, place: Place) -> dict[str, Any]:
    """A part's figures, or what is absent."""
    try:
        if PARTS[name].runs:
            return runs.measure(place, PARTS[name].runs)
        figures: dict[str, Any] = importlib.import_module(f"tests.gpu_check.{name}").measure(place)
        return figures
    except Absent as reason:
        return {"absent": str(reason)}


if __name__ == "__main__":
    part, device, folder = sys.argv[1:]
    figures = measure(part, Place(device, Path(folder)))
    (Path(folder) / f"{part}.json").write_text(json.dumps(figures))
