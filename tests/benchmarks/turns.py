"""Memory and seconds of a step where the roles take turns (`cluster.turns=true`), beside the same run without turns.

SmolLM2-135M on this machine's CPU, made-up facts, 16 samples a step of up to 128 tokens. Memory is that of all
processes together, Ray's among them, a shared page counted once, at its highest between the first step's end and the
last one's. Starting and export are left out: they hold one network more, with turns or without. On a CPU sleeping gives
back the KV cache, gradients and what allocators have kept. Weights stay: workers map the learner's own, and what vLLM
has packed for its kernels cannot leave. On a GPU, where weights leave as well, nothing was measured.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.command import STEPS_ONLY
from tests.benchmarks.examples import builtin_rows, write_rows
from tests.benchmarks.processes import GIB, ROOT, family

NUM_STEPS = 5
SAMPLE_EVERY_S = 0.1
SETTINGS = ("batch_size=16", f"num_steps={NUM_STEPS}", "rollout.max_new_tokens=128", "learner.zero_stage=0")


def measure() -> dict[str, Any]:
    """Both runs, one after the other."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        examples = write_rows(folder / "examples.jsonl", builtin_rows("facts", "train"))
        rows = [
            run(name, (*STEPS_ONLY, *SETTINGS, f"data.source={examples}", f"cluster.turns={turns}"), folder)
            for name, turns in (("all at once", "false"), ("in turns", "true"))
        ]
    plain, turned = rows
    return {
        "turns_memory_ratio": turned["memory_gib"] / plain["memory_gib"],
        "turns_step_ratio": turned["step_s"] / plain["step_s"],
        "turns_loss_difference": max(abs(a - b) for a, b in zip(plain["losses"], turned["losses"], strict=True)),
        "turns_raw": {"tables": {"": [{key: row[key] for key in row if key != "losses"} for row in rows]}},
    }


def run(name: str, settings: tuple[str, ...], folder: Path) -> dict[str, Any]:
    """Runs the command; its memory between the first step and the last, and its steps' median without the first."""
    run_name = name.replace(" ", "-")
    command = [sys.executable, "-m", "sdft_ray.launch", *settings, f"runs_dir={folder}", f"name={run_name}"]
    metrics, log, peaks = folder / run_name / "metrics.jsonl", folder / f"{run_name}.log", [0]
    with log.open("w") as output:
        process = psutil.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        while process.poll() is None:
            if 0 < len(steps_of(metrics)) < NUM_STEPS:
                peaks.append(sum(map(proportional_size, family(process))))
            time.sleep(SAMPLE_EVERY_S)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{log.read_text()[-3000:]}")
    steps = steps_of(metrics)
    return {
        "run": name,
        "memory_gib": max(peaks) / GIB,
        "step_s": statistics.median(step["loop/step_s"] for step in steps[1:]),
        "change_s": statistics.median(step.get("turns/change_s", 0.0) for step in steps[1:]),
        "samples_of_memory": len(peaks) - 1,
        "losses": [step["learner/loss"] for step in steps],
    }


def steps_of(metrics: Path) -> list[dict[str, Any]]:
    """The lines of steps that a run has written so far."""
    text = metrics.read_text() if metrics.exists() else ""
    lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return [line for line in lines if "loop/step_s" in line]


def proportional_size(process: psutil.Process) -> int:
    """Bytes in which a page that n processes share counts as an nth; none of a process that has ended."""
    try:
        return int(process.memory_full_info().pss)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
