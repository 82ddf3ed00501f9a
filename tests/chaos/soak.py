"""`python -m tests.chaos.soak`: an ordinary run, and what its processes hold in the course of it.

Writes runs/soak/latest.json: by role, memory, open files and threads over the steps. `minutes=N` of training, 30 by
default. The first third teaches nothing: caches fill, and the allocator finds its size.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from tests.cluster.command import ROOT, SETTINGS, users_environment
from tests.tiny import make_tiny_model

OUT = ROOT / "runs" / "soak"
EVERY_S = 5.0
START_TIMEOUT_S, END_TIMEOUT_S = 300.0, 120.0
MIB = 2**20
WARM_SHARE = 1 / 3
MOST_MB_PER_100_STEPS = 1.0
RUN = ["name=run", "num_steps=1000000", "checkpoint_every=50", "learner.schedule=CONSTANT", "loss.skip_first_tokens=0"]
ROLES = {
    "ray::RolloutWorker": "rollout",
    "EngineCore": "engine",
    "ray::TransformersTeacher": "teacher",
    "ray::LearnerWorker": "learner",
    "raylet/raylet": "raylet",
    "gcs_server": "gcs",
}


@dataclass(frozen=True, slots=True)
class Holding:
    """What one process held at one time."""

    step: int
    memory_mib: float  # without what it shares: resident, less shared pages
    num_files: int
    num_threads: int


def slopes(held: Sequence[Holding]) -> dict[str, float]:
    """Growth per 100 steps, by least squares, behind the first third of the steps."""
    first = held[0].step + WARM_SHARE * (held[-1].step - held[0].step)
    kept = [one for one in held if one.step >= first]
    steps = np.array([one.step for one in kept], dtype=float)
    quantities = {
        "mb_per_100_steps": [one.memory_mib * MIB / 1e6 for one in kept],
        "files_per_100_steps": [float(one.num_files) for one in kept],
        "threads_per_100_steps": [float(one.num_threads) for one in kept],
    }
    return {name: round(100 * float(np.polyfit(steps, values, 1)[0]), 3) for name, values in quantities.items()}


def look(job: psutil.Process, step: int, held: dict[str, list[Holding]]) -> None:
    """Adds what every role holds now; the largest of several processes of a role."""
    now: dict[str, Holding] = {}
    for process in [job, *job.children(recursive=True)]:
        try:
            name = " ".join(process.cmdline())
            role = "driver" if process == job else next((ROLES[part] for part in ROLES if part in name), None)
            if role is None:
                continue
            memory = process.memory_info()
            holding = Holding(step, (memory.rss - memory.shared) / MIB, process.num_fds(), process.num_threads())
        except psutil.Error:
            continue
        if role not in now or now[role].memory_mib < holding.memory_mib:
            now[role] = holding
    for role, holding in now.items():
        held[role].append(holding)


def steps_of(metrics: Path) -> int:
    """Steps that the run has taken."""
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0


def run(minutes: float, folder: Path) -> dict[str, list[Holding]]:
    """Trains for that long, and watches.

    Raises:
        RuntimeError: the run ended by itself.
    """
    held: dict[str, list[Holding]] = defaultdict(list)
    command = [sys.executable, "-m", "sdft_ray.launch", *SETTINGS, *RUN, f"runs_dir={folder}"]
    command += [f"model.path={make_tiny_model(folder / 'model', context=1024)}"]
    with (OUT / "output.log").open("w") as log:
        job = subprocess.Popen(command, cwd=ROOT, env=users_environment(), stdout=log, stderr=log)
    metrics, deadline = folder / "run" / "metrics.jsonl", time.monotonic() + START_TIMEOUT_S
    try:
        while not steps_of(metrics) and job.poll() is None and time.monotonic() < deadline:
            time.sleep(1)
        end = time.monotonic() + 60 * minutes
        while time.monotonic() < end and job.poll() is None:
            look(psutil.Process(job.pid), steps_of(metrics), held)
            time.sleep(EVERY_S)
        if job.poll() is not None:
            raise RuntimeError(f"the run ended by itself: {OUT / 'output.log'}")
    finally:
        if job.poll() is None:
            job.send_signal(signal.SIGTERM)
            job.wait(timeout=END_TIMEOUT_S)
    return held


def main(arguments: Sequence[str]) -> int:
    """Runs and writes; 0 where every role's memory is flat."""
    minutes = next((float(argument[8:]) for argument in arguments if argument.startswith("minutes=")), 30.0)
    OUT.mkdir(parents=True, exist_ok=True)
    before = set(os.listdir("/dev/shm"))
    with tempfile.TemporaryDirectory() as folder:
        held = run(minutes, Path(folder))
    by_role: dict[str, Any] = {
        role: slopes(of_role) | {"first": _plain(of_role[0]), "last": _plain(of_role[-1])}
        for role, of_role in held.items()
    }
    result = {
        "slope_mb_per_100_steps": {role: found["mb_per_100_steps"] for role, found in by_role.items()},
        "minutes": minutes,
        "num_steps": max(one.step for of_role in held.values() for one in of_role),
        "roles": by_role,
        "shared_memory_new": len(set(os.listdir("/dev/shm")) - before),
    }
    result["passed"] = all(slope < MOST_MB_PER_100_STEPS for slope in result["slope_mb_per_100_steps"].values())
    (OUT / "latest.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    return 0 if result["passed"] else 1


def _plain(holding: Holding) -> dict[str, float]:
    return {
        "step": holding.step,
        "memory_mib": round(holding.memory_mib, 1),
        "files": holding.num_files,
        "threads": holding.num_threads,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
