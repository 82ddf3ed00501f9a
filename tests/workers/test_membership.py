"""Workers that join a running job and leave it, in memory, with places that come and nodes that are drained."""

import asyncio
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sdft_ray.cluster.elasticity import Elasticity
from sdft_ray.cluster.job import Job
from sdft_ray.cluster.recovery import watching
from sdft_ray.errors import WorkerLostError
from sdft_ray.faults import FaultKind
from sdft_ray.launch import compose_config
from sdft_ray.loop import LoopConfig, train
from sdft_ray.records import Publication, Rollout
from sdft_ray.rollout.pool import RolloutPool
from tests.fakes import FakeEvaluator, FakeExamples, FakeLearner, FakeTeacher, FakeTracker, make_example
from tests.workers.actors import QUICK, Plan, make_pool


class Nodes:
    """Places by rank, and the nodes that are drained."""

    def __init__(self, *nodes: str):
        self.places = list(nodes)  # "" where there is none yet
        self.draining: dict[str, int] = {}

    def node_ids(self) -> dict[int, str]:
        return dict(enumerate(self.places))

    def renew(self, rank: int) -> None:
        self.places[rank] = ""


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.setattr("sdft_ray.cluster.elasticity.POLL_S", 0.001)
    return Plan()


def make_elastic_pool(plan: Plan, nodes: Nodes, size: int = 1, **settings: Any) -> tuple[RolloutPool, Elasticity]:
    pool = make_pool(plan, size, free=nodes.renew, **settings)
    return pool, Elasticity(pool._group.members, nodes, lambda: dict(nodes.draining))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


async def open_calls_while_the_second_drains(
    plan: Plan, pool: RolloutPool, nodes: Nodes
) -> list["asyncio.Task[Rollout]"]:
    """Two calls on each of two workers, the second of which leaves; they are answered once `plan.may_complete`."""
    plan.may_complete.clear()
    calls = [asyncio.create_task(pool.complete(make_example(index))) for index in range(4)]
    await until(lambda: plan.calls["complete", 1] == 2)
    nodes.draining["second"] = 0
    await until(lambda: not pool._group._seats[1].serves)
    return calls


def ranks(pool: RolloutPool) -> list[int]:
    return [seat.rank for seat in pool._group._seats]


async def test_a_worker_that_joins_in_mid_run_samples_with_the_current_weights_and_leaves_behind_its_work(
    plan: Plan,
) -> None:
    nodes = Nodes("first", "")

    class Learner(FakeLearner):
        async def step(self, samples: Any) -> Any:
            if self.weight_version == 2:
                nodes.places[1] = "second"
                await until(lambda: FaultKind.JOINED in plan.kinds)
            if self.weight_version == 6:
                assert plan.calls["complete", 1] > 0
                nodes.draining["second"] = 0
                await until(lambda: FaultKind.LEFT in plan.kinds)
            return await super().step(samples)

    learner, tracker = Learner(), FakeTracker()
    pool, elasticity = make_elastic_pool(plan, nodes, max_restarts=0)
    roles = {"completions": pool, "teacher": FakeTeacher(), "learner": learner, "evaluator": FakeEvaluator()}
    async with asyncio.timeout(10), watching([elasticity.watch()]):
        await train(LoopConfig(num_steps=9, batch_size=4), examples=FakeExamples(), tracker=tracker, **roles)
    assert [each for batch in learner.batches for each in batch] == [f"example-{index}" for index in range(36)]
    assert set(learner.staleness) == {0}, "a newcomer has sampled with other weights than the current ones"
    assert set(plan.completed.values()) == {1}, "nothing was made again"
    assert plan.kinds == [FaultKind.JOINED, FaultKind.LEFT]
    assert "rollout worker 1 has left: its node is drained; it had answered" in plan.faults[-1].text
    assert ranks(pool) == [0] and plan.made[1].is_closed and plan.made[1].died.is_set()


async def test_one_that_leaves_gets_no_new_calls_and_answers_the_open_ones(plan: Plan) -> None:
    nodes = Nodes("first", "second")
    pool, elasticity = make_elastic_pool(plan, nodes, size=2, max_restarts=0)
    async with watching([elasticity.watch()]):
        old = await open_calls_while_the_second_drains(plan, pool, nodes)
        new = [asyncio.create_task(pool.complete(make_example(index))) for index in range(4, 8)]
        await until(lambda: plan.calls["complete", 0] == 6)
        assert plan.kinds == [] and not plan.made[1].is_closed
        await pool.load_weights(3)
        assert plan.made[1].version == 3, "its completions go on with the weights of all others"
        plan.may_complete.set()
        await asyncio.gather(*old, *new)
        await until(lambda: plan.kinds == [FaultKind.LEFT])
    assert plan.calls["complete", 1] == 2
    assert set(plan.completed.values()) == {1}


async def test_the_work_of_one_whose_node_did_not_wait_is_made_again_and_takes_nothing_of_the_budget(
    plan: Plan,
) -> None:
    nodes = Nodes("first", "second")
    pool, elasticity = make_elastic_pool(plan, nodes, size=2, max_restarts=0)
    async with watching([elasticity.watch()]):
        calls = await open_calls_while_the_second_drains(plan, pool, nodes)
        plan.made[1].died.set()
        await until(lambda: plan.kinds == [FaultKind.LEFT])
        plan.may_complete.set()
        await asyncio.gather(*calls)
    assert pool._group.members.num_lost == 0
    assert "its open calls are made again" in plan.faults[0].text
    assert set(plan.completed.values()) == {1}


async def test_where_all_have_left_calls_wait_for_one_that_joins_on_another_node(plan: Plan) -> None:
    nodes = Nodes("first")
    pool, elasticity = make_elastic_pool(plan, nodes)
    async with watching([elasticity.watch()]):
        await pool.load_weights(4)
        nodes.draining["first"] = 0
        await until(lambda: ranks(pool) == [])
        await pool.load_weights(5)
        call = asyncio.create_task(pool.complete(make_example(1)))
        await asyncio.sleep(0.05)
        assert not call.done() and nodes.places == [""], "its place is asked for anew"
        nodes.places[0] = "second"
        assert (await call).weight_version == 5
    assert plan.kinds == [FaultKind.LEFT, FaultKind.JOINED]


async def test_where_all_have_left_and_none_joins_the_run_stops_after_the_longest_wait(plan: Plan) -> None:
    nodes = Nodes("first")
    pool, elasticity = make_elastic_pool(plan, nodes, faults=type(QUICK)(max_wait_s=0.2))
    with pytest.raises(WorkerLostError) as caught:
        pool._group.members.leave(0, "its node is drained")
        await pool.complete(make_example(1))
    assert "none has come back within faults.max_wait_s=0.2. The last one: rollout worker 0 has left" in str(
        caught.value
    )


async def test_one_that_cannot_start_is_tried_again_within_the_budget_and_then_no_more(plan: Plan) -> None:
    plan.fates["start"] = {1: 1}
    nodes = Nodes("first", "second")
    pool, elasticity = make_elastic_pool(plan, nodes, max_restarts=0)
    async with watching([elasticity.watch()]):
        await until(lambda: FaultKind.GIVEN_UP in plan.kinds)
        await asyncio.sleep(0.05)
        await pool.complete(make_example(1))
    assert plan.kinds == [FaultKind.START_FAILED, FaultKind.GIVEN_UP]
    assert len(plan.made) == 2


async def test_a_place_on_a_node_that_is_drained_before_a_worker_is_there_is_asked_for_elsewhere(plan: Plan) -> None:
    nodes = Nodes("first", "second")
    nodes.draining["second"] = 0
    _, elasticity = make_elastic_pool(plan, nodes)
    async with watching([elasticity.watch()]):
        await until(lambda: nodes.places[1] == "")
    assert len(plan.made) == 1


async def test_one_that_leaves_between_a_call_to_all_and_its_own_part_of_it_is_not_asked(plan: Plan) -> None:
    group = make_elastic_pool(plan, Nodes("first", "second"), size=2)[0]._group
    publication = Publication(version=7, buckets=())
    loading = asyncio.create_task(group.on_serving(lambda actor: actor.load_weights.remote(publication)))
    group.members.leave(1, "its node is drained")
    assert await loading == {0: 7}
    await until(lambda: plan.kinds == [FaultKind.LEFT])


async def test_a_node_that_is_drained_while_a_run_evaluates_loses_no_worker(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first step, between stages and behind the last one nobody trains."""
    nodes = Nodes("first", "second")
    pool, elasticity = make_elastic_pool(plan, nodes, size=2, max_restarts=0)

    async def start_roles(*_: object) -> Any:
        return SimpleNamespace(elasticity=[elasticity], close=lambda: None)

    class Evaluated(Exception):
        pass

    class Evaluating(Job):
        async def _run(self, roles: Any) -> Any:
            answers = [asyncio.create_task(pool.complete(make_example(0))) for _ in range(4)]
            await until(lambda: plan.calls["complete", 1] == 2)
            nodes.draining["second"] = 0
            plan.may_complete.set()
            await asyncio.gather(*answers)
            await until(lambda: plan.kinds == [FaultKind.LEFT])
            raise Evaluated

    class Quiet(nullcontext[Any]):
        dashboard = warning = ""
        say = phase = counting = tell = _introduce = listen = close = lambda *_: None

        def __enter__(self) -> Any:
            return self

        async def watch(self) -> None:
            await asyncio.sleep(3600)

    job = Evaluating.__new__(Evaluating)
    quiet = Quiet()
    vars(job).update(_cfg=compose_config("+cluster=local", "name=a-run", "preflight=false"), _stages=[], _saving=None)
    vars(job).update(console=quiet, _status=quiet, _faults=quiet, _termination=quiet, _introduce=quiet.say)
    vars(job).update(folder=SimpleNamespace(path=Path("a-run")))
    monkeypatch.setattr("sdft_ray.cluster.job.RaySession", lambda *_: quiet)
    monkeypatch.setattr("sdft_ray.cluster.job.start_roles", start_roles)
    plan.may_complete.clear()
    with pytest.raises(ExceptionGroup) as ended:
        await job.run()
    assert ended.group_contains(Evaluated)
    assert pool._group.members.num_lost == 0
