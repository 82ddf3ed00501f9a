"""`python -m tests.gpu_check [light] [device=cpu] [PART ...]` runs all parts or the named ones, and writes the page.

`light` takes those that need torch and transformers alone. Results go to docs/gpu.json and docs/gpu-measured.md, those
of `device=cpu` beside the logs, in runs/gpu-check. The exit code is 0 where every part that could be run has passed, 1
where one has failed, and 2 where none could be run.
"""

import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.processes import ROOT
from tests.gpu_check.machine import read_machine
from tests.gpu_check.page import FIGURES, PAGE, merge, read_results, write
from tests.gpu_check.parts import PARTS, Part, Place, absent
from tests.gpu_check.running import Outcome, run_part


def main(words: Sequence[str]) -> int:
    """The exit code."""
    names = [word for word in words if word not in ("light", "device=cpu")]
    if unknown := sorted(set(names) - set(PARTS)):
        sys.exit(f"there is no part {unknown[0]}: choose from light, device=cpu, {', '.join(PARTS)}")
    chosen = [
        name for name, part in PARTS.items() if (name in names or not names) and (part.is_light or "light" not in words)
    ]
    scratch = ROOT / "runs" / "gpu-check" / time.strftime("%Y%m%d-%H%M%S")
    scratch.mkdir(parents=True)
    place = Place("cpu" if "device=cpu" in words else "cuda", scratch)
    folder = scratch if place.device == "cpu" else ROOT / "docs"
    code = check(chosen, place, folder, read_machine())
    print(f"written: {folder / FIGURES}, {folder / PAGE}; logs: {scratch}")
    return code


def check(
    names: Sequence[str],
    place: Place,
    folder: Path,
    machine: Mapping[str, Any],
    run: Callable[[str, Part, Place], Outcome] = run_part,
) -> int:
    """Runs parts one after the other; the files in `folder` are written after each of them.

    Returns:
        The exit code.
    """
    statuses = []
    for name in names:
        why = absent(PARTS[name], place.device, machine["gpus"], machine["build"])
        outcome = {"status": "not run", "why": why} if why else run(name, PARTS[name], place)
        statuses.append(outcome["status"])
        print(": ".join(word for word in (name, outcome["status"], outcome["why"]) if word), flush=True)
        write(folder, merge(read_results(folder), name, outcome, machine))
    return 1 if "failed" in statuses else 0 if "passed" in statuses else 2


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # the part that runs ends first
    sys.exit(main(sys.argv[1:]))
