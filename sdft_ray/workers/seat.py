"""One worker as the driver sees it, from its start to its end: calls with a deadline, and the names of what fails."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)

from sdft_ray.errors import EngineError, PayloadLostError, SdftError, WorkerError, WorkerLostError
from sdft_ray.faults import FaultKind
from sdft_ray.workers.deadlines import Deadlines, Pace, Work

T = TypeVar("T")

POLL_S = 5.0  # a silence is counted in steps of at most this much, so that a driver that was stopped blames nobody
LIMIT_LASTS_S = 1.0
GONE = (RayActorError, OutOfMemoryError, NodeDiedError, WorkerCrashedError)  # how Ray says that a process is no more
NODE = re.compile(r"^\s*ip: (\S+)", re.MULTILINE)  # in what Ray says of a dead actor
DETAIL = re.compile(r"Worker exit detail: (.*?)(?: Some common causes|$)", re.MULTILINE)


class Seat:
    """One worker of a group."""

    def __init__(
        self,
        name: str,
        rank: int,
        actor: Any,
        *,
        log: Path,
        deadlines: Deadlines,
        on_loss: Callable[["Seat", FaultKind, str], None],
    ):
        """Calls nothing yet.

        Args:
            name: such as "rollout worker 3".
            rank: in its group.
            actor: its handle.
            log: its log file.
            deadlines: of its role.
            on_loss: is told once, what has happened and why.
        """
        self.name = name
        self.rank = rank
        self.actor = actor
        self.node = ""
        self.loss: WorkerLostError | None = None
        self.lost_at = 0.0
        self.leaves_since = 0.0  # a time of the monotonic clock; 0 where it stays
        self.num_calls = 0  # made by `WorkerGroup.call` and not answered
        self.num_answered = 0  # such calls
        self._log = log
        self._deadlines = deadlines
        self._on_loss = on_loss
        self._open: dict[asyncio.Future[Any], tuple[Work, bool]] = {}  # with whether it is the first of its kind
        self._limit_s, self._limit_expires = 0.0, 0.0
        self._last_answer = 0.0
        self._answered: set[str] = set()  # kinds of calls

    @property
    def serves(self) -> bool:
        """True when new calls may be made on it."""
        return self.loss is None and not self.leaves_since

    @property
    def num_open(self) -> int:
        """Calls of any kind without an answer."""
        return len(self._open)

    async def ask(self, call: Callable[..., Awaitable[T]], work: Work, *items: Any) -> T:
        """Makes one call.

        Raises:
            WorkerLostError: the worker or its engine is dead, or does not answer; the same error for all open calls.
            WorkerError: the call failed; names the worker and its log.
            SdftError: the worker raised one of this package's own errors, which arrives as it was raised.
        """
        if self.loss is not None:
            raise self.loss
        try:
            # Before anything is awaited: ranks get the calls in the order in which the driver makes them.
            answer = asyncio.ensure_future(call(self.actor, *items))
            self._open[answer] = work, work.kind not in self._answered
            self._limit_expires = 0.0
            try:
                await self._in_time(answer, work)
                if answer.cancelled() and self.loss is not None:  # another call has found the loss
                    raise self.loss
                return answer.result()
            finally:
                del self._open[answer]
                answer.cancel()
        except (RayError, EngineError) as error:
            raise self._found(error, work) from error

    async def finish(self) -> None:
        """Returns when no call is open, at once where none is."""
        while self._open:
            await asyncio.wait(list(self._open))

    def lose(self, kind: FaultKind, cause: str) -> WorkerLostError:
        """Ends all that is open with one error; whoever finds the loss first comes here."""
        if self.loss is not None:  # several calls were late at once
            return self.loss
        place = f" on {self.node}" if self.node else ""
        self.loss = WorkerLostError(f"{self.name}{place} was lost: {cause.rstrip('.')}.\nIts log: {self._log}")
        self.lost_at = time.monotonic()
        for answer in self._open:
            answer.cancel()
        self._on_loss(self, kind, f"{self.name}{place} was lost: {cause.splitlines()[0]}")
        return self.loss

    async def _in_time(self, answer: asyncio.Future[Any], work: Work) -> None:
        """Returns when there is an answer, of whatever kind. Raises WorkerLostError where it does not come in time."""
        (_, is_first), silent_s, silent_since = self._open[answer], 0.0, time.monotonic()
        while not answer.done():
            limit_s = self._longest_limit_s()
            if silent_s >= limit_s:
                raise self.lose(FaultKind.HUNG, f"it has not answered a call ({work.kind}) for {silent_s:.0f} s")
            step_s = min(POLL_S, limit_s - silent_s)
            await asyncio.wait([answer], timeout=step_s)
            silent_s = min(silent_s + step_s, time.monotonic() - max(silent_since, self._last_answer))
        if answer.cancelled() or answer.exception() is not None:
            return
        now = time.monotonic()
        if not is_first:
            self._deadlines.learn(work, now - max(silent_since, self._last_answer), self.num_open)
        self._last_answer = now
        self._answered.add(work.kind)

    def _longest_limit_s(self) -> float:
        """Of all open calls, since the worker may be busy with any of them; looked up once a second."""
        if time.monotonic() >= self._limit_expires:
            num_open, open_calls = self.num_open, set(self._open.values())
            self._limit_s = max(
                self._deadlines.limit_s(work, is_first=is_first, num_open=num_open) for work, is_first in open_calls
            )
            self._limit_expires = time.monotonic() + LIMIT_LASTS_S
        return self._limit_s

    def _found(self, error: RayError | EngineError, work: Work) -> SdftError:
        """What a failed call tells: that the worker is lost, or an error with the worker's name."""
        if self.loss is not None:
            return self.loss
        cause = error.cause if isinstance(error, RayTaskError) else error
        if isinstance(cause, EngineError) and work.pace is not Pace.START:
            return self.lose(FaultKind.LOST, str(cause).removeprefix(f"{self.name}: "))
        if isinstance(cause, SdftError):
            return cause
        lines = str(cause).strip().splitlines() or ["no message"]
        # Of an actor that failed while it was made, Ray gives the traceback as the message: its end is the reason.
        in_creation = "creation task" in lines[0]
        if isinstance(error, GONE) and not in_creation:
            self.node = self.node or "".join(NODE.findall(str(error))[:1])
            last = lines[-1] if isinstance(error, RayActorError) else lines[0]
            detail = "".join(DETAIL.findall(str(error))[:1]) or last
            return self.lose(FaultKind.LOST, f"its process has died ({type(cause).__name__}: {detail})")
        what = _end_of_traceback(lines) if in_creation else f"{type(cause).__name__}: {lines[0]}"
        error_kind = PayloadLostError if isinstance(cause, ObjectLostError) else WorkerError
        return error_kind(f"{self.name} failed with {what}\nIts log: {self._log}")


def _end_of_traceback(lines: Sequence[str]) -> str:
    """The last line that is not indented, which names the exception, with the one that explains it, if any."""
    start = max((index for index, line in enumerate(lines) if not line.startswith(" ")), default=0)
    return " ".join(line.strip() for line in lines[start : start + 2])
