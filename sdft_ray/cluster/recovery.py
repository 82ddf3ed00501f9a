"""What a run survives, wired: lost rollout and teacher workers are replaced, a lost learner is built anew.

    a worker is lost     -> its group makes its open calls again on the others, and starts another in its place
    a learner is lost    -> the loop ends; all ranks are started anew and load the newest checkpoint; the loop begins
                            again at its version, with workers that have gone on running

A rollout engine in an NCCL group is not replaced: its neighbours wait for it in a broadcast that nothing ends, and
vLLM makes such a group once. There a loss stops the run, with a checkpoint if the learner still answers.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from sdft_ray.cluster.actors import Maker
from sdft_ray.faults import Fault
from sdft_ray.workers import Pace, Recovery, RestartBudget, Work, WorkerGroup

READY = Work("ready", pace=Pace.START)

Tell = Callable[[Fault], None]


class Pool(Protocol):
    """What holds the weight version of a group."""

    def holding_current(self, newcomer: WorkerGroup) -> AbstractAsyncContextManager[None]:
        """Inside the block a newcomer, which has started, holds the weights of all others, and none are loaded."""
        ...


async def start_workers(group: WorkerGroup) -> None:
    """Returns when every rollout or teacher worker of a group can be asked."""
    await group.on_all(lambda actor: actor.ready.remote(), READY)
    await group.locate()


def replace_lost(
    group: WorkerGroup,
    make: Maker,
    pool: Pool,
    unchanged: AbstractAsyncContextManager[None],
    budget: RestartBudget,
    tell: Tell,
) -> None:
    """Has the lost workers of a group replaced from now on.

    Args:
        group: of rollout or teacher workers that have started.
        make: makes the actor of a rank.
        pool: of the group.
        unchanged: inside it the learner changes no weights.
        budget: of all groups together.
        tell: is told what happens.
    """

    @asynccontextmanager
    async def joining(newcomer: WorkerGroup) -> AsyncIterator[None]:
        await start_workers(newcomer)
        async with unchanged, pool.holding_current(newcomer):
            yield

    group.replace_lost(Recovery(make=make, joining=joining, budget=budget, tell=tell))
