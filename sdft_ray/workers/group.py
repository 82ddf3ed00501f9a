"""The workers of one role: how the driver calls one or all of them, and how those that are lost are replaced.

Calls are made with functions of the actor handle, never with method names in strings, so that a reader can follow
them. Every call has a deadline (`deadlines.py`). A worker is lost when its process or its engine has died, or when it
is late; a late one is killed. A group that was given a `Recovery` starts another in its place, and makes the calls that
were open on it again.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from typing import Any, TypeVar

import ray

from sdft_ray.config import FaultsConfig
from sdft_ray.errors import SdftError, WeightVersionError, WorkerLostError, first_line
from sdft_ray.faults import Fault, FaultKind
from sdft_ray.records import WorkerStatus
from sdft_ray.workers.deadlines import Deadlines, Work
from sdft_ray.workers.recovery import Recovery
from sdft_ray.workers.seat import Seat
from sdft_ray.workers.worker import log_path

T = TypeVar("T")

OTHER = Work("other")
NODE, STATUS = Work("node", in_turn=False), Work("status", in_turn=False)
LOOK_SHARE = 0.25  # of faults.hang_s: between two looks at an idle worker, which has the rest of it to answer

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
        self.size = len(actors)
        self._log_dir = log_dir
        self._faults = faults or FaultsConfig()
        self._deadlines = deadlines or Deadlines(self._faults)
        self._turn = turn
        self._seats = [self._seat(rank, actor) for rank, actor in enumerate(actors, first_rank)]
        self.seats: Sequence[Seat] = self._seats  # to be looked at alone
        self._recovery: Recovery | None = None
        self._replacements: dict[int, asyncio.Task[None]] = {}  # by rank
        self._newcomers: dict[int, WorkerGroup] = {}  # by rank: started, and not yet serving
        self._changed = asyncio.Event()
        self.num_lost = 0  # workers, replaced ones among them

    def replace_lost(self, recovery: Recovery) -> None:
        """Has lost workers replaced from now on, and their open calls made again."""
        self._recovery = recovery

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
            seat = await self._least_busy()
            seat.num_calls += 1
            try:
                # Not around the wait for a worker: a newcomer loads what another role publishes in its own turn.
                async with self._turn_for(work):
                    return await seat.ask(call, work)
            except WorkerLostError as loss:
                if not self._is_replaced(seat, loss):
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
        for newcomer in list(self._newcomers.values()):
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

    async def watch(self) -> None:
        """Asks workers that have nothing to do whether they are there, engines too, until it is cancelled.

        Raises:
            WorkerLostError: one is not, and is not replaced.
        """
        look = Work("heartbeat", most_s=self._faults.hang_s * (1 - LOOK_SHARE))
        while True:
            await asyncio.sleep(self._faults.hang_s * LOOK_SHARE)
            idle = [seat for seat in self._seats if seat.loss is None and not seat.num_open]
            await asyncio.gather(*(self._unless_lost(seat, lambda actor: actor.status.remote(), look) for seat in idle))

    def confirm_version(self, acknowledged: Mapping[int, int], version: int) -> None:
        """Checks that every worker, by rank, answered a load with the version it was to load."""
        for rank, held in acknowledged.items():
            if held != version:
                raise WeightVersionError(f"{self.role} worker {rank} holds weights {held} after loading {version}")

    def renew(self, actors: Sequence[Any]) -> None:
        """Kills all workers and takes others in their places."""
        for seat in self._seats:
            if seat.loss is None:
                seat.lose(FaultKind.LOST, "all of its role are started anew")
            ray.kill(seat.actor)
        self._seats[:] = [self._seat(seat.rank, actor) for seat, actor in zip(self._seats, actors, strict=True)]

    @property
    def loss(self) -> WorkerLostError | None:
        """Of the worker that was lost last, and has not been replaced."""
        return max(self._seats, key=lambda seat: seat.lost_at).loss

    def abandon(self) -> list[Any]:
        """Replaces nobody from now on; the handles of all workers, those on their way included, to be ended."""
        self._recovery = None  # or what is still being asked would start another
        for replacement in self._replacements.values():
            replacement.cancel()
        groups = (self, *self._newcomers.values())
        return [seat.actor for group in groups for seat in group._seats]

    def _seat(self, rank: int, actor: Any) -> Seat:
        log = log_path(self._log_dir, self.role, rank)
        name = f"{self.role} worker {rank}"
        return Seat(name, rank, actor, log=log, deadlines=self._deadlines, on_loss=self._lose)

    async def _unless_lost(self, seat: Seat, call: Callable[[Any], Awaitable[T]], work: Work) -> dict[int, T]:
        """The answer by rank; none of a worker that is lost and will be replaced."""
        try:
            return {seat.rank: await seat.ask(call, work)}
        except WorkerLostError as loss:
            if not self._is_replaced(seat, loss):
                raise
            return {}

    def _is_replaced(self, seat: Seat, loss: WorkerLostError) -> bool:
        """True when `loss` is that of the worker itself, not of one it has called, and another comes in its place."""
        return self._recovery is not None and loss is seat.loss

    def _lose(self, seat: Seat, kind: FaultKind, text: str) -> None:
        self.num_lost += 1
        recovery = self._recovery
        if recovery is None:
            return
        recovery.kill(seat.actor)
        self._replacements[seat.rank] = asyncio.create_task(self._replace(seat, recovery))
        self._replacements[seat.rank].add_done_callback(self._notify)
        recovery.tell(Fault(kind=kind, role=self.role, rank=seat.rank, node=seat.node, text=text))

    async def _replace(self, lost: Seat, recovery: Recovery) -> None:
        """Starts workers in the place of a lost one until one serves, or the budget is spent."""
        rank, index = lost.rank, self._seats.index(lost)

        def tell(kind: FaultKind, text: str, node: str = "") -> None:
            lasted_s = time.monotonic() - lost.lost_at
            recovery.tell(Fault(kind=kind, role=self.role, rank=rank, node=node, text=text, seconds=lasted_s))

        while (pause_s := recovery.budget.take(lost.name)) is not None:
            await asyncio.sleep(pause_s)
            newcomer = WorkerGroup(
                self.role,
                [recovery.make(rank)],
                self._log_dir,
                faults=self._faults,
                first_rank=rank,
                deadlines=self._deadlines,
                turn=self._turn,
            )
            self._newcomers[rank] = newcomer
            (actor,) = (seat.actor for seat in newcomer._seats)
            try:
                async with recovery.joining(newcomer):
                    (arrived,) = newcomer._seats
                    self._seats[index] = self._seat(rank, actor)
                    self._seats[index].node = arrived.node
            except SdftError as error:
                recovery.kill(actor)
                if isinstance(error, WorkerLostError) and newcomer.loss is None:  # the learner, which it had asked
                    recovery.budget.give_back(lost.name)
                tell(FaultKind.START_FAILED, f"{lost.name} could not be started again: {first_line(error)}")
            except Exception as error:  # a fault of this program's own, for which nobody waits
                recovery.kill(actor)
                what = f"{type(error).__name__}: {first_line(error)}"
                tell(FaultKind.GIVEN_UP, f"{lost.name} is not started again: {what}")
                raise
            else:
                tell(FaultKind.REPLACED, f"{lost.name} serves again", arrived.node)
                return
            finally:
                del self._newcomers[rank]
        tell(FaultKind.GIVEN_UP, f"{lost.name} is not started again: {recovery.budget.spent}")

    def _notify(self, _: object) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _least_busy(self) -> Seat:
        """The worker that serves with the fewest open calls; waits for one where none serves.

        Raises:
            WorkerLostError: none comes, or not in time.
        """
        while True:
            serving = [seat for seat in self._seats if seat.loss is None]
            if serving:
                return min(serving, key=lambda seat: seat.num_calls)
            last = max(self._seats, key=lambda seat: seat.lost_at)
            if self._recovery is None:
                assert last.loss is not None
                raise last.loss
            remaining_s = last.lost_at + self._faults.max_wait_s - time.monotonic()
            if self._is_given_up() or remaining_s <= 0:
                in_time = f"none has come back within faults.max_wait_s={self._faults.max_wait_s:g}"
                why = self._recovery.budget.spent if self._is_given_up() else in_time
                raise WorkerLostError(f"No {self.role} worker is left, and {why}. The last one: {last.loss}")
            with suppress(TimeoutError):  # said above
                async with asyncio.timeout(remaining_s):
                    await self._changed.wait()

    def _is_given_up(self) -> bool:
        """True when nothing is being started. Raises what a start has failed with that is no loss."""
        done = [task for task in self._replacements.values() if task.done()]
        for task in done:
            task.result()
        return len(done) == len(self._replacements)
