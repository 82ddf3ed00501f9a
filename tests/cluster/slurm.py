"""A Slurm of two nodes on this machine, from Debian's packages: munged, slurmctld and two slurmd of the tests' own."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.cluster.command import free_ports

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/linear
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
MinJobAge=600
ReturnToService=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
MpiDefault=none
JobRequeue=1
KillWait=5
NodeName=one NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=64 State=UNKNOWN
NodeName=two NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=64 State=UNKNOWN
PartitionName=low Nodes=one,two Default=YES PriorityTier=1 GraceTime=120 State=UP
PartitionName=high Nodes=one,two PriorityTier=10 PreemptMode=OFF State=UP
"""


@contextmanager
def slurm(folder: Path) -> Iterator[None]:
    """Slurm with `SLURM_CONF` set for its commands; skips where its programs are not installed."""
    if missing := [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]:
        pytest.skip(f"Slurm is not installed (no {', '.join(missing)}); Debian's slurm-wlm and munge have it")
    if os.geteuid() != 0:
        pytest.skip("Slurm's own processes are started as root")
    folder.chmod(0o755)
    (folder / "state").mkdir()
    configuration = folder / "slurm.conf"
    configuration.write_text(CONFIGURATION.format(folder=folder, host=socket.gethostname(), ports=free_ports(3)))
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o400)
    environment = os.environ | {"PATH": _path(), "SLURM_CONF": str(configuration)}
    munge = ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", f"--key-file={folder}/munge.key"]
    munge += [f"--pid-file={folder}/munge.pid", f"--log-file={folder}/munge.log", f"--seed-file={folder}/munge.seed"]
    commands = [munge, ["slurmctld", "-D", "-c"], ["slurmd", "-D", "-N", "one"], ["slurmd", "-D", "-N", "two"]]
    processes: list[subprocess.Popen[bytes]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(configuration))
        patch.setenv("PATH", _path())
        try:
            for command in commands:
                log = (folder / f"{command[0]}-{command[-1]}.out".replace("/", "_")).open("w")
                processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
                time.sleep(1)
            _wait_until_idle(folder)
            yield
        finally:
            subprocess.run(["scancel", "--user=root"], capture_output=True)
            _wait_until_empty()
            for process in reversed(processes):
                tree = psutil.Process(process.pid).children(recursive=True)
                process.terminate()
                process.wait(timeout=30)
                for child in psutil.wait_procs(tree, timeout=10)[1]:
                    child.kill()


def _path() -> str:
    return os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])


def _wait_until_idle(folder: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        said = subprocess.run(
            ["sinfo", "--noheader", "--partition=low", "--format=%T %D"], capture_output=True, text=True
        )
        if said.stdout.strip() == "idle 2":
            return
        time.sleep(1)
    logs = "\n".join(path.read_text()[-2000:] for path in folder.glob("*.log"))
    raise AssertionError(f"Slurm has not started: {said.stdout}{said.stderr}\n{logs}")


def _wait_until_empty() -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if not subprocess.run(["squeue", "--noheader"], capture_output=True, text=True).stdout.strip():
            return
        time.sleep(1)
