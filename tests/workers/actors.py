"""Rollout workers in memory, which die, stop or answer as a plan says, and pools of them."""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Any

from ray.exceptions import ActorDiedError, RayError

from sdft_ray.config import FaultsConfig
from sdft_ray.faults import Fault, FaultKind
from sdft_ray.records import Publication, Rollout, WorkerStatus
from sdft_ray.rollout.pool import RolloutPool
from sdft_ray.weights.channel import WeightChannel
from sdft_ray.workers.deadlines import Work
from sdft_ray.workers.group import WorkerGroup
from sdft_ray.workers.recovery import Recovery, RestartBudget
from tests.fakes import make_rollout, make_status

QUICK = FaultsConfig(hang_s=1.0, first_call_s=1.0, start_s=1.0, max_wait_s=9.0)


class Method:
    """What an actor's method looks like to a caller; a dead actor's answers are errors, open ones too."""

    def __init__(self, actor: "Actor", method: Any):
        self._actor, self._method = actor, method

    async def remote(self, *args: Any) -> Any:
        answer = asyncio.ensure_future(self._method(*args))
        died = asyncio.ensure_future(self._actor.died.wait())
        await asyncio.wait([answer, died], return_when=asyncio.FIRST_COMPLETED)
        died.cancel()
        if self._actor.died.is_set():
            answer.cancel()
            raise self._actor.plan.death
        return answer.result()


class Actor:
    """A rollout worker in memory, which dies or stops where its plan says so."""

    def __init__(self, rank: int, plan: "Plan"):
        self.rank, self.plan = rank, plan
        self.version = 0
        self.died = asyncio.Event()
        self.ready = Method(self, self._ready)
        self.node = Method(self, self._node)
        self.status = Method(self, self._status)  # a newcomer is looked at as soon as it has its place
        self.complete = Method(self, self._complete)
        self.load_weights = Method(self, self._load_weights)
        self.close = Method(self, self._close)
        self.is_closed = False

    async def _ready(self) -> int:
        await self.plan.meet("start", self)
        return 0

    async def _node(self) -> str:
        return f"10.0.0.{self.rank}"

    async def _status(self) -> WorkerStatus:
        return make_status("rollout", self.rank)

    async def _complete(self, example: Any) -> Rollout:
        version = self.version
        await self.plan.meet("complete", self)
        await self.plan.may_complete.wait()
        assert not self.is_closed
        self.plan.completed[example.example_id] += 1
        return make_rollout(example, version)

    async def _load_weights(self, publication: Publication) -> int:
        assert not self.is_closed
        await self.plan.meet("load", self)
        self.version = publication.version
        return self.version

    async def _close(self) -> None:
        self.is_closed = True
        await asyncio.sleep(0.01)  # an engine takes seconds


class Plan:
    """Which actor of which place dies at which of its calls; actors are counted by place."""

    def __init__(self, **fates: dict[int, int]):
        """`complete={0: 3}` kills the first actor at rank 0 at its third completion; `hangs` stops it instead."""
        self.fates = fates
        self.death: RayError = ActorDiedError()
        self.calls: Counter[tuple[str, int]] = Counter()
        self.completed: Counter[str] = Counter()
        self.made: list[Actor] = []
        self.faults: list[Fault] = []
        self.may_complete = asyncio.Event()  # what has been asked for stays open without
        self.may_complete.set()

    def make(self, rank: int) -> Actor:
        self.made.append(Actor(rank, self))
        return self.made[-1]

    async def meet(self, kind: str, actor: Actor) -> None:
        await asyncio.sleep(0.001)
        self.calls[kind, actor.rank] += 1
        due = self.fates.get(kind, {}).get(actor.rank)
        if due is not None and self.calls[kind, actor.rank] >= due:
            del self.fates[kind][actor.rank]
            if "hangs" in self.fates:
                await asyncio.sleep(3600)
            actor.died.set()
            await asyncio.sleep(3600)

    @property
    def kinds(self) -> list[FaultKind]:
        return [fault.kind for fault in self.faults]


def make_pool(
    plan: Plan,
    size: int,
    max_restarts: int = 10,
    faults: FaultsConfig = QUICK,
    free: Callable[[int], None] | None = None,
) -> RolloutPool:
    """A pool whose group replaces its actors as the plan makes them; `free` takes places of those that have left."""
    group = WorkerGroup("rollout", [plan.make(rank) for rank in range(size)], "logs", faults=faults)

    async def publish(kind: Any, version: int) -> Publication:
        await asyncio.sleep(0.001)
        return Publication(version=version, buckets=())

    pool = RolloutPool(group, WeightChannel(publish, 10.0))

    @asynccontextmanager
    async def joining(newcomer: WorkerGroup) -> Any:
        await newcomer.on_all(lambda actor: actor.ready.remote(), Work("ready"))
        await newcomer.locate()
        async with pool.holding_current(newcomer):
            yield

    budget = RestartBudget(max_restarts)
    group.replace_lost(
        Recovery(
            make=plan.make,
            joining=joining,
            budget=budget,
            tell=plan.faults.append,
            kill=lambda actor: actor.died.set(),
            free=free,
        )
    )
    return pool
