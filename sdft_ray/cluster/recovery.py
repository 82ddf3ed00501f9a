"""How lost rollout and teacher workers are replaced, wired; `learner_recovery.py` has the learner.

A group makes the calls that were open on a lost worker again on the others, and starts another in its place. The
newcomer loads the current weights before it serves, between two steps of the learner.

A rollout engine in an NCCL group is not replaced: its neighbours wait for it in a broadcast that nothing ends, and
vLLM makes such a group once. There a loss stops the run, with a checkpoint if the learner still answers.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from sdft_ray.cluster.actors import Maker
from sdft_ray.faults import Fault
from sdft_ray.rollout.pool import RolloutPool
from sdft_ray.teacher.pool import TeacherPool
from sdft_ray.workers import Pace, Recovery, RestartBudget, Work, WorkerGroup

READY = Work("ready", pace=Pace.START)

Tell = Callable[[Fault], None]


async def start_workers(group: WorkerGroup) -> None:
    """Returns when every rollout or teacher worker of a group can be asked."""
    await group.on_all(lambda actor: actor.ready.remote(), READY)
    await group.locate()


def replace_lost(
    group: WorkerGroup,
    make: Maker,
    pool: RolloutPool | TeacherPool,
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
