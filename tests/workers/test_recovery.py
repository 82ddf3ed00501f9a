"""Workers that are lost and replaced, in memory: whatever is going on when one dies."""

import asyncio
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayError, WorkerCrashedError

from sdft_ray.cluster.recovery import replace_lost, score_lost_again, watching
from sdft_ray.config import TeacherConfig
from sdft_ray.errors import EngineError, WorkerLostError
from sdft_ray.faults import Fault, FaultKind
from sdft_ray.loop import LoopConfig, train
from sdft_ray.records import Publication, Rollout, Sample
from sdft_ray.rollout.pool import RolloutPool
from sdft_ray.teacher.pool import TeacherPool
from sdft_ray.weights.channel import WeightChannel
from sdft_ray.workers.deadlines import Work
from sdft_ray.workers.group import WorkerGroup
from sdft_ray.workers.recovery import RestartBudget
from tests.fakes import (
    FakeCompletions,
    FakeEvaluator,
    FakeExamples,
    FakeLearner,
    FakeTeacher,
    FakeTracker,
    make_example,
    make_status,
)
from tests.weights.plans import make_plan
from tests.workers.actors import QUICK, Method, Plan, make_pool


async def run_loop(plan: Plan, size: int, **settings: Any) -> FakeLearner:
    """Six steps of four samples with rollout workers that fail as planned."""
    learner = FakeLearner()
    cfg = LoopConfig(num_steps=6, batch_size=4, max_staleness=settings.pop("max_staleness", 0))
    await train(
        cfg,
        examples=FakeExamples(),
        completions=make_pool(plan, size, **settings),
        teacher=FakeTeacher(),
        learner=learner,
        evaluator=FakeEvaluator(),
        tracker=FakeTracker(),
    )
    return learner


def assert_each_example_trained_once_on_policy(learner: FakeLearner) -> None:
    trained = [example for batch in learner.batches for example in batch]
    assert trained == [f"example-{index}" for index in range(24)]
    assert set(learner.staleness) == {0}, "a newcomer has sampled with other weights than the current ones"


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("call", ["complete", "load"])
@pytest.mark.parametrize("how", ["dies", "hangs"])
async def test_a_worker_lost_at_any_call_is_replaced_and_each_example_trained_exactly_once(
    size: int, call: str, how: str
) -> None:
    plan = Plan(**{call: {0: 3}}, **({"hangs": {}} if how == "hangs" else {}))
    learner = await run_loop(plan, size)
    assert_each_example_trained_once_on_policy(learner)
    lost = FaultKind.HUNG if how == "hangs" else FaultKind.LOST
    assert plan.kinds == [lost, FaultKind.REPLACED]
    assert len(plan.made) == size + 1
    assert plan.made[0].died.is_set(), "what hangs is killed, or its memory would stay taken"


@pytest.mark.parametrize(
    "death",
    [OutOfMemoryError("1 worker(s) were killed."), NodeDiedError("It is gone."), WorkerCrashedError()],
    ids=type,
)
async def test_a_worker_is_replaced_whatever_ray_calls_its_death(death: RayError) -> None:
    plan = Plan(complete={0: 3})
    plan.death = death
    assert_each_example_trained_once_on_policy(await run_loop(plan, 2))
    assert plan.kinds == [FaultKind.LOST, FaultKind.REPLACED]
    assert str(death).splitlines()[0].strip(".") in plan.faults[0].text


async def test_two_that_die_at_once_are_both_replaced() -> None:
    plan = Plan(complete={0: 5, 1: 5})
    assert_each_example_trained_once_on_policy(await run_loop(plan, 2))
    assert Counter(plan.kinds) == {FaultKind.LOST: 2, FaultKind.REPLACED: 2}


async def test_one_that_dies_while_it_starts_is_started_again() -> None:
    plan = Plan(complete={0: 3}, start={0: 1})
    assert_each_example_trained_once_on_policy(await run_loop(plan, 1))
    assert plan.kinds == [FaultKind.LOST, FaultKind.START_FAILED, FaultKind.REPLACED]


async def test_one_that_dies_while_it_loads_the_current_weights_is_started_again() -> None:
    plan = Plan(complete={0: 9}, load={0: 3})  # two versions are loaded by then; the third load is the newcomer's
    assert_each_example_trained_once_on_policy(await run_loop(plan, 1))
    assert plan.kinds == [FaultKind.LOST, FaultKind.START_FAILED, FaultKind.REPLACED]


async def test_work_goes_on_with_the_others_once_the_budget_is_spent() -> None:
    plan = Plan(complete={0: 3})
    assert_each_example_trained_once_on_policy(await run_loop(plan, 2, max_restarts=0))
    assert plan.kinds == [FaultKind.LOST, FaultKind.GIVEN_UP]


async def test_with_none_left_the_run_stops_and_names_role_node_and_cause() -> None:
    plan = Plan(complete={0: 3})
    with pytest.raises(ExceptionGroup) as caught:
        await run_loop(plan, 1, max_restarts=0)
    error = caught.value.exceptions[0]
    assert isinstance(error, WorkerLostError)
    assert "No rollout worker is left, and faults.max_restarts=0 within an hour are used up" in str(error)
    assert "rollout worker 0 was lost: its process has died" in str(error)
    assert "logs/rollout-0.log" in str(error)


async def test_a_start_that_never_ends_stops_the_run_after_the_longest_wait() -> None:
    plan = Plan(complete={0: 1}, start={0: 1}, hangs={})
    pool = make_pool(plan, 1, faults=replace(QUICK, start_s=30.0, first_call_s=30.0, hang_s=30.0, max_wait_s=0.3))
    plan.made[0].died.set()
    with pytest.raises(WorkerLostError, match="none has come back within faults.max_wait_s=0.3"):
        await pool.complete(make_example(0))


async def test_a_worker_whose_engine_has_died_counts_as_lost() -> None:
    plan = Plan()
    pool = make_pool(plan, 2)

    async def die(example: Any) -> Rollout:
        raise EngineError("rollout worker 0: vLLM's engine has died: out of memory")

    plan.made[0].complete = Method(plan.made[0], die)
    rollout = await pool.complete(make_example(7))
    assert rollout.prompt_tokens[-1] == 7
    assert plan.kinds[0] is FaultKind.LOST
    assert "out of memory" in plan.faults[0].text


async def test_an_asynchronous_run_survives_a_loss_within_its_bound() -> None:
    plan = Plan(complete={0: 7, 1: 9})
    learner = await run_loop(plan, 2, max_staleness=2)
    assert [example for batch in learner.batches for example in batch] == [f"example-{index}" for index in range(24)]
    assert min(learner.staleness) >= 0 and max(learner.staleness) <= 2


async def test_a_run_that_is_cancelled_while_a_worker_is_lost_ends() -> None:
    plan = Plan(complete={0: 1}, hangs={})
    pool = make_pool(plan, 1, max_restarts=0)
    open_call = asyncio.create_task(pool.complete(make_example(0)))
    await asyncio.sleep(0.05)
    open_call.cancel()
    plan.made[0].died.set()
    with pytest.raises(asyncio.CancelledError):
        await open_call


async def test_teachers_that_are_replaced_load_the_average_of_the_current_version() -> None:
    loaded: list[tuple[int, str, int]] = []

    class Teacher:
        def __init__(self, name: int):
            self.died = asyncio.Event()

            async def load(publication: Publication) -> int:
                loaded.append((name, "load", publication.version))
                return publication.version

            async def nothing() -> str:
                return ""

            self.load_weights, self.node = Method(self, load), Method(self, nothing)  # type: ignore[arg-type]

    async def publish(kind: Any, version: int) -> Publication:
        return Publication(version=version, buckets=())

    group = WorkerGroup("teacher", [Teacher(0)], "logs", faults=QUICK)
    pool = TeacherPool(group, WeightChannel(publish, 10.0), make_plan(teacher=TeacherConfig()))
    newcomer = WorkerGroup("teacher", [Teacher(1)], "logs", faults=QUICK)
    async with pool.holding_current(newcomer):
        assert loaded == [], "version 0 is the model folder's"
    await pool.load_weights(5)
    async with pool.holding_current(newcomer):
        assert loaded[-1] == (1, "load", 5)


def test_restarts_within_an_hour_are_counted_and_wait_longer_each_time() -> None:
    now = [0.0]
    budget = RestartBudget(5, clock=lambda: now[0])
    assert [budget.take("a") for _ in range(4)] == [0.0, 1.0, 2.0, 4.0]
    assert budget.take("b") == 0.0, "another worker"
    assert budget.take("a") is None
    now[0] = 3601.0
    assert budget.take("a") == 0.0


class Publisher:
    """The learner as newcomers need it: what it holds, and whether it is there."""

    def __init__(self, version: int | None):
        self.version = version
        self.loss: WorkerLostError | None = None

    def publishable(self) -> int | None:
        return self.version

    async def publish(self, kind: Any, version: int) -> Publication:
        await asyncio.sleep(0.001)
        if self.loss:
            raise self.loss
        assert version == self.version, "the learner holds another"
        return Publication(version=version, buckets=())


def make_published_pool(plan: Plan, publisher: Publisher, budget: RestartBudget) -> RolloutPool:
    """A pool wired as in a run."""
    group = WorkerGroup("rollout", [plan.make(0)], "logs", faults=QUICK)
    pool = RolloutPool(group, WeightChannel(publisher.publish, 10.0))
    replace_lost(group, plan.make, pool, asyncio.Lock(), publisher.publishable, budget, plan.faults.append)
    assert group.members.recovery is not None
    group.members.recovery = replace(group.members.recovery, kill=lambda actor: actor.died.set())
    return pool


async def served(pool: RolloutPool) -> int:
    return (await asyncio.wait_for(pool.complete(make_example(1)), 5)).weight_version


async def test_a_newcomer_waits_until_the_others_hold_what_the_learner_can_publish() -> None:
    """Behind a step, until its weights are loaded, the others hold a version that no learner has any more."""
    plan, publisher = Plan(), Publisher(1)
    pool = make_published_pool(plan, publisher, RestartBudget(9))
    await pool.load_weights(1)
    publisher.version = 2  # a step was taken
    plan.made[0].died.set()
    waiting = asyncio.create_task(served(pool))
    await asyncio.sleep(0.5)
    assert not waiting.done() and plan.kinds == [FaultKind.LOST]
    await pool.load_weights(2)
    assert await waiting == 2
    assert plan.kinds == [FaultKind.LOST, FaultKind.REPLACED]


async def test_newcomers_that_meet_a_dead_learner_take_nothing_of_the_budget_and_wait_for_the_next() -> None:
    plan, publisher = Plan(), Publisher(1)
    budget = RestartBudget(2)
    pool = make_published_pool(plan, publisher, budget)
    await pool.load_weights(1)
    publisher.loss = WorkerLostError("learner worker 0 was lost: killed")  # and nobody has found it yet
    plan.made[0].died.set()
    waiting = asyncio.create_task(served(pool))
    await asyncio.sleep(0.3)
    publisher.version = None  # it is known now
    await asyncio.sleep(0.3)
    publisher.version, publisher.loss = 1, None
    assert await waiting == 1
    assert FaultKind.GIVEN_UP not in plan.kinds
    assert budget.take("another") == 0.0, "one start was taken, by the worker that was lost"


@pytest.mark.parametrize("how", ["dies", "hangs"])
async def test_an_idle_worker_that_is_lost_is_found_and_replaced_before_it_gets_work(how: str) -> None:
    plan = Plan()
    pool = make_pool(plan, 2)
    group = pool._group
    idle = plan.made[1]
    if how == "dies":
        idle.died.set()
    else:
        idle.status = Method(idle, lambda: asyncio.sleep(3600))
    began = time.monotonic()
    async with asyncio.timeout(5):
        async with watching([group.watch(list)]):
            while FaultKind.REPLACED not in plan.kinds:
                await asyncio.sleep(0.01)
    assert time.monotonic() - began < 1.5 * QUICK.hang_s
    assert plan.kinds == [FaultKind.HUNG if how == "hangs" else FaultKind.LOST, FaultKind.REPLACED]


async def test_an_idle_worker_that_is_lost_and_not_replaced_ends_what_goes_on() -> None:
    plan = Plan()
    group = WorkerGroup("learner", [plan.make(0)], "logs", faults=QUICK)
    plan.made[0].status = Method(plan.made[0], lambda: asyncio.sleep(3600))
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.timeout(5), watching([group.watch(list)]):
            await asyncio.sleep(3600)  # sampling, for which the learner waits
    assert caught.group_contains(WorkerLostError, match="heartbeat")


async def test_a_worker_that_works_is_not_lost_where_it_does_not_tell_whether_it_is_there() -> None:
    """A rank answers nothing while it computes."""
    plan = Plan()
    group = WorkerGroup("learner", [plan.make(0)], "logs", faults=replace(QUICK, hang_s=0.2, first_call_s=9.0))
    plan.made[0].status = Method(plan.made[0], lambda: asyncio.sleep(3600))
    plan.made[0].ready = Method(plan.made[0], lambda: asyncio.sleep(1.0))
    async with asyncio.timeout(5), watching([group.watch(list)]):
        await group.on_all(lambda actor: actor.ready.remote(), Work("accumulate"))


async def test_one_look_tells_of_every_worker_and_a_busy_one_is_not_asked_again_before_it_has_answered() -> None:
    plan, told = Plan(), Counter[int]()
    group = WorkerGroup("rollout", [plan.make(0), plan.make(1)], "logs", faults=replace(QUICK, hang_s=0.4))
    may_answer, asked = asyncio.Event(), Counter[int]()

    async def status(rank: int) -> Any:
        asked[rank] += 1
        if rank == 1:
            await may_answer.wait()
        return make_status("rollout", rank)

    for actor in plan.made:
        actor.status = Method(actor, partial(status, actor.rank))
        actor.ready = Method(actor, may_answer.wait)
    busy = asyncio.create_task(group.on_all(lambda actor: actor.ready.remote(), Work("complete")))
    tell = lambda statuses: told.update(status.rank for status in statuses)  # noqa: E731
    async with asyncio.timeout(5), watching([group.watch(tell)]):
        while told[0] < 4:
            await asyncio.sleep(0.01)
        assert (asked[0], asked[1], told[1]) == (4, 1, 0)
        may_answer.set()
        await busy
        while not told[1]:
            await asyncio.sleep(0.01)


class LossyTeacher(FakeTeacher):
    """Its first payload of an example is lost after it was made."""

    def __init__(self) -> None:
        super().__init__()
        self.rescored: list[str] = []

    async def score_again(self, sample: Sample) -> Sample:
        self.rescored.append(sample.example_id)
        assert sample.teacher_prompt_tokens == make_example(int(sample.example_id[8:])).teacher_prompt_tokens
        return replace(sample, scores=replace(sample.scores, payload="whole"))


class Taught(FakeLearner):
    """Looks at its samples as `LearnerGroup` does, and notes their payloads."""

    def __init__(self) -> None:
        super().__init__()
        self.payloads: list[Any] = []

    def check_payloads(self, with_payload: Any) -> None:
        self.with_payload = with_payload

    async def step(self, samples: Any) -> Any:
        async def looked_at() -> Any:
            async for sample in samples:
                sample = await self.with_payload(sample)
                self.payloads.append(sample.scores.payload)
                yield sample

        return await super().step(looked_at())


async def test_a_payload_produced_but_not_used_when_its_node_dies_is_scored_again() -> None:
    class Payloads(LossyTeacher):
        async def score(self, example: Any, rollout: Any) -> Any:
            payload = "lost" if example.seed in (3, 5) else "whole"
            return replace(await super().score(example, rollout), payload=payload)

    teacher, learner, told = Payloads(), Taught(), list[Fault]()
    group = WorkerGroup("teacher", [object()], "logs")
    group.members.num_lost = 1
    score_lost_again(learner, teacher, group, told.append, lambda payload: payload == "lost")  # type: ignore[arg-type]
    await train(
        LoopConfig(num_steps=2, batch_size=4),
        examples=FakeExamples(),
        completions=FakeCompletions(),
        teacher=teacher,
        learner=learner,
        evaluator=FakeEvaluator(),
        tracker=FakeTracker(),
    )
    assert teacher.rescored == ["example-3", "example-5"]
    assert learner.payloads == ["whole"] * 8
    assert [fault.kind for fault in told] == [FaultKind.RESCORED] * 2
