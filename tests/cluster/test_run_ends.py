"""However a run ends: on a Ray of its own, whose whole tree of processes has to go."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from sdft_ray.learner.checkpoint import complete_checkpoints
from tests.cluster.command import ROOT, SETTINGS, users_environment

pytestmark = pytest.mark.cluster


def test_gpus_that_are_not_there_are_refused_within_seconds(folder: str, tmp_path: Path) -> None:
    """On a Ray of its own, which has none."""
    started = time.monotonic()
    command = [sys.executable, "-m", "sdft_ray.launch", *SETTINGS[1:-3], "+cluster=8xA100", "name=gpus"]
    command += [f"model.path={folder}", f"runs_dir={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, env=users_environment(), capture_output=True, text=True, timeout=200)
    assert done.returncode == 1
    last = done.stderr.rstrip().splitlines()[-1]
    assert last.startswith("error: cluster=8xA100 needs 8 GPUs, this Ray cluster has 0; use +cluster=local")
    assert time.monotonic() - started < 90
    assert not (tmp_path / "gpus").exists(), "the name is free"


def stop(job: subprocess.Popen[bytes], how: signal.Signals) -> None:
    job.send_signal(how)


def kill(job: subprocess.Popen[bytes], process_name: str) -> None:
    """Ends one process of the job's tree at once, as the kernel does when memory runs out."""
    victims = [
        process
        for process in psutil.Process(job.pid).children(recursive=True)
        if process_name in " ".join(process.cmdline())
    ]
    assert victims, process_name
    victims[0].kill()


PLANTED = {"WANDB_API_KEY": "5ec2e7c0de" * 4, "HF_TOKEN": "hf_planted5ecret", "A_JUDGES_KEY": "sk-planted-5ecret"}
READ = [  # all three: offline, wandb looks for its key as well
    "tracking.wandb=offline",
    "+evaluation.sets.open.source='builtin:facts:taught[:1]'",
    "+evaluation.sets.open.match=JUDGE",
    "evaluation.judge.endpoint=http://127.0.0.1:9/v1",
    "evaluation.judge.model=nobody",
    "evaluation.judge.max_retries=0",
    "evaluation.judge.api_key_variable=A_JUDGES_KEY",
]
ONLY_A_LEARNER = ["method=sft"]  # starts in a quarter of the time
ENDS = {
    "Ctrl-C": (READ, lambda job: stop(job, signal.SIGINT), 130, "error: interrupted"),
    "dead engine": (
        ["faults.max_restarts=0", "checkpoint_every=100000"],
        lambda job: kill(job, "VLLM::EngineCore"),
        1,
        "error: No rollout worker is left, and faults.max_restarts=0 within an hour are used up.",
    ),
    "SIGTERM to the whole process group": (
        [*ONLY_A_LEARNER, "checkpoint_every=100000"],
        lambda job: os.killpg(job.pid, signal.SIGTERM),
        143,
        "error: terminated",
    ),
    "dead raylet": (
        [*ONLY_A_LEARNER, "checkpoint_every=5"],
        lambda job: kill(job, "raylet/raylet"),
        1,
        "error: Ray's raylet on this machine has died",
    ),
    "dead learner": (
        [*ONLY_A_LEARNER, "faults.learner_restarts=0"],
        lambda job: kill(job, "ray::Learner"),
        1,
        "was lost: its process has died",
    ),
}


@pytest.mark.parametrize("end", ENDS)
def test_however_a_run_ends_it_leaves_no_process_behind_and_says_why_once(
    folder: str, tmp_path: Path, end: str
) -> None:
    """On a Ray of its own: the whole tree of processes has to go."""
    settings, act, code, said = ENDS[end]
    command = [sys.executable, "-m", "sdft_ray.launch", *SETTINGS, f"model.path={folder}", f"runs_dir={tmp_path}"]
    command += ["name=ended", "num_steps=100000", "checkpoint_every=0", f"evaluation.judge.cache_dir={tmp_path}/judge"]
    command += settings
    log = tmp_path / "output.log"
    with log.open("w") as output:
        # A test run in the background ignores SIGINT, and what it starts would inherit that.
        heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        job = subprocess.Popen(
            command,
            cwd=ROOT,
            env=users_environment(**PLANTED),
            stdout=output,
            stderr=output,
            preexec_fn=heed,
            process_group=0,
        )
        try:
            metrics = tmp_path / "ended" / "metrics.jsonl"
            wait_until(lambda: last_step(metrics) > 0 or job.poll() is not None, 300)
            assert job.poll() is None, log.read_text()
            tree = psutil.Process(job.pid).children(recursive=True)
            session = session_folder(tree)
            act(job)
            assert job.wait(timeout=120) == code, log.read_text()
        finally:
            job.terminate()  # where an assertion failed it still runs; it ends its own tree
            job.wait(timeout=60)
    wait_until(lambda: not [process for process in tree if is_alive(process)], 30)
    assert not [process for process in tree if is_alive(process)]
    text = log.read_text()
    if "checkpoint_every=100000" in settings:
        last = last_step(metrics)
        assert complete_checkpoints(tmp_path / "ended" / "checkpoints") == [
            tmp_path / "ended" / "checkpoints" / f"step-{last:06}"
        ]
        assert f"stopped        behind step {last}, with a checkpoint of it" in text
    assert text.count("error: ") == 1
    assert said in text.rstrip().split("\n\n")[-1]
    assert settings is not READ or "open unscored" in text, "the judge's key was used"
    assert (session / "logs" / "raylet.out").is_file()
    assert holding_a_secret(tmp_path) == holding_a_secret(session) == []


def session_folder(tree: list[psutil.Process]) -> Path:
    """That of the Ray of a run, with its logs."""
    arguments = [argument for process in tree for argument in process.cmdline()]
    return Path(next(each.partition("=")[2] for each in arguments if each.startswith("--session_dir=")))


def holding_a_secret(folder: Path) -> list[tuple[str, str]]:
    """The files below a folder that hold a planted value, each with the name of its variable."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [
        (str(path), name) for path in files for name, value in PLANTED.items() if value.encode() in path.read_bytes()
    ]


def last_step(metrics: Path) -> int:
    """Of the last whole line; an evaluation before training has step 0, and leaves nothing to save."""
    whole = metrics.read_text().split("\n")[:-1] if metrics.exists() else []
    return int(json.loads(whole[-1])["step"]) if whole else 0


def is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def wait_until(condition: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.5)
