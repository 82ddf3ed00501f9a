"""`python -m tests.gpu_check.one PART DEVICE FOLDER` measures a part, and writes PART.json, where figures are."""

import importlib
import json
import sys
from pathlib import Path

from tests.gpu_check import runs
from tests.gpu_check.parts import PARTS, Absent, Place

if __name__ == "__main__":
    name, device, folder = sys.argv[1:]
    scratch = Path(folder)
    try:
        if PARTS[name].runs:
            outcome = runs.measure(Place(device, scratch), PARTS[name].runs)
        else:
            outcome = importlib.import_module(f"tests.gpu_check.{name}").measure(Place(device, scratch))
    except Absent as reason:
        outcome = {"absent": str(reason)}
    (scratch / f"{name}.json").write_text(json.dumps(outcome))
