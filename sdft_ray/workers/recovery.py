"""What a group of workers needs in order to replace those that are lost."""

import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray

from sdft_ray.faults import Fault

if TYPE_CHECKING:
    from sdft_ray.workers.group import WorkerGroup

HOUR_S = 3600.0
LONGEST_PAUSE_S = 60.0


class RestartBudget:
    """How many workers may be started anew within an hour, by all groups that share it."""

    def __init__(self, max_restarts: int, clock: Callable[[], float] = time.monotonic):
        self.max_restarts = max_restarts
        self._clock = clock
        self._taken: deque[tuple[float, str]] = deque()

    @property
    def spent(self) -> str:
        """What to say where there is nothing left."""
        return f"faults.max_restarts={self.max_restarts} within an hour are used up"

    def take(self, worker: str) -> float | None:
        """Takes one start of `worker`; the seconds to wait before it, None where the budget is spent.

        A worker's first start within an hour waits for nothing, the second for 1 s, every further one twice as long.
        """
        now = self._clock()
        while self._taken and now - self._taken[0][0] >= HOUR_S:
            self._taken.popleft()
        if len(self._taken) >= self.max_restarts:
            return None
        num_before = sum(name == worker for _, name in self._taken)
        self._taken.append((now, worker))
        return min(LONGEST_PAUSE_S, 2.0 ** (num_before - 1)) if num_before else 0.0

    def give_back(self, worker: str) -> None:
        """Gives the newest start of `worker` back, which has failed by no fault of the worker."""
        newest = max((taken for taken in self._taken if taken[1] == worker), default=None)
        if newest is not None:
            self._taken.remove(newest)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recovery:
    """How one group replaces a lost worker, and starts one that joins."""

    make: Callable[[int], Any]  # the actor of a rank, in its place
    # Starts a newcomer, a group of one; inside the block it holds the weights of all others, and none are loaded.
    joining: Callable[["WorkerGroup"], AbstractAsyncContextManager[None]]
    budget: RestartBudget
    tell: Callable[[Fault], None]
    kill: Callable[[Any], None] = ray.kill
    free: Callable[[int], None] | None = (
        None  # takes the place of a rank that has left; None where none joins or leaves
    )
