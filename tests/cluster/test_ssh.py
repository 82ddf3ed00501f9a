"""A run on two hosts that a real sshd lets in: a Ray node at each one's address, and nothing left behind."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sdft_ray.targets.jobs import JobState
from tests.cluster.command import ROOT, SETTINGS, users_environment
from tests.cluster.sshd import two_hosts

pytestmark = pytest.mark.cluster


def left_of(mark: str) -> list[str]:
    """The processes whose environment has this mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("SDFT_RAY_JOB", "").startswith(mark):
                found.append(" ".join(process.cmdline()))
        except psutil.Error:  # it has ended meanwhile, or is another user's
            continue
    return found


def node_addresses(mark: str) -> set[str]:
    """At which the raylets of a job listen."""
    raylets = [line for line in left_of(mark) if "raylet/raylet" in line]
    return {word.split("=", 1)[1] for line in raylets for word in line.split() if word.startswith("--node_ip_address=")}


def test_a_run_on_two_hosts_is_followed_until_it_is_stopped_and_leaves_nothing(folder: str, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    setup = f"target.ssh.setup=['export PYTHONPATH={ROOT} HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1']"
    with two_hosts(tmp_path) as hosts:
        path = os.pathsep.join([str(tmp_path / "bin"), os.environ["PATH"]])
        environment = users_environment(PYTHONPATH=str(ROOT), HF_HUB_OFFLINE="1", PATH=path)
        asked = ["target=ssh", f"target.ssh.hosts={hosts}", f"runs_dir={runs}", "name=ssh"]
        job = [*SETTINGS, *asked, setup, f"target.python={sys.executable}", f"model.path={folder}", "method=sft"]
        job += ["cluster.num_nodes=2", "cluster.object_store_gib=0.2", "checkpoint_every=1000", "num_steps=100000"]

        def command(*overrides: str) -> list[str]:
            return [sys.executable, "-m", "sdft_ray.launch", *overrides]

        def sdft(*overrides: str) -> tuple[int, str]:
            given = command(*overrides)
            done = subprocess.run(given, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=500)
            return done.returncode, done.stdout + done.stderr

        code, said = sdft("mode=check", *job)
        assert code == 0 and said.count("reached      ") == 2 and "is not one folder" not in said, said
        followed = tmp_path / "followed"
        with followed.open("w") as file:
            follower = subprocess.Popen(
                command("mode=submit", *job), env=environment, cwd=ROOT, stdout=file, stderr=file
            )
        deadline = time.monotonic() + 400
        while "step 4/" not in followed.read_text():
            assert time.monotonic() < deadline and follower.poll() is None, followed.read_text()
            time.sleep(0.5)
        assert sdft("mode=status", *asked)[0] == JobState.RUNNING.value
        mark = (runs / ".jobs" / "ssh" / "id").read_text()
        nodes = {line.split("=", 1)[1] for line in hosts.read_text().split() if line.startswith("address=")}
        assert node_addresses(mark) == nodes
        assert sdft("mode=stop", *asked)[0] == 0
        assert follower.wait(timeout=60) == JobState.STOPPED.value, followed.read_text()
        assert left_of(mark) == [] and not list(Path("/tmp").glob(f"sdft-{mark}-*"))
        (kept,) = (runs / ".jobs").glob(f"ssh-{mark}")
        assert "SIGTERM        ending with a checkpoint behind this step" in (kept / "host-0.log").read_text()
        assert (runs / "ssh" / "checkpoints").is_dir()
        assert sdft("mode=status", *asked)[0] == JobState.MISSING.value
