"""Whose turn it is where all roles share one device: sampling, scoring, learning, one after the other.

A role has the device while any of its calls is open. The turn passes when none is: the workers of the role before fall
asleep, those of the next wake. Every call to a worker goes through its `WorkerGroup`, so starting, evaluation, weight
sync, checkpoints and newcomers take turns as well, and none of them has to know of it.

Where several roles wait, teachers go first and the learner last: behind a step teachers load, then rollout workers load
and sample without another change between them.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

from sdft_ray.tracking.phases import PhaseTimer
from sdft_ray.workers.deadlines import Pace, Work
from sdft_ray.workers.group import Turn, WorkerGroup

ORDER = ("teacher", "rollout", "learner")  # of roles that wait at the same time

# They copy all that a worker holds, and the first sleep pins host memory for it: as long as files may take.
SLEEP = Work("sleep", pace=Pace.STORAGE, in_turn=False)
WAKE = Work("wake", pace=Pace.STORAGE, in_turn=False)

PAUSE_S = 0.005  # before a turn passes: what follows from an answer is asked for in the same turn


class Turns:
    """The one owner of turns."""

    def __init__(self) -> None:
        """Knows no workers yet; see `begin`."""
        self.num_wakes: Counter[str] = Counter()  # by role
        self._groups: Mapping[str, WorkerGroup] = {}
        self._holder = ""  # the role whose workers are awake
        self._awake: set[str] = set()  # roles whose workers may be, after a change that failed as well
        self._num_open = 0  # calls of the holder
        self._waiting: Counter[str] = Counter()
        self._change: asyncio.Task[None] | None = None
        self._closed = asyncio.Event()  # set, and replaced, when the last open call of the holder has closed
        self._timer = PhaseTimer()
        self._num_changes = 0

    def begin(self, groups: Mapping[str, WorkerGroup]) -> None:
        """Takes charge of `groups`, none of which has started: the first turn of each starts its workers."""
        self._groups = groups

    def turn_of(self, role: str) -> Turn:
        """What the group of `role` enters around its calls."""
        return partial(self.of, role)

    def of(self, role: str) -> AbstractAsyncContextManager[None]:
        """Inside the block the workers of `role` are awake, and those of all other roles asleep.

        Blocks of one role may lie inside or beside each other. A block of another role inside waits for ever.

        Raises:
            SdftError: workers could not be put to sleep, or woken.
        """
        return self._of(role)

    def take_metrics(self) -> dict[str, float]:
        """Number and seconds of the changes since the last call."""
        num_changes, self._num_changes = self._num_changes, 0
        return {"turns/changes": float(num_changes), "turns/change_s": self._timer.take().get("turns/change_s", 0.0)}

    @asynccontextmanager
    async def _of(self, role: str) -> AsyncIterator[None]:
        if self._holder != role or self._change is not None:  # else without a pause: the order of calls is kept
            await self._wait_for(role)
        self._num_open += 1
        try:
            yield
        finally:
            self._num_open -= 1
            if not self._num_open:
                self._notify()

    async def _wait_for(self, role: str) -> None:
        self._waiting[role] += 1
        has_paused = False
        try:
            while self._holder != role or self._change is not None:
                if self._change is not None:
                    await asyncio.wait([self._change])
                elif self._num_open or self._waiting[self._holder] or role != self._first_in_line():
                    has_paused = False
                    await self._closed.wait()
                elif not has_paused:
                    has_paused = True
                    await asyncio.sleep(PAUSE_S)
                else:
                    await self._pass_to(role)
        finally:
            self._waiting[role] -= 1
            self._notify()  # who comes behind it in line

    def _first_in_line(self) -> str:
        return next(role for role in ORDER if self._waiting[role])

    async def _pass_to(self, role: str) -> None:
        """Has the turn pass, whole or not at all: whoever asked for it may be cancelled meanwhile."""
        self._change = asyncio.create_task(self._changed_to(role))
        self._change.add_done_callback(self._end_change)
        await asyncio.shield(self._change)

    def _end_change(self, change: asyncio.Task[None]) -> None:
        self._change = None
        if not change.cancelled():
            change.exception()  # raised where the turn was asked for; after a cancellation nobody asks
        self._notify()

    async def _changed_to(self, role: str) -> None:
        self._holder = ""
        with self._timer.phase("turns/change_s"):
            for other in sorted(self._awake - {role}):
                await self._groups[other].on_present(_sleep, SLEEP)
                self._awake.discard(other)
            is_asleep = role not in self._awake
            self._awake.add(role)
            if is_asleep:
                await self._groups[role].on_present(_wake, WAKE)
                self.num_wakes[role] += 1
        self._num_changes += 1
        self._holder = role

    def _notify(self) -> None:
        self._closed.set()
        self._closed = asyncio.Event()


def _sleep(actor: Any) -> Awaitable[Any]:
    asleep: Awaitable[Any] = actor.sleep.remote()
    return asleep


def _wake(actor: Any) -> Awaitable[Any]:
    awake: Awaitable[Any] = actor.wake.remote()
    return awake
