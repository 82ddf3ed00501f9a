"""The workers of one role: how the driver calls one or all of them, and how those that are lost are replaced.

Calls are made with functions of the actor handle, never with method names in strings, so that a reader can follow
them. Every call has a deadline (`deadlines.py`). A worker is lost when its process or its engine has died, or when it
is late; a late one is killed. A group that was given a `Recovery` starts another in its place (`membership.py`), and
makes the calls that were open on it again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, TypeVar

import ray

from sdft_ray.config import FaultsConfig
from sdft_ray.errors import WeightVersionError, WorkerLostError
from sdft_ray.records import WorkerStatus
from sdft_ray.workers.deadlines import Deadlines, Work
from sdft_ray.workers.membership import Membership
from sdft_ray.workers.recovery import Recovery
from sdft_ray.workers.seat import Seat

T = TypeVar("T")

OTHER = Work("other")
NODE, STATUS = Work("node", in_turn=False), Work("status", in_turn=False)
LOOK_SHARE = 0.25  # of faults.hang_s: between two looks at a worker, which has the rest of it to answer
LOOK_S = 15.0  # between two looks, at most: Prometheus asks about as often for what they find

Turn = Callable[[], AbstractAsyncContextManager[None]]  # inside it the workers of a role have their device


class WorkerGroup:
    """All workers of one role; no actor handle leaves it but as the argument of a call."""

    def __init__(
        self,
        role: str,
        actors: Sequence[Any],
        log_dir: str,
        *,
        faults: FaultsConfig | None = None,
        first_rank: int = 0,
        deadlines: Deadlines | None = None,
        turn: Turn = nullcontext,
    ):
        """A loss raises, until `replace_lost`.

        Args:
            role: of the workers.
            actors: in rank order.
            log_dir: where their log files lie.
            faults: deadlines and waiting times; None takes the defaults.
            first_rank: of the first actor.
            deadlines: of workers of the same kind, which have taught them; None learns anew.
            turn: is entered around every call that needs the role's device.
        """
        self.role = role
        self.size = len(actors)  # of those it began with
        self._log_dir = log_dir
        self._faults = faults or FaultsConfig()
        self._deadlines = deadlines or Deadlines(self._faults)
        self._turn = turn
        self.members = Membership(
            role,
            actors,
            log_dir=log_dir,
            first_rank=first_rank,
            deadlines=self._deadlines,
            max_wait_s=self._faults.max_wait_s,
            group_of_one=self._group_of_one,
        )
        self._seats = self.members.seats  # the same list, which changes

    def _group_of_one(self, rank: int, actor: Any) -> "WorkerGroup":
        return WorkerGroup(
            self.role,
            [actor],
            self._log_dir,
            faults=self._faults,
            first_rank=rank,
            deadlines=self._deadlines,
            turn=self._turn,
        )

    def replace_lost(self, recovery: Recovery) -> None:
        """Has lost workers replaced from now on, and their open calls made again."""
        self.members.recovery = recovery

    async def call(self, call: Callable[[Any], Awaitable[T]], work: Work = OTHER) -> T:
        """Makes `call` on the least busy worker: the one with the fewest open calls, those of `on_all` not counted.

        Args:
            call: a function of the actor handle that any worker could answer, such as
                `lambda actor: actor.answer.remote(prompt)`. A coroutine function may await one of several answers.
                It is made again, on another worker, where its worker is lost.
            work: what it asks for, which its deadline depends on.

        Raises:
            WorkerLostError: the worker was lost, and no other is there to answer or comes in time.
            WorkerError: the call failed; names the worker and its log.
            SdftError: the worker raised one of this package's own errors, which arrives as it was raised.
        """
        while True:
            seat = await self.members.least_busy()
            seat.num_calls += 1
            try:
                # Not around the wait for a worker: a newcomer loads what another role publishes in its own turn.
                async with self._turn_for(work):
                    answer = await seat.ask(call, work)
                seat.num_answered += 1
                return answer
            except WorkerLostError as loss:
                if not self.members.is_made_good(seat, loss):
                    raise
            finally:
                seat.num_calls -= 1

    async def on_first(self, call: Callable[[Any], Awaitable[T]], work: Work = OTHER) -> T:
        """Makes `call` on the worker of the first rank. Raises as `on_each`."""
        async with self._turn_for(work):
            return await self._seats[0].ask(call, work)

    async def on_all(self, call: Callable[[Any], Awaitable[T]], work: Work = OTHER) -> list[T]:
        """Makes `call` on every worker at once; answers in rank order. Raises as `on_each`."""
        async with self._turn_for(work):
            return list(await asyncio.gather(*(seat.ask(call, work) for seat in self._seats)))

    async def on_each(
        self, call: Callable[[Any, Any], Awaitable[T]], items: Sequence[Any], works: Sequence[Work] | None = None
    ) -> list[T]:
        """Makes `call` on every worker with its own item at once; answers in rank order.

        Raises:
            WorkerLostError, WorkerError, SdftError: as `call`. The first failure is raised at once, since ranks that
                wait for the failed one in a collective never answer.
        """
        works = works or [OTHER] * self.size
        async with self._turn_for(works[0]):
            calls = (seat.ask(call, work, item) for seat, item, work in zip(self._seats, items, works, strict=True))
            return list(await asyncio.gather(*calls))

    async def on_serving(self, call: Callable[[Any], Awaitable[T]], work: Work = OTHER) -> dict[int, T]:
        """Makes `call` on every worker that serves at once; answers by rank, none of one that is lost and replaced."""
        async with self._turn_for(work):
            return await self._on_serving(call, work)

    async def on_present(self, call: Callable[[Any], Awaitable[T]], work: Work) -> None:
        """Makes `call` on every worker that serves, and on every newcomer."""
        await self._on_serving(call, work)
        for newcomer in list(self.members.newcomers.values()):
            await newcomer._on_serving(call, work)

    def _turn_for(self, work: Work) -> AbstractAsyncContextManager[None]:
        return self._turn() if work.in_turn else nullcontext()

    async def _on_serving(self, call: Callable[[Any], Awaitable[T]], work: Work) -> dict[int, T]:
        answers = await asyncio.gather(*(self._unless_lost(seat, call, work) for seat in self._seats))
        return {rank: answer for of_seat in answers for rank, answer in of_seat.items()}

    async def locate(self) -> None:
        """Notes the nodes that the workers are on, for the errors that name them."""
        nodes = await self.on_all(lambda actor: actor.node.remote(), NODE)
        for seat, node in zip(self._seats, nodes, strict=True):
            seat.node = node

    async def status(self) -> list[WorkerStatus]:
        """The status of every worker that serves."""
        return list((await self.on_serving(lambda actor: actor.status.remote(), STATUS)).values())

    async def watch(self, tell: Callable[[Iterable[WorkerStatus]], None]) -> None:
        """Asks every worker, its engine too, again and again whether it is there, until it is cancelled.

        One that works answers when it can, and is not asked again before. `tell` is told what the others have answered
        meanwhile.

        Raises:
            WorkerLostError: one is not there, and is not replaced.
        """
        look = Work("heartbeat", most_s=self._faults.hang_s * (1 - LOOK_SHARE), in_turn=False)

        async def ask(seat: Seat) -> None:
            answers = await self._unless_lost(seat, lambda actor: actor.status.remote(), look)
            tell(answers.values())

        asked: dict[Seat, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as looks:
            while True:
                asked = {seat: answer for seat, answer in asked.items() if not answer.done()}
                present = [seat for seat in self._seats if seat.loss is None and seat not in asked]
                asked |= {seat: looks.create_task(ask(seat)) for seat in present}
                await asyncio.sleep(min(LOOK_S, self._faults.hang_s * LOOK_SHARE))

    def confirm_version(self, acknowledged: Mapping[int, int], version: int) -> None:
        """Checks that every worker, by rank, answered a load with the version it was to load."""
        for rank, held in acknowledged.items():
            if held != version:
                raise WeightVersionError(f"{self.role} worker {rank} holds weights {held} after loading {version}")

    def renew(self, actors: Sequence[Any]) -> None:
        """Kills all workers and takes others in their places."""
        self.members.renew(actors, ray.kill)

    @property
    def loss(self) -> WorkerLostError | None:
        """Of the worker that was lost last, and has not been replaced."""
        return self.members.loss

    def abandon(self) -> list[Any]:
        """Replaces nobody from now on; the handles of all workers, those on their way included, to be ended."""
        return self.members.abandon()

    async def _unless_lost(self, seat: Seat, call: Callable[[Any], Awaitable[T]], work: Work) -> dict[int, T]:
        """The answer by rank; none of a worker that is lost and will be replaced, or that has left."""
        try:
            return {seat.rank: await seat.ask(call, work)}
        except WorkerLostError as loss:
            if not self.members.is_made_good(seat, loss):
                raise
            return {}
