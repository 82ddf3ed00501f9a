"""What a check is run on: asked in another process, since one that has asked keeps memory on the GPU."""

import json
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

from tests.benchmarks.results import origin

ASKING = """
import json, torch
gpus = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
print(json.dumps({
    "gpus": [f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB" for gpu in gpus],
    "cuda": torch.version.cuda,
    "build": torch.__version__,
}))
"""


def read_machine() -> dict[str, Any]:
    """`gpus`, `cuda` and `build` as torch has them, and what `benchmarks.results.origin` says."""
    facts: dict[str, Any] = {"gpus": [], "cuda": None, "build": ""}
    if find_spec("torch"):
        asked = subprocess.run([sys.executable, "-c", ASKING], check=True, stdout=subprocess.PIPE, text=True)
        facts = json.loads(asked.stdout.splitlines()[-1])
    return origin() | facts
