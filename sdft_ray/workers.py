"""The workers of one role: what every Ray actor of this job is, and how the driver calls one or all of them.

`Worker` is the base of the actors (log file, memory, status); `WorkerGroup` is the driver's side. Calls are made with
functions of the actor handle, never with method names in strings, so that a reader can follow them.
"""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil
import ray
from ray.exceptions import RayError, RayTaskError

from sdft_ray.errors import SdftError, WeightVersionError, WorkerError
from sdft_ray.records import WorkerStatus
from sdft_ray.tensors import peak_gpu_memory_gib

T = TypeVar("T")

CLOSING_TIMEOUT_S = 10.0  # a scheduler kills 30 s after it has asked


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

    def status(self) -> WorkerStatus:
        """Who this worker is, which weights it holds, and the most memory it has used."""
        return WorkerStatus(
            role=self.role,
            rank=self.rank,
            node=ray.util.get_node_ip_address(),
            process_id=os.getpid(),
            weight_version=self.weight_version,
            peak_memory_gib=peak_memory_gib(),
            peak_gpu_memory_gib=peak_gpu_memory_gib(),
        )

    def notes(self) -> tuple[str, ...]:
        """What a person should know of how this worker has started, a line each."""
        return ()

    def close(self) -> None:
        """Ends what this worker started; called once, before its process ends."""


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


class WorkerGroup:
    """All workers of one role, as the driver sees them; no actor handle leaves it but as the argument of a call."""

    def __init__(self, role: str, actors: Sequence[Any], log_dir: str):
        self.role = role
        self.size = len(actors)
        self._actors = tuple(actors)
        self._log_dir = log_dir
        self._open_calls = [0] * self.size

    async def call(self, call: Callable[[Any], Awaitable[T]]) -> T:
        """Makes `call` on the least busy worker: the one with the fewest open calls, those of `on_all` not counted.

        Args:
            call: a function of the actor handle that any worker could answer, such as
                `lambda actor: actor.answer.remote(prompt)`. A coroutine function may await one of several answers.

        Raises:
            WorkerError: the call failed or the worker died; names the worker and its log.
            SdftError: the worker raised one of this package's own errors, which arrives as it was raised.
        """
        rank = min(range(self.size), key=self._open_calls.__getitem__)
        self._open_calls[rank] += 1
        try:
            return await self._call(rank, call)
        finally:
            self._open_calls[rank] -= 1

    async def on_first(self, call: Callable[[Any], Awaitable[T]]) -> T:
        """Makes `call` on the worker of rank 0. Raises as `call`."""
        return await self._call(0, call)

    async def on_all(self, call: Callable[[Any], Awaitable[T]]) -> list[T]:
        """Makes `call` on every worker at once; answers in rank order. Raises as `on_each`."""
        return await self.on_each(lambda actor, _: call(actor), self._actors)

    async def on_each(self, call: Callable[[Any, Any], Awaitable[T]], items: Sequence[Any]) -> list[T]:
        """Makes `call` on every worker with its own item at once; answers in rank order.

        Raises:
            WorkerError: as `call`. The first failure is raised at once, since ranks that wait for the failed one in
                a collective never answer.
        """
        calls = (self._call(rank, call, item) for rank, item in zip(range(self.size), items, strict=True))
        return list(await asyncio.gather(*calls))

    async def _call(self, rank: int, call: Callable[..., Awaitable[T]], *items: Any) -> T:
        """One call to one worker: the only place that hands an actor out, and so the one that names what failed."""
        try:
            return await call(self._actors[rank], *items)
        except RayError as error:
            raise self._named(rank, error) from error

    async def status(self) -> list[WorkerStatus]:
        """The status of every worker."""
        return await self.on_all(lambda actor: actor.status.remote())

    def confirm_version(self, acknowledged: Sequence[int], version: int) -> None:
        """Checks that every worker answered a load with the version it was to load."""
        for rank, held in enumerate(acknowledged):
            if held != version:
                raise WeightVersionError(f"{self.role} worker {rank} holds weights {held} after loading {version}")

    def _named(self, rank: int, error: RayError) -> SdftError:
        cause = error.cause if isinstance(error, RayTaskError) else error
        if isinstance(cause, SdftError):
            return cause
        lines = str(cause).strip().splitlines() or ["no message"]
        # Of an actor that failed while it was made, Ray gives the traceback as the message: its end is the reason.
        in_creation = "creation task" in lines[0]
        what = _end_of_traceback(lines) if in_creation else f"{type(cause).__name__}: {lines[0]}"
        log = log_path(self._log_dir, self.role, rank)
        return WorkerError(f"{self.role} worker {rank} failed with {what}\nIts log: {log}")


def _end_of_traceback(lines: Sequence[str]) -> str:
    """The last line that is not indented, which names the exception, with the one that explains it, if any."""
    start = max((index for index, line in enumerate(lines) if not line.startswith(" ")), default=0)
    return " ".join(line.strip() for line in lines[start : start + 2])


def close_all(groups: Sequence[WorkerGroup]) -> None:
    """Ends every worker of every group at once, also one that no longer answers."""
    actors = [actor for group in groups for actor in group._actors]
    closing = [actor.close.remote() for actor in actors]
    # What does not close in time is dead, or stuck in a collective with a dead neighbour; the error that led here is
    # already on its way to the user, so nobody asks why.
    ray.wait(closing, num_returns=len(closing), timeout=CLOSING_TIMEOUT_S)
    for actor in actors:
        ray.kill(actor)
