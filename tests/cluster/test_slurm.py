"""A run as a batch job of a real Slurm: two nodes, a preemption in the middle, and the same job again to its end."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from sdft_ray.targets.jobs import JobState
from tests.cluster.command import ROOT, SETTINGS, users_environment
from tests.cluster.slurm import slurm

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def site() -> Iterator[None]:
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, slurm(Path(folder)):
        yield


def sdft(*overrides: str) -> list[str]:
    return [sys.executable, "-m", "sdft_ray.launch", "target=slurm", *overrides]


def ask(*overrides: str) -> tuple[int, str]:
    done = subprocess.run(sdft(*overrides), env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=200)
    return done.returncode, done.stdout + done.stderr


def environment() -> dict[str, str]:
    return users_environment(PYTHONPATH=str(ROOT), HF_HUB_OFFLINE="1", SLURM_CONF=os.environ["SLURM_CONF"])


def job(name: str, folder: str, runs: Path, *overrides: str) -> list[str]:
    given = [
        f"name={name}",
        f"runs_dir={runs}",
        f"model.path={folder}",
        "method=sft",
        f"target.python={sys.executable}",
    ]
    return [
        *SETTINGS,
        *given,
        "cluster.num_nodes=2",
        "cluster.object_store_gib=0.2",
        "checkpoint_every=100",
        *overrides,
    ]


def wait_for(text: str, log: Path, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 400
    while text not in log.read_text():
        assert time.monotonic() < deadline and process.poll() is None, log.read_text()
        time.sleep(0.2)


def preempt(log: Path, submitter: "subprocess.Popen[bytes]") -> None:
    """Has a job of a higher priority take the nodes, and spares the two minutes that Slurm then waits."""
    urgent = ["sbatch", "--parsable", "--partition=high", "--nodes=2", f"--output={log}.urgent", "--wrap=sleep 1"]
    subprocess.run(urgent, check=True, env=environment())
    wait_for("Slurm says PENDING; BeginTime", log, submitter)
    queued = subprocess.run(["squeue", "--noheader", "--states=PENDING", "--format=%A"], capture_output=True, text=True)
    subprocess.run(["scontrol", "update", f"JobId={queued.stdout.strip()}", "StartTime=now"], check=True)


def start(log: Path, *settings: str) -> "subprocess.Popen[bytes]":
    with log.open("w") as file:
        return subprocess.Popen(sdft("mode=submit", *settings), env=environment(), cwd=ROOT, stdout=file, stderr=file)


# Stands in for the interpreter: the script's own part of a preemption, without a Ray behind it. The driver takes five
# seconds for its checkpoint, during which the other processes of the job have to be left alone.
COUNTING = """#!/bin/bash
case "$2" in
ray.scripts.scripts) exec sleep 1000;;
sdft_ray.targets.nodes) [ -e "$0.alone" ] && echo $$ > "$0.waits" && exec sleep 1000; exit 0;;
esac
state="$(dirname "${3#--run-file=}")/count"; number=$(cat "$state" 2>/dev/null || echo 0)
[ $number = 0 ] || echo "goes on behind line $number"
trap 'sleep 5; pgrep --full --count "sleep 1000" > "$state.processes"; echo $number > "$state"; exit 143' TERM
while (( number < 20 )); do number=$((number+1)); echo "line $number"; sleep 1 & wait $!; done
"""


def counting(name: str, folder: Path) -> list[str]:
    program = folder / "python"
    program.write_text(COUNTING)
    program.chmod(0o755)
    given = [f"name={name}", f"runs_dir={folder}", f"target.python={program}"]
    return ["+cluster=local", "cluster.num_nodes=2", *given]


def test_the_script_has_the_driver_end_first_and_queues_the_job_again(site: None, tmp_path: Path) -> None:
    settings = counting("counted", tmp_path)
    log = tmp_path / "submitter.log"
    submitter = start(log, *settings)
    wait_for("line 3\n", log, submitter)
    assert ask("mode=status", "name=counted", f"runs_dir={tmp_path}")[0] == JobState.RUNNING.value
    code, said = ask("mode=submit", *settings, "batch_size=2")
    assert code == 1 and "is taken by a job with other settings: batch_size=2 (there 16)" in said
    preempt(log, submitter)
    assert submitter.wait(timeout=120) == 0, log.read_text()
    lines = [line for line in log.read_text().splitlines() if line.startswith("line ")]
    assert lines == [f"line {number}" for number in range(1, 21)], "none is lost, none comes twice"
    assert "goes on behind line" in log.read_text()
    assert int((tmp_path / ".jobs" / "counted" / "count.processes").read_text()) >= 2, "Ray outlives the driver's step"
    code, said = ask("mode=submit", *settings)
    assert code == 0 and "attached to" in said, "a job that has ended is told of, and not begun anew"


@pytest.mark.skipif(
    "SDFT_SLURM_TRAINING" not in os.environ, reason="takes three minutes of a quiet machine: set SDFT_SLURM_TRAINING=1"
)
def test_a_preempted_run_writes_a_checkpoint_and_goes_on(site: None, folder: str, tmp_path: Path) -> None:
    log = tmp_path / "submitter.log"
    submitter = start(log, *job("preempted", folder, tmp_path, "num_steps=400"))
    wait_for("step 3/400", log, submitter)
    preempt(log, submitter)
    assert submitter.wait(timeout=500) == 0, log.read_text()
    said = log.read_text()
    assert "SIGTERM        ending with a checkpoint behind this step" in said
    assert said.count("step 400/400") == 1
    assert (tmp_path / "preempted" / "summary.json").is_file()
    lines = [json.loads(line) for line in (tmp_path / "preempted" / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "learner/loss" in line]
    assert steps == list(range(1, 401)), "no step is done twice"


def test_a_stopped_job_leaves_its_log_and_frees_its_name(site: None, folder: str, tmp_path: Path) -> None:
    settings = job("stopped", folder, tmp_path, "num_steps=100000")
    code, said = ask("mode=submit", "target.watch=false", *settings)
    assert code == 0, said
    code, said = ask("mode=stop", "name=stopped", f"runs_dir={tmp_path}")
    assert code == 0 and "its name is free" in said
    assert ask("mode=status", "name=stopped", f"runs_dir={tmp_path}")[0] == JobState.MISSING.value
    (kept,) = (tmp_path / ".jobs").glob("stopped-*")
    assert (kept / "run.yaml").is_file()


def test_a_job_without_a_driver_yet_is_stopped(site: None, tmp_path: Path) -> None:
    settings = counting("alone", tmp_path)
    (tmp_path / "python.alone").touch()
    assert ask("mode=submit", "target.watch=false", *settings)[0] == 0
    while ask("mode=status", *settings[2:])[0] != JobState.RUNNING.value or not (tmp_path / "python.waits").exists():
        time.sleep(1)
    started = time.monotonic()
    assert ask("mode=stop", *settings[2:])[0] == 0
    assert time.monotonic() - started < 100, "the signal was heard, and no time limit was waited for"
    (kept,) = (tmp_path / ".jobs").glob("alone-*")
    assert (kept / "exit_code").read_text().strip() == "143"
    deadline = time.monotonic() + 10
    with suppress(psutil.NoSuchProcess):
        waits = psutil.Process(int((tmp_path / "python.waits").read_text()))
        while waits.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline, "what waited for nodes goes on"
            time.sleep(0.1)


def test_a_driver_that_does_not_hear_is_killed_behind_its_grace(site: None, tmp_path: Path) -> None:
    settings = counting("deaf", tmp_path)
    handler = next(line for line in COUNTING.splitlines() if line.startswith("trap "))
    (tmp_path / "python").write_text(COUNTING.replace(handler, "trap '' TERM"))
    log = tmp_path / "submitter.log"
    submitter = start(log, *settings, "target.slurm.grace_s=3")
    wait_for("line 2\n", log, submitter)
    assert ask("mode=stop", "target.slurm.grace_s=3", *settings[2:])[0] == 0
    assert submitter.wait(timeout=100) == JobState.STOPPED.value, log.read_text()


def test_asked_from_a_machine_without_slurm_the_missing_program_is_named(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", "none")
    command = sdft("mode=submit", *job("nowhere", folder, tmp_path))
    bare = users_environment(PYTHONPATH=str(ROOT), PATH=str(tmp_path))
    done = subprocess.run(command, env=bare, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 1
    assert "squeue is not installed, or not on the PATH" in done.stderr
