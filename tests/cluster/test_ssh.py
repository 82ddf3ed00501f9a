"""A run on two hosts that a real sshd lets in: a Ray node each, the driver on the first, and nothing left behind."""

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


def test_a_run_on_two_hosts_goes_to_its_end_and_one_that_is_stopped_leaves_nothing(folder: str, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    setup = f"target.ssh.setup=['export PYTHONPATH={ROOT} HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1']"
    with two_hosts(tmp_path) as hosts:
        path = os.pathsep.join([str(tmp_path / "bin"), os.environ["PATH"]])
        environment = users_environment(PYTHONPATH=str(ROOT), HF_HUB_OFFLINE="1", PATH=path)
        asked = ["target=ssh", f"target.ssh.hosts={hosts}", f"runs_dir={runs}", "name=ssh"]
        job = [*SETTINGS, *asked, setup, f"target.python={sys.executable}", f"model.path={folder}", "method=sft"]
        job += ["cluster.num_nodes=2", "cluster.object_store_gib=0.2", "checkpoint_every=1000"]

        def sdft(*overrides: str) -> tuple[int, str]:
            command = [sys.executable, "-m", "sdft_ray.launch", *overrides]
            done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=500)
            return done.returncode, done.stdout + done.stderr

        code, said = sdft("mode=check", *job)
        assert code == 0 and said.count("reached      ") == 2 and "is not one folder" not in said, said
        code, said = sdft("mode=submit", *job, "num_steps=2")
        assert code == 0 and said.count("step 2/2") == 1, said
        assert (runs / "ssh" / "summary.json").is_file()
        first = (runs / ".jobs" / "ssh" / "id").read_text()
        assert sdft("mode=stop", *asked)[0] == 0
        assert left_of(first) == [] and not list(Path("/tmp").glob(f"sdft-{first}-*"))

        code, said = sdft("mode=submit", *job, "num_steps=100000", "target.watch=false")
        assert code == 0, said
        second = (runs / ".jobs" / "ssh" / "id").read_text()
        log = runs / ".jobs" / "ssh" / "host-0.log"
        deadline = time.monotonic() + 300
        while "step 4/" not in log.read_text():
            assert time.monotonic() < deadline and sdft("mode=status", *asked)[0] >= JobState.WAITING.value, (
                log.read_text()
            )
            time.sleep(0.5)
        assert sdft("mode=stop", *asked)[0] == 0
        assert left_of(second) == [] and not list(Path("/tmp").glob(f"sdft-{second}-*"))
        (kept,) = (runs / ".jobs").glob(f"ssh-{second}")
        assert "SIGTERM        ending with a checkpoint behind this step" in (kept / "host-0.log").read_text()
        assert sdft("mode=status", *asked)[0] == JobState.MISSING.value
