"""How lost rollout and teacher workers are replaced, wired; `learner_recovery.py` has the learner.

A group makes the calls that were open on a lost worker again on the others, and starts another in its place. The
newcomer loads the current weights before it serves, between two steps of the learner.

A rollout engine in an NCCL group is not replaced: in a broadcast its neighbours wait for it, which nothing ends, and
outside of one all of them would have to meet anew. There a loss stops the run, with a checkpoint if there is a learner.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError
from ray.experimental import get_local_object_locations

from sdft_ray.cluster.actors import Maker
from sdft_ray.faults import Fault, FaultKind
from sdft_ray.learner.group import LearnerGroup
from sdft_ray.records import Sample
from sdft_ray.rollout.pool import RolloutPool
from sdft_ray.teacher.pool import TeacherPool
from sdft_ray.workers.deadlines import Pace, Work
from sdft_ray.workers.group import WorkerGroup
from sdft_ray.workers.recovery import Recovery, RestartBudget

READY = Work("ready", pace=Pace.START)
STARTED = ("rollout", "teacher", "learner")  # in this order

Tell = Callable[[Fault], None]
IsLost = Callable[[Any], bool]  # of a payload's handle
POLL_S = 0.2  # between two looks whether the weights of a step are loaded
LOOK_TIMEOUT_S = 5.0  # for a payload on this node, which takes no time


async def start_workers(group: WorkerGroup) -> None:
    """Returns when every rollout or teacher worker of a group can be asked."""
    await group.on_all(lambda actor: actor.ready.remote(), READY)
    await group.locate()


async def start_each(starts: Mapping[str, Callable[[], Coroutine[Any, Any, None]]], *, one_by_one: bool) -> None:
    """Starts the workers of each role, the learner's last: an engine that fills its device measures what is free there.

    Args:
        starts: by role, what starts its workers.
        one_by_one: whether a role waits for the one before, the rollout workers first, as teachers leave something on
            the device, too.
    """
    if one_by_one:
        for role in sorted(starts, key=STARTED.index):
            await starts[role]()
        return
    async with asyncio.TaskGroup() as tasks:
        for role in sorted(starts, key=STARTED.index):
            tasks.create_task(starts[role]())


@asynccontextmanager
async def watching(watches: Iterable[Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Inside the block workers, or nodes, are looked at: a loss is found before a worker's next call, and workers join.

    Args:
        watches: each looks until it is cancelled.

    Raises:
        ExceptionGroup: of the block, or of a loss that nobody replaces.
    """
    async with asyncio.TaskGroup() as tasks:
        looking = [tasks.create_task(watch) for watch in watches]
        yield
        for task in looking:
            task.cancel()


def replace_lost(
    group: WorkerGroup,
    make: Maker,
    pool: RolloutPool | TeacherPool,
    unchanged: AbstractAsyncContextManager[None],
    publishable: Callable[[], int | None],
    budget: RestartBudget,
    tell: Tell,
    free: Callable[[int], None] | None = None,
) -> None:
    """Has the lost workers of a group replaced from now on.

    Args:
        group: of rollout or teacher workers that have started.
        make: makes the actor of a rank.
        pool: of the group.
        unchanged: inside it the learner changes no weights.
        publishable: the version that the learner holds, which alone it can publish; None where it is lost.
        budget: of all groups together.
        tell: is told what happens.
        free: takes the place of a rank that has left; None where no worker joins or leaves.
    """

    @asynccontextmanager
    async def joining(newcomer: WorkerGroup) -> AsyncIterator[None]:
        await start_workers(newcomer)
        while True:
            # Behind a step, until its weights are loaded, the others hold what no learner has any more.
            async with unchanged:
                version = publishable()
                if version is not None and pool.holds(version):
                    async with pool.holding_current(newcomer):
                        yield
                    return
            await asyncio.sleep(POLL_S)

    group.replace_lost(Recovery(make=make, joining=joining, budget=budget, tell=tell, free=free))


def score_lost_again(
    learner: LearnerGroup, teacher: TeacherPool, group: WorkerGroup, tell: Tell, is_lost: IsLost | None = None
) -> None:
    """Has samples whose payload is gone scored again before the learner reads them.

    The driver owns the handles, and the node a payload was made on keeps it: a dead worker loses none, a dead node all
    of its own. Payloads are looked at only once a teacher worker has been lost. A rank that meets a lost payload all
    the same, in the seconds before Ray knows of the dead node, ends the step, and the learner is restored.
    """
    is_lost = is_lost or _is_lost

    async def with_payload(sample: Sample) -> Sample:
        if not group.members.num_lost or not is_lost(sample.scores.payload):
            return sample
        text = f"{sample.example_id}: its payload was lost"
        tell(Fault(kind=FaultKind.RESCORED, role="teacher", rank=-1, node="", text=text))
        return await teacher.score_again(sample)

    learner.check_payloads(with_payload)


def _is_lost(payload: Any) -> bool:
    """True when Ray has put an error in the place of a payload; it lies on this node then, the driver's."""
    here = ray.get_runtime_context().get_node_id()
    if here not in get_local_object_locations([payload]).get(payload, {}).get("node_ids", []):
        return False  # where it lies only a rank may read it: it would come here
    try:
        ray.get(payload, timeout=LOOK_TIMEOUT_S)
    except ObjectLostError:
        return True
    except GetTimeoutError:
        pass  # a rank may still have it
    return False
