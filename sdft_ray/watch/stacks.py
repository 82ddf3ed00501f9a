"""The stacks of a run's processes on one machine, as py-spy reads them from outside; nothing in them has to answer.

A process belongs to a run by its environment (`cluster/environment.py`), which the processes of an engine inherit from
their worker. The driver is known by its id. A process is paused for milliseconds.
"""

import getpass
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from sdft_ray.cluster.environment import RUN, WORKER

TIMEOUT_S = 20.0  # of py-spy with one process
DENIED = ("Permission Denied", "Operation not permitted", "EPERM")
SCOPE = Path("/proc/sys/kernel/yama/ptrace_scope")
NO_PY_SPY = "py-spy is not in the environment of this node's Python, though ray[default] brings it: install it there"


@dataclass(frozen=True, kw_only=True, slots=True)
class Thread:
    """One thread of a process."""

    name: str
    state: str  # "idle", "active", or "active, holds the GIL"
    frames: tuple[str, ...]  # the innermost first


@dataclass(frozen=True, kw_only=True, slots=True)
class Stacks:
    """One process of a run."""

    role: str
    rank: int  # of the worker; -1 is the driver
    host: str
    process_id: int
    title: str  # of the process, such as VLLM::EngineCore
    state: str  # for the kernel, such as "running" or "stopped"
    threads: tuple[Thread, ...] = ()
    problem: str = ""  # why there are none
    is_denied: bool = False  # whether that is a matter of rights

    @property
    def worker(self) -> str:
        """Role and number, as people are told."""
        return self.role if self.rank < 0 else f"{self.role} worker {self.rank}"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunProcesses:
    """By what the processes of a run are known, on whatever machine."""

    mark: str  # their `RUN`
    driver_host: str
    driver: int  # its process id


def stacks_here(run: RunProcesses) -> list[Stacks]:
    """The stacks of all processes of a run on this machine."""
    return [_stacks(role, rank, process) for role, rank, process in _processes(run)]


def _processes(run: RunProcesses) -> Iterator[tuple[str, int, psutil.Process]]:
    """Role, rank and process of every Python process of a run."""
    is_driver_here = run.driver_host == socket.gethostname()
    for process in psutil.process_iter():
        try:
            if is_driver_here and process.pid == run.driver:
                yield "driver", -1, process
            elif (environment := process.environ()).get(RUN) == run.mark and WORKER in environment:
                role, rank = environment[WORKER].split()
                if Path(process.exe()).name.startswith("python"):  # none of a compiler that a kernel is built with
                    yield role, int(rank), process
        except psutil.Error:  # it has ended, or is another user's
            continue


def _stacks(role: str, rank: int, process: psutil.Process) -> Stacks:
    try:
        title, state = " ".join(" ".join(process.cmdline()).split()), process.status()
    except psutil.NoSuchProcess:
        title, state = "", "ended"
    known: dict[str, Any] = {"role": role, "rank": rank, "host": socket.gethostname(), "process_id": process.pid}
    known |= {"title": title.partition(" ")[0] if title.startswith(("ray::", "VLLM::")) else title, "state": state}
    beside = Path(sys.executable).with_name("py-spy")
    program = str(beside) if beside.exists() else shutil.which("py-spy")
    if program is None:
        return Stacks(**known, problem=NO_PY_SPY)
    # One that is stopped would not notice that it is to pause.
    options = ["--nonblocking"] if state == psutil.STATUS_STOPPED else []
    command = [program, "dump", "--json", *options, "--pid", str(process.pid)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return Stacks(**known, problem=f"py-spy has not come to an end within {TIMEOUT_S:.0f} s")
    if done.returncode == 0:
        return Stacks(**known, threads=tuple(map(_thread, json.loads(done.stdout))))
    said = " ".join(done.stderr.split())
    if any(words in said for words in DENIED):
        return Stacks(**known, problem=denied(), is_denied=True)
    return Stacks(**known, problem=f"py-spy failed: {said.partition(' Stack backtrace')[0]}")


def denied() -> str:
    """What to say where the kernel refuses ptrace, by which py-spy reads."""
    scope = f"; kernel.yama.ptrace_scope is {SCOPE.read_text().strip()} there" if SCOPE.exists() else ""
    return (
        f"{getpass.getuser()} on {socket.gethostname()} may not trace it (ptrace is refused{scope}): run as root or as "
        "the user of the run, set kernel.yama.ptrace_scope=0 with sysctl, or give the container the capability "
        "SYS_PTRACE"
    )


def _thread(read: dict[str, Any]) -> Thread:
    state = "active, holds the GIL" if read["owns_gil"] else "active" if read["active"] else "idle"
    frames = [
        f"{frame['name']} ({frame['short_filename'] or frame['filename']}:{frame['line']})" for frame in read["frames"]
    ]
    return Thread(name=read["thread_name"] or f"thread {read['os_thread_id']}", state=state, frames=tuple(frames))
