"""Who the workers of one role are: lost ones are replaced, others join a running job or leave it.

A worker serves from the moment its seat stands in `seats`. One that leaves gets no new calls, answers those that are
open, and goes. `cluster/elasticity.py` decides who joins and leaves; `group.py` makes the calls.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ray.exceptions import RayError

from sdft_ray.errors import SdftError, WorkerLostError, first_line
from sdft_ray.faults import Fault, FaultKind
from sdft_ray.workers.deadlines import Deadlines
from sdft_ray.workers.recovery import Recovery
from sdft_ray.workers.seat import Seat
from sdft_ray.workers.worker import log_path

if TYPE_CHECKING:
    from sdft_ray.workers.group import WorkerGroup

CLOSING_TIMEOUT_S = 10.0  # of one that leaves: what does not close in time is killed all the same


class Membership:
    """The seats of one role, and what fills and empties them."""

    def __init__(
        self,
        role: str,
        actors: Sequence[Any],
        *,
        log_dir: str,
        first_rank: int,
        deadlines: Deadlines,
        max_wait_s: float,
        group_of_one: Callable[[int, Any], "WorkerGroup"],
    ):
        """A loss raises, until there is a `recovery`.

        Args:
            role: of the workers.
            actors: in rank order.
            log_dir: where their log files lie.
            first_rank: of the first actor.
            deadlines: of the role.
            max_wait_s: how long a call waits for a worker where none serves.
            group_of_one: makes the group of a newcomer, by rank and actor.
        """
        self._role = role
        self._log_dir = log_dir
        self._deadlines = deadlines
        self._max_wait_s = max_wait_s
        self._group_of_one = group_of_one
        self.seats = [self._seat(rank, actor) for rank, actor in enumerate(actors, first_rank)]
        self.recovery: Recovery | None = None
        self.newcomers: dict[int, WorkerGroup] = {}  # by rank: started, and not yet serving
        self.num_lost = 0  # workers, replaced ones among them
        self._changes: dict[int, asyncio.Task[None]] = {}  # by rank: a start or a farewell
        self._given_up: set[int] = set()  # ranks
        self._last = self.seats[-1]  # that was lost, or began to leave
        self._changed = asyncio.Event()

    def renew(self, actors: Sequence[Any], kill: Callable[[Any], None]) -> None:
        """Kills all workers and takes others in their places."""
        for seat in self.seats:
            if seat.loss is None:
                seat.lose(FaultKind.LOST, "all of its role are started anew")
            kill(seat.actor)
        self.seats[:] = [self._seat(seat.rank, actor) for seat, actor in zip(self.seats, actors, strict=True)]

    @property
    def loss(self) -> WorkerLostError | None:
        """Of the worker that was lost last, and has not been replaced."""
        return max(self.seats, key=lambda seat: seat.lost_at).loss

    def has(self, rank: int) -> bool:
        """True when a worker of the rank is there, is being started or replaced, or was given up."""
        change = self._changes.get(rank)
        is_changing = change is not None and not change.done()
        return is_changing or rank in self._given_up or any(seat.rank == rank for seat in self.seats)

    def join(self, rank: int) -> None:
        """Has a worker started at a rank that has none; it serves once it holds the current weights."""
        assert self.recovery is not None
        self._change(rank, self._fill(rank, self.recovery, None))

    def leave(self, rank: int, why: str) -> None:
        """Has the worker of a rank answer its open calls and go; nothing where it is lost or leaves already."""
        assert self.recovery is not None
        for seat in self.seats:
            if seat.rank == rank and seat.serves:
                seat.leaves_since, self._last = time.monotonic(), seat
                self._change(rank, self._dismiss(seat, self.recovery, why))

    def abandon(self) -> list[Any]:
        """Changes nothing from now on; the handles of all workers, those on their way included, to be ended."""
        self.recovery = None  # or what is still being asked would start another
        for change in self._changes.values():
            change.cancel()
        newcomers = [seat.actor for newcomer in self.newcomers.values() for seat in newcomer.members.seats]
        return [seat.actor for seat in self.seats] + newcomers

    def is_made_good(self, seat: Seat, loss: WorkerLostError) -> bool:
        """True when `loss` is that of the worker itself, not of one it has called, and others make its work good."""
        return self.recovery is not None and loss is seat.loss

    async def least_busy(self) -> Seat:
        """The worker that serves with the fewest open calls; waits for one where none serves.

        Raises:
            WorkerLostError: none comes, or not in time.
        """
        while True:
            serving = [seat for seat in self.seats if seat.serves]
            if serving:
                return min(serving, key=lambda seat: seat.num_calls)
            last, recovery = self._last, self.recovery
            if recovery is None:
                assert last.loss is not None
                raise last.loss
            remaining_s = max(last.lost_at, last.leaves_since) + self._max_wait_s - time.monotonic()
            if (is_given_up := self._is_given_up(recovery)) or remaining_s <= 0:
                in_time = f"none has come back within faults.max_wait_s={self._max_wait_s:g}"
                why = recovery.budget.spent if is_given_up else in_time
                what = last.loss or f"{last.name} has left"
                raise WorkerLostError(f"No {self._role} worker is left, and {why}. The last one: {what}")
            with suppress(TimeoutError):  # said above
                async with asyncio.timeout(remaining_s):
                    await self._changed.wait()

    def _is_given_up(self, recovery: Recovery) -> bool:
        """True when nothing is being started, nor may be later. Raises what a start has failed with that is no loss."""
        done = [change for change in self._changes.values() if change.done()]
        for change in done:
            change.result()
        return len(done) == len(self._changes) and recovery.free is None

    def _seat(self, rank: int, actor: Any) -> Seat:
        log = log_path(self._log_dir, self._role, rank)
        return Seat(self._name(rank), rank, actor, log=log, deadlines=self._deadlines, on_loss=self._lose)

    def _name(self, rank: int) -> str:
        return f"{self._role} worker {rank}"

    def _lose(self, seat: Seat, kind: FaultKind, text: str) -> None:
        self._last = seat
        if seat.leaves_since:  # its farewell goes on
            return
        self.num_lost += 1
        recovery = self.recovery
        if recovery is None:
            return
        recovery.kill(seat.actor)
        self._change(seat.rank, self._fill(seat.rank, recovery, seat))
        recovery.tell(Fault(kind=kind, role=self._role, rank=seat.rank, node=seat.node, text=text))

    def _change(self, rank: int, change: Any) -> None:
        self._changes[rank] = asyncio.create_task(change)
        self._changes[rank].add_done_callback(self._notify)

    def _notify(self, _: object) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _dismiss(self, seat: Seat, recovery: Recovery, why: str) -> None:
        """Ends a worker behind its last answer, and gives its place back."""
        await seat.finish()
        is_early = seat.loss is not None  # its node did not wait
        self.seats.remove(seat)
        if not is_early:
            seat.loss = WorkerLostError(f"{seat.name} has left: {why}")  # for whoever found it here a moment ago
        try:
            if not is_early:
                async with asyncio.timeout(CLOSING_TIMEOUT_S):
                    await seat.actor.close.remote()
        except (TimeoutError, RayError):
            pass
        finally:
            recovery.kill(seat.actor)
        if recovery.free is not None:
            recovery.free(seat.rank)
        end = "its open calls are made again" if is_early else f"it had answered {seat.num_answered} calls"
        self._tell(recovery, FaultKind.LEFT, seat, f"{seat.name} has left: {why}; {end}", seat.leaves_since)

    async def _fill(self, rank: int, recovery: Recovery, lost: Seat | None) -> None:
        """Starts workers at a rank until one serves, or the budget is spent.

        Of the first one in a free place (`lost` is None) the budget takes nothing.
        """
        name, again = self._name(rank), "" if lost is None else " again"
        since = time.monotonic() if lost is None else lost.lost_at
        pause_s, is_counted = (0.0, False) if lost is None else (recovery.budget.take(name), True)
        while pause_s is not None:
            await asyncio.sleep(pause_s)
            newcomer = self._group_of_one(rank, recovery.make(rank))
            self.newcomers[rank] = newcomer
            (arrived,) = newcomer.members.seats
            try:
                async with recovery.joining(newcomer):
                    self._take_over(rank, arrived, lost)
            except SdftError as error:
                recovery.kill(arrived.actor)
                is_learners = isinstance(error, WorkerLostError) and newcomer.loss is None  # which it had asked
                if is_counted and is_learners:
                    recovery.budget.give_back(name)
                text = f"{name} could not be started{again}: {first_line(error)}"
                self._tell(recovery, FaultKind.START_FAILED, arrived, text, since)
            except Exception as error:  # a fault of this program's own, for which nobody waits
                recovery.kill(arrived.actor)
                what = f"{name} is not started{again}: {type(error).__name__}: {first_line(error)}"
                self._give_up(recovery, arrived, what, since)
                raise
            else:
                kind = FaultKind.JOINED if lost is None else FaultKind.REPLACED
                self._tell(recovery, kind, arrived, f"{name} serves{again}", since)
                return
            finally:
                del self.newcomers[rank]
            pause_s, is_counted = recovery.budget.take(name), True
        self._give_up(recovery, lost or arrived, f"{name} is not started{again}: {recovery.budget.spent}", since)

    def _take_over(self, rank: int, arrived: Seat, lost: Seat | None) -> None:
        """Gives a newcomer a seat of this group; from here on it serves."""
        seat = self._seat(rank, arrived.actor)
        seat.node = arrived.node
        if lost is None:
            self.seats.append(seat)
            self.seats.sort(key=lambda each: each.rank)
        else:
            self.seats[self.seats.index(lost)] = seat

    def _give_up(self, recovery: Recovery, seat: Seat, text: str, since: float) -> None:
        self._given_up.add(seat.rank)
        self._tell(recovery, FaultKind.GIVEN_UP, seat, text, since)

    def _tell(self, recovery: Recovery, kind: FaultKind, seat: Seat, text: str, since: float) -> None:
        lasted_s = time.monotonic() - since
        node = "" if kind in (FaultKind.START_FAILED, FaultKind.GIVEN_UP) else seat.node
        recovery.tell(Fault(kind=kind, role=self._role, rank=seat.rank, node=node, text=text, seconds=lasted_s))
