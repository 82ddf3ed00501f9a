"""Whose turn it is, with workers in memory that say when they sleep, and what is asked of an engine that woke."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from ray.exceptions import ActorDiedError

from sdft_ray.cluster.in_turns import CompletionsInTurns, EvaluatorInTurns, LearnerInTurns, WakeCheck
from sdft_ray.cluster.recovery import start_each
from sdft_ray.cluster.turns import Turns
from sdft_ray.config import ClusterConfig, LearnerConfig, Precision, RolePlacement, RunConfig
from sdft_ray.errors import ConfigError, GuardError, WorkerLostError
from sdft_ray.examples import GuardRow
from sdft_ray.loop import LoopConfig, train
from sdft_ray.records import TeacherScores, make_sample
from sdft_ray.workers.deadlines import Work
from sdft_ray.workers.group import WorkerGroup
from sdft_ray.workers.recovery import Recovery, RestartBudget
from tests.fakes import (
    FakeCompletions,
    FakeEvaluator,
    FakeExamples,
    FakeLearner,
    FakeTeacher,
    FakeTracker,
    make_example,
)

WORK = Work("work")


class Method:
    """What `actor.sleep` is: its `remote` does it."""

    def __init__(self, do: Any):
        self.remote = do


class Actor:
    """A worker that must not be asked while it sleeps."""

    def __init__(self, role: str, told: list[str], fails: str = ""):
        self._role, self._told, self._fails = role, told, fails
        self.is_asleep = False
        self.sleep, self.wake = Method(self._sleep), Method(self._wake)

    async def work(self, seconds: float = 0.0) -> str:
        assert not self.is_asleep, f"{self._role} was asked while it slept"
        await asyncio.sleep(seconds)
        assert not self.is_asleep, f"{self._role} fell asleep while it worked"
        self._told.append(self._role)
        return self._role

    async def _sleep(self) -> None:
        if self._fails == "sleep":
            raise WorkerLostError("it died in its sleep")
        await asyncio.sleep(0)
        self.is_asleep = True
        self._told.append(f"{self._role} sleeps")

    async def _wake(self) -> None:
        await asyncio.sleep(0)
        self.is_asleep = False
        self._told.append(f"{self._role} wakes")


def turned(told: list[str], **fails: str) -> tuple[Turns, dict[str, WorkerGroup]]:
    turns = Turns()
    groups = {
        role: WorkerGroup(role, [Actor(role, told, fails.get(role, ""))], "logs", turn=turns.turn_of(role))
        for role in ("learner", "rollout", "teacher")
    }
    turns.begin(groups)
    return turns, groups


async def test_a_turn_passes_when_no_call_of_the_role_before_is_open() -> None:
    told: list[str] = []
    _, groups = turned(told)
    calls = [groups["rollout"].call(lambda actor, s=s: actor.work(s), WORK) for s in (0.02, 0.05)]
    await asyncio.gather(*calls, groups["learner"].on_all(lambda actor: actor.work(), WORK))
    assert told == ["rollout wakes", "rollout", "rollout", "rollout sleeps", "learner wakes", "learner"]


async def test_a_call_that_needs_no_device_disturbs_no_turn() -> None:
    told: list[str] = []
    _, groups = turned(told)
    await groups["learner"].on_all(lambda actor: actor.work(), WORK)
    asked = Work("status", in_turn=False)
    assert await groups["rollout"].on_serving(lambda actor: answered(actor.is_asleep), asked) == {0: False}
    assert told == ["learner wakes", "learner"]


async def answered(value: Any) -> Any:
    return value


async def test_teachers_go_before_rollout_workers_and_these_before_the_learner() -> None:
    """Behind a step both pools load; the rollout workers then sample without another change."""
    told: list[str] = []
    _, groups = turned(told)
    first = asyncio.ensure_future(groups["learner"].on_all(lambda actor: actor.work(0.02), WORK))
    await asyncio.sleep(0.01)
    waiting = [groups[role].on_all(lambda actor: actor.work(), WORK) for role in ("rollout", "learner", "teacher")]
    await asyncio.gather(first, *waiting)
    assert [line for line in told if " " not in line] == ["learner", "learner", "teacher", "rollout"]


async def test_in_turns_the_engine_starts_before_teachers_have_anything_on_its_device() -> None:
    for one_by_one in (True, False):
        log: list[str] = []

        async def start(role: str, said: list[str] = log) -> None:
            said.append(role)
            await asyncio.sleep(0)
            said.append(f"{role} is there")

        roles = ("learner", "teacher", "rollout")
        await start_each({role: partial(start, role) for role in roles}, one_by_one=one_by_one)
        started = [line for line in log if line in roles]
        assert started == ["rollout", "teacher", "learner"]
        assert log.index("rollout is there") == (1 if one_by_one else 3)


async def test_a_call_that_is_cancelled_while_the_turn_passes_leaves_it_whole() -> None:
    told: list[str] = []
    turns, groups = turned(told)
    await groups["rollout"].on_all(lambda actor: actor.work(), WORK)
    asked = asyncio.ensure_future(groups["learner"].on_all(lambda actor: actor.work(), WORK))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert await asyncio.wait_for(groups["teacher"].on_all(lambda actor: actor.work(), WORK), 5) == ["teacher"]
    assert turns.num_wakes["teacher"] == 1


async def test_workers_that_are_lost_in_their_sleep_end_the_call_that_asked_for_the_turn() -> None:
    _, groups = turned([], learner="sleep")
    await groups["learner"].on_all(lambda actor: actor.work(), WORK)
    for _ in range(2):  # and nobody waits for ever
        with pytest.raises(WorkerLostError, match="died in its sleep"):
            await asyncio.wait_for(groups["rollout"].on_all(lambda actor: actor.work(), WORK), 5)


async def test_changes_are_counted_and_timed() -> None:
    turns, groups = turned([])
    for role in ("rollout", "rollout", "teacher"):
        await groups[role].on_all(lambda actor: actor.work(), WORK)
    metrics = turns.take_metrics()
    assert metrics["turns/changes"] == 2
    assert metrics["turns/change_s"] > 0
    assert turns.take_metrics() == {"turns/changes": 0, "turns/change_s": 0}


class TurnedCompletions(FakeCompletions):
    """Samples and loads on a worker of a group."""

    def __init__(self, group: WorkerGroup, off_at: int = -1):
        super().__init__()
        self._group = group
        self._off_at = off_at  # the version of weights that this engine wakes without

    async def complete(self, example: Any) -> Any:
        await self._group.call(lambda actor: actor.work(), WORK)
        return await super().complete(example)

    async def load_weights(self, version: int) -> None:
        await self._group.on_all(lambda actor: actor.work(), Work("load"))
        await super().load_weights(version)

    async def logprobs_of_all(
        self, prompt_tokens: Sequence[int], completion_tokens: Sequence[int]
    ) -> dict[int, tuple[float, ...]]:
        await self._group.on_all(lambda actor: actor.work(), Work("logprobs"))
        version = self.version if self.version != self._off_at else self.version - 1
        return {0: tuple(-1.0 - version for _ in completion_tokens)}


class TurnedTeacher(FakeTeacher):
    """Scores and loads on a worker of a group."""

    def __init__(self, group: WorkerGroup):
        super().__init__()
        self._group = group

    async def score(self, example: Any, rollout: Any) -> Any:
        await self._group.call(lambda actor: actor.work(), WORK)
        return await super().score(example, rollout)

    async def load_weights(self, version: int) -> None:
        await self._group.on_all(lambda actor: actor.work(), Work("load"))
        await super().load_weights(version)


class TurnedLearner(FakeLearner):
    """Trains on a worker of a group, in several calls."""

    def __init__(self, group: WorkerGroup):
        super().__init__()
        self.unchanged = asyncio.Lock()
        self._group = group
        self.asked: list[int] = []

    async def step(self, samples: AsyncIterator[Any]) -> Any:
        for _ in range(2):
            await self._group.on_all(lambda actor: actor.work(), WORK)
            await asyncio.sleep(0.001)  # between two rounds nothing of it is open
        async with self.unchanged:
            return await super().step(samples)

    async def logprobs(self, rows: Sequence[GuardRow]) -> list[tuple[float, ...]]:
        await self._group.on_all(lambda actor: actor.work(), Work("logprobs"))
        self.asked.append(self.weight_version)
        return [tuple(-1.0 - self.weight_version for _ in row.completion_tokens) for row in rows]


def run_config(**changes: Any) -> RunConfig:
    return RunConfig(cluster=ClusterConfig(turns=True), num_steps=3, **changes)


NO_SCORES = TeacherScores(payload=None, num_tokens=2, teacher_version=0)
ROW = GuardRow(prompt_tokens=(1, 2), completion_tokens=(3, 4))


def loop_in_turns(told: list[str], off_at: int = -1) -> tuple[dict[str, Any], Turns, TurnedLearner]:
    turns, groups = turned(told)
    learner, completions = TurnedLearner(groups["learner"]), TurnedCompletions(groups["rollout"], off_at)
    check = WakeCheck(turns, completions, learner, ROW, cfg=run_config(), max_model_len=100)
    roles = {
        "examples": FakeExamples(),
        "completions": CompletionsInTurns(completions, check),
        "teacher": TurnedTeacher(groups["teacher"]),
        "learner": LearnerInTurns(learner, turns, check),
        "evaluator": EvaluatorInTurns(FakeEvaluator(), check),
        "tracker": FakeTracker(),
    }
    return roles, turns, learner


async def test_the_loop_goes_from_sampling_to_scoring_to_learning_and_its_steps_are_one_turn_each() -> None:
    told: list[str] = []
    roles, _, learner = loop_in_turns(told)
    await train(LoopConfig(num_steps=3, batch_size=2, evaluate_every=2, checkpoint_every=1), **roles)
    wakes = [line.split()[0] for line in told if line.endswith("wakes")]
    # The first check has to ask the learner; behind a step both pools load, and rollout workers sample at once.
    assert wakes == ["learner", "rollout", "teacher", *["learner", "teacher", "rollout", "teacher"] * 2] + [
        "learner",
        "teacher",
        "rollout",
    ]
    assert learner.batches == [("example-0", "example-1"), ("example-2", "example-3"), ("example-4", "example-5")]
    assert learner.staleness == [0] * 6
    assert learner.asked == [0, 1, 2, 3], "once at the start, then at the end of each step"
    assert [step for step, metrics in roles["tracker"].steps if metrics["loop/wait_s"] > 0] == [1, 2, 3]


@pytest.mark.parametrize("version", [0, 2])
async def test_an_engine_that_woke_with_old_weights_samples_nothing(version: int) -> None:
    told: list[str] = []
    roles, _, learner = loop_in_turns(told, off_at=version)
    with pytest.raises(ExceptionGroup) as raised:
        await train(LoopConfig(num_steps=3, batch_size=2), **roles)
    (error,) = raised.value.exceptions
    assert isinstance(error, GuardError)
    assert f"the student's weights {version}" in str(error)
    assert "cluster.turns=false" in str(error)
    assert len(learner.batches) == version


async def test_while_all_engines_are_being_replaced_none_is_asked_and_the_newcomers_are() -> None:
    turns, groups = turned([])
    engines = TurnedCompletions(groups["rollout"])
    asked, serving = [0], engines.logprobs_of_all

    async def answers(*row: Any) -> dict[int, tuple[float, ...]]:
        asked[0] += 1
        return {} if asked[0] == 1 else await serving(*row)

    engines.logprobs_of_all = answers  # type: ignore[method-assign]
    check = WakeCheck(turns, engines, TurnedLearner(groups["learner"]), ROW, cfg=run_config(), max_model_len=100)
    for _ in range(4):
        await check.check()
    assert asked == [2]


async def test_an_evaluation_asks_an_engine_that_slept_before_it_is_believed() -> None:
    roles, _, learner = loop_in_turns([], off_at=1)
    learner.weight_version = 1
    await roles["completions"].load_weights(1)
    with pytest.raises(GuardError):
        await roles["evaluator"].evaluate(1)


async def test_a_newcomer_that_loads_between_two_steps_and_a_step_do_not_wait_for_each_other() -> None:
    """It keeps the learner's weights unchanged while it waits for the learner's turn, then for its own."""
    told: list[str] = []
    turns, groups = turned(told)
    learner = TurnedLearner(groups["learner"])
    in_turns = LearnerInTurns(learner, turns, None)

    async def join() -> None:
        async with in_turns:
            await groups["learner"].on_all(lambda actor: actor.work(0.01), Work("publish"))
            await groups["rollout"].on_all(lambda actor: actor.work(0.01), Work("load"))

    async def samples() -> AsyncIterator[Any]:
        yield make_sample(make_example(0), await FakeCompletions().complete(make_example(0)), NO_SCORES)

    async def step() -> None:
        await in_turns.step(samples())

    await asyncio.wait_for(asyncio.gather(join(), step(), join(), step()), 5)
    assert told.count("rollout") == 2


async def test_a_call_that_waits_for_a_newcomer_keeps_no_turn_from_the_role_that_has_its_weights() -> None:
    """The only rollout worker is lost with a call open on it; the newcomer loads what the learner publishes."""
    told: list[str] = []
    turns, groups = turned(told)

    @asynccontextmanager
    async def joining(newcomer: WorkerGroup) -> AsyncIterator[None]:
        await groups["learner"].on_all(lambda actor: actor.work(), Work("publish"))
        await newcomer.on_all(lambda actor: actor.work(), Work("load"))
        yield

    groups["rollout"].replace_lost(
        Recovery(
            make=lambda rank: Actor("newcomer", told),
            joining=joining,
            budget=RestartBudget(1),
            tell=lambda fault: None,
            kill=lambda actor: None,
        )
    )

    async def dies_once(actor: Actor) -> str:
        if actor._role == "rollout":
            raise ActorDiedError
        return await actor.work()

    assert await asyncio.wait_for(groups["rollout"].call(dies_once, WORK), 10) == "newcomer"
    assert [line for line in told if " " not in line] == ["learner", "newcomer", "newcomer"]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"num_nodes": 2}, "cluster.num_nodes"),
        ({"teacher": RolePlacement(num_workers=2)}, "cluster.teacher.num_workers"),
        ({"gpus_per_node": 3, "rollout": RolePlacement(gpus_per_worker=1)}, "cluster.rollout.gpus_per_worker"),
        ({"gpus_per_node": 1, "learner": RolePlacement(gpus_per_worker=0.3)}, "cluster.turns"),
        (
            {
                "gpus_per_node": 2,
                **dict.fromkeys(("rollout", "teacher", "learner"), RolePlacement(gpus_per_worker=0.6)),
            },
            "cluster.turns",
        ),
    ],
)
def test_roles_that_cannot_share_one_device_are_refused_by_name(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=f"^{key}="):
        ClusterConfig(turns=True, **changes)


def test_samples_of_older_weights_and_weights_that_cannot_leave_a_gpu_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="^max_staleness=1"):
        run_config(max_staleness=1)
    shares = {role: RolePlacement(gpus_per_worker=0.3) for role in ("rollout", "teacher", "learner")}
    cluster = ClusterConfig(turns=True, gpus_per_node=1, **shares)
    for stage in (0, 1, 3):
        with pytest.raises(ConfigError, match=f"^learner.zero_stage={stage}: keeps its states"):
            replace(run_config(), cluster=cluster, learner=LearnerConfig(zero_stage=stage, precision=Precision.FLOAT32))


def test_every_role_may_fill_the_gpu_in_its_turn_and_ray_can_place_them_all() -> None:
    shares = {role: RolePlacement(gpus_per_worker=0.3) for role in ("rollout", "teacher", "learner")}
    together = ClusterConfig(turns=True, gpus_per_node=1, **shares)
    apart = replace(together, turns=False)
    assert together.num_gpus <= 1
    assert (together.gpu_share("rollout"), apart.gpu_share("rollout")) == (1.0, 0.3)
    assert (together.fills_device("rollout"), apart.fills_device("rollout")) == (True, False)
    assert not ClusterConfig(turns=True).fills_device("rollout"), "host memory is never filled"
