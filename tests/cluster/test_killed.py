"""A run that is killed with all its processes, twice, and loses a checkpoint, ends where the undisturbed one does.

Rollouts are sampled by vLLM and scored by a teacher with EMA weights, so all that can be resumed is. Supervised methods
take the same way with fewer parts.
"""

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from sdft_ray.learner.checkpoint import complete_checkpoints
from tests.cluster.command import ROOT, SETTINGS, users_environment
from tests.cluster.repeated import DAMAGED, assert_same, lines_of

pytestmark = pytest.mark.cluster

NUM_STEPS = 12
RUN = [
    "method=sdft",
    "deterministic=true",
    f"num_steps={NUM_STEPS}",
    "checkpoint_every=2",
    "tracking.num_samples=4",
    "tracking.wandb=offline",
]


def test_a_run_killed_twice_at_any_moment_is_the_undisturbed_run_bit_for_bit(
    folder: str, tmp_path: Path, launch: Callable[..., Any]
) -> None:
    undisturbed, _ = launch("undisturbed", *RUN)
    generator = random.Random(time.time_ns())  # another moment every time; what was drawn is in the message
    killed_behind = [generator.randint(1, 4), generator.randint(5, NUM_STEPS - 4)]
    pauses_s = [generator.uniform(0.0, 0.2) for _ in killed_behind]
    drawn = f"killed behind steps {killed_behind}, {pauses_s} s later"
    for num_checkpoints, num_steps, pause_s in zip((0, 2), killed_behind, pauses_s, strict=True):
        kill_behind(num_steps, num_checkpoints, pause_s, folder, tmp_path)
    killed = tmp_path / "killed"
    *_, sound, newest = complete_checkpoints(killed / "checkpoints")
    flip_a_bit(newest / "rank-0.safetensors")
    run, log = start(folder, tmp_path, wait=True)
    output = log.read_text()
    assert run.returncode == 0, output
    assert f"damaged        {newest}/rank-0.safetensors is damaged" in output
    assert f"resumed        {sound}" in output
    assert sum(line.get(DAMAGED, 0.0) for line in lines_of(killed / "metrics.jsonl")) == 1.0
    assert_same(killed, undisturbed, what=drawn)
    wandb_ids = {path.name.rpartition("-")[2] for path in (killed / "wandb").glob("offline-run-*")}
    # Killed before its first checkpoint, at step 2, the run begins again, and so does its history.
    assert len(wandb_ids) == 1 or (len(wandb_ids) == 2 and killed_behind[0] <= 2), drawn


def start(model: str, runs: Path, *, wait: bool) -> tuple[subprocess.Popen[bytes], Path]:
    """The command, on a Ray of its own."""
    log = runs / "output.log"
    command = [sys.executable, "-m", "sdft_ray.launch", *SETTINGS, *RUN, f"model.path={model}", f"runs_dir={runs}"]
    with log.open("w") as output:
        command += ["name=killed", "resume=auto"]
        job = subprocess.Popen(command, cwd=ROOT, env=users_environment(), stdout=output, stderr=output)
    if wait:
        job.wait(timeout=300)
    return job, log


def kill_behind(num_steps: int, num_checkpoints: int, pause_s: float, model: str, runs: Path) -> None:
    """Starts the run, and kills every process of it behind a step, once it has left that many checkpoints."""
    job, log = start(model, runs, wait=False)
    metrics, deadline = runs / "killed" / "metrics.jsonl", time.monotonic() + 300
    saved = runs / "killed" / "checkpoints"
    while job.poll() is None and time.monotonic() < deadline:
        if num_lines(metrics) >= num_steps and len(complete_checkpoints(saved)) >= num_checkpoints:
            break
        time.sleep(0.005)
    time.sleep(pause_s)
    tree = [psutil.Process(job.pid), *psutil.Process(job.pid).children(recursive=True)] if job.poll() is None else []
    for process in tree:
        process.kill()
    psutil.wait_procs(tree, timeout=60)
    assert job.wait(timeout=60) in (-9, 0), log.read_text()


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def num_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0
