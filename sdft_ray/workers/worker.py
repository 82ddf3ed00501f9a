"""What every Ray actor of this job is: its log file, its memory, its status."""

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import ray

from sdft_ray.records import Span, WorkerStatus
from sdft_ray.tensors import peak_gpu_memory_gib
from sdft_ray.workers.spans import begin_recording, end_recording, recorded


class Worker:
    """Base of every actor: sends its output to a log file and answers `status`.

    A constructor only keeps what it is given. What can fail is done in a call of its own, `ready` or `start`: of an
    actor that could not be made Ray tells a traceback, not the error.
    """

    role = "worker"

    def __init__(self, rank: int, log_dir: str):
        self.rank = rank
        self.weight_version = -1
        self.log = log_path(log_dir, self.role, rank)
        write_for_no_stranger()
        redirect_output(self.log)

    @property
    def name(self) -> str:
        """Role and rank, as people are told."""
        return f"{self.role} worker {self.rank}"

    def node(self) -> str:
        """The address of the node this worker is on."""
        address: str = ray.util.get_node_ip_address()
        return address

    def status(self) -> WorkerStatus:
        """Who this worker is, which weights it holds, and the most memory it has used."""
        return WorkerStatus(
            role=self.role,
            rank=self.rank,
            node=self.node(),
            process_id=os.getpid(),
            weight_version=self.weight_version,
            peak_memory_gib=peak_memory_gib(),
            peak_gpu_memory_gib=peak_gpu_memory_gib(),
        )

    def notes(self) -> tuple[str, ...]:
        """What a person should know of how this worker has started, a line each."""
        return ()

    def begin_spans(self) -> None:
        """Records from now on what this worker does when."""
        begin_recording()

    def spans(self, ends: bool) -> tuple[WorkerStatus, tuple[Span, ...]]:
        """Who this worker is, and what it has done since `begin_spans`; with `ends` it records no more."""
        spans = recorded()
        if ends:
            end_recording()
        return Worker.status(self), spans

    def sleep(self) -> Any:
        """Gives the device's memory to workers of other roles, between two calls; nothing is asked until `wake`.

        One that has not started has nothing to give.
        """

    def wake(self) -> Any:
        """Takes the memory back, with the same contents; at once where it does not sleep."""

    def close(self) -> None:
        """Ends what this worker started; called once, before its process ends."""


@contextmanager
def importing() -> Iterator[None]:
    """Collects no garbage in the block, and never looks at the objects that are there at its end.

    For imports that take seconds: they make about a million objects, all of which stay. To look through them again and
    again takes a third of vLLM's import.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def log_path(log_dir: str, role: str, rank: int) -> Path:
    """The log file of one worker."""
    return Path(log_dir) / f"{role}-{rank}.log"


def write_for_no_stranger() -> None:
    """Has whatever this process and its future children write be writable by the user's group at most."""
    os.umask(os.umask(0o022) | 0o002)


def redirect_output(path: Path) -> None:
    """Sends everything this process and its future children print to `path`.

    On a node that does not share the run folder the file lies at the same path on that node.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    with path.open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)


def peak_memory_gib() -> float:
    """Peak resident set of this process and its living descendants [GiB]; shared pages count in each of them."""
    me = psutil.Process()
    peaks_kib = 0
    for process in [me, *me.children(recursive=True)]:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except FileNotFoundError:  # it ended between the listing and the reading
            continue
        peaks_kib += sum(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
    return peaks_kib / 2**20
