"""`python -m tests.gpu_check [light] [device=cpu] [PART ...]` runs all parts or the named ones, and writes the page.

`light` takes those that need torch and transformers alone. Results go to docs/gpu.json and docs/gpu-measured.md, those
of `device=cpu` beside the logs, in runs/gpu-check. The exit code is 0 where every part that could be run has passed, 1
where one has failed, and 2 where none could be run.
"""

import sys
import time
from collections.abc import Sequence

from tests.benchmarks.processes import ROOT
from tests.gpu_check.machine import read_machine
from tests.gpu_check.page import FIGURES, PAGE, merge, read_results, write
from tests.gpu_check.parts import PARTS, Place, absent
from tests.gpu_check.running import run_part


def main(words: Sequence[str]) -> int:
    """The exit code."""
    names = [word for word in words if word not in ("light", "device=cpu")]
    if unknown := sorted(set(names) - set(PARTS)):
        sys.exit(f"there is no part {unknown[0]}: choose from light, device=cpu, {', '.join(PARTS)}")
    chosen = {
        name: part
        for name, part in PARTS.items()
        if (name in names or not names) and (part.is_light or "light" not in words)
    }
    machine = read_machine()
    scratch = ROOT / "runs" / "gpu-check" / time.strftime("%Y%m%d-%H%M%S")
    scratch.mkdir(parents=True)
    place = Place("cpu" if "device=cpu" in words else "cuda", scratch)
    folder = scratch if place.device == "cpu" else ROOT / "docs"
    statuses = []
    for name, part in chosen.items():
        why = absent(part, place.device, machine["gpus"], machine["build"])
        outcome = {"status": "not run", "why": why} if why else run_part(name, part, place)
        statuses.append(outcome["status"])
        print(f"{name}: {outcome['status']} {outcome['why']}".rstrip(), flush=True)
        write(folder, merge(read_results(folder), name, outcome, machine))
    print(f"written: {folder / FIGURES}, {folder / PAGE}; logs: {scratch}")
    return 1 if "failed" in statuses else 0 if "passed" in statuses else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
