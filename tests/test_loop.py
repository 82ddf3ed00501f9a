"""The whole algorithm on in-memory roles."""

import asyncio
import time
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sdft_ray.data.rehearsal import Rehearsal
from sdft_ray.data.stream import ExampleStream
from sdft_ray.data.tokenized import TokenizedRow, TokenizedRows
from sdft_ray.errors import NonFiniteError, WorkerError
from sdft_ray.examples import TokenizedExample
from sdft_ray.loop import LoopConfig, Stopped, train
from sdft_ray.records import Rollout, StepReport, TeacherScores
from sdft_ray.rollout.completions import GivenCompletions, RecordedCompletions
from tests.fakes import (
    FakeCompletions,
    FakeEvaluator,
    FakeExamples,
    FakeLearner,
    FakeTeacher,
    FakeTracker,
    make_example,
)


def run_loop(cfg: LoopConfig, **replaced: Any) -> dict[str, Any]:
    roles: dict[str, Any] = {
        "examples": FakeExamples(),
        "completions": FakeCompletions(),
        "teacher": FakeTeacher(),
        "learner": FakeLearner(),
        "evaluator": FakeEvaluator(),
        "tracker": FakeTracker(),
    } | replaced
    asyncio.run(train(cfg, **roles))
    return roles


@pytest.mark.parametrize("bound", [0, 1, 3])
def test_staleness_reaches_its_bound_and_never_exceeds_it(bound: int) -> None:
    roles = run_loop(LoopConfig(num_steps=12, batch_size=4, max_staleness=bound))
    assert max(roles["learner"].staleness) == bound
    assert min(roles["learner"].staleness) >= 0
    assert max(metrics["loop/staleness_max"] for _, metrics in roles["tracker"].steps) == bound


def test_batches_hold_the_examples_in_order_whatever_finished_first() -> None:
    for bound in (0, 2):
        roles = run_loop(LoopConfig(num_steps=5, batch_size=3, max_staleness=bound))
        trained = [example for batch in roles["learner"].batches for example in batch]
        assert trained == [f"example-{index}" for index in range(15)]


def test_an_on_policy_run_never_has_more_than_a_batch_in_flight() -> None:
    roles = run_loop(LoopConfig(num_steps=4, batch_size=5))
    assert roles["completions"].max_open == 5


def test_two_runs_on_policy_train_on_the_same_samples() -> None:
    first = run_loop(LoopConfig(num_steps=4, batch_size=4), completions=FakeCompletions(seed=1))
    second = run_loop(LoopConfig(num_steps=4, batch_size=4), completions=FakeCompletions(seed=2))
    assert first["learner"].batches == second["learner"].batches


def test_both_workers_hold_every_version_and_the_run_ends_at_num_steps() -> None:
    roles = run_loop(LoopConfig(num_steps=3, batch_size=2))
    assert roles["completions"].loaded == [1, 2, 3]
    assert roles["teacher"].version == 3
    assert [step for step, _ in roles["tracker"].steps] == [1, 2, 3]
    phases = {"loop/step_s", "loop/rollout_s", "loop/score_s", "loop/load_weights_s"}
    assert phases <= roles["tracker"].steps[0][1].keys()


def test_evaluations_and_checkpoints_come_at_their_steps_with_the_position_of_trained_examples() -> None:
    cfg = LoopConfig(num_steps=6, batch_size=2, max_staleness=1, evaluate_every=3, checkpoint_every=2)
    roles = run_loop(cfg)
    assert roles["evaluator"].versions == [3]  # the one after the last step is the caller's
    assert roles["learner"].checkpoints == [(2, {"position": 4}), (4, {"position": 8}), (6, {"position": 12})]


def test_a_resumed_run_goes_on_at_the_learners_version() -> None:
    roles = run_loop(
        LoopConfig(num_steps=5, batch_size=2), examples=FakeExamples(start=6), learner=FakeLearner(version=3)
    )
    assert [step for step, _ in roles["tracker"].steps] == [4, 5]
    assert roles["learner"].batches[0] == ("example-6", "example-7")


def test_a_finished_run_does_nothing() -> None:
    assert run_loop(LoopConfig(num_steps=3, batch_size=2), learner=FakeLearner(version=3))["learner"].batches == []


def test_a_learner_beyond_the_last_step_is_refused_and_does_not_hang() -> None:
    with pytest.raises(ValueError, match="num_batches=-2"):
        run_loop(LoopConfig(num_steps=3, batch_size=2), learner=FakeLearner(version=5))


class DyingCompletions(FakeCompletions):
    """An engine that dies at its seventh completion."""

    async def complete(self, example: Any) -> Any:
        if example.seed == 6:
            raise WorkerError("rollout worker 0 died")
        return await super().complete(example)


class DivergingLearner(FakeLearner):
    """A learner whose second step is not finite."""

    async def step(self, samples: Any) -> Any:
        if self.weight_version == 1:
            raise NonFiniteError("loss", 2, [sample.example_id async for sample in samples])
        return await super().step(samples)


def test_a_dead_engine_ends_the_run_as_its_first_error() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        run_loop(LoopConfig(num_steps=9, batch_size=4), completions=DyingCompletions())
    assert isinstance(caught.value.exceptions[0], WorkerError)


def test_a_loss_that_is_not_finite_ends_the_run_and_names_its_samples() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        run_loop(LoopConfig(num_steps=9, batch_size=2, max_staleness=1), learner=DivergingLearner())
    assert "example-2, example-3" in str(caught.value.exceptions[0])


class WaitingCompletions(FakeCompletions):
    """Finishes the last completion of a batch of four only when the learner has two of its samples."""

    def __init__(self, learner: "EagerLearner"):
        super().__init__()
        self._learner = learner

    async def complete(self, example: Any) -> Any:
        if example.seed % 4 == 3:
            await asyncio.wait_for(self._learner.has_two.wait(), timeout=5)
            self._learner.has_two.clear()
        return await super().complete(example)


class EagerLearner(FakeLearner):
    """Tells when it has two samples of a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.has_two = asyncio.Event()

    async def step(self, samples: Any) -> Any:
        return await super().step(self._telling(samples))

    async def _telling(self, samples: Any) -> Any:
        num_seen = 0
        async for sample in samples:
            num_seen += 1
            if num_seen == 2:
                self.has_two.set()
            yield sample


@pytest.mark.parametrize("bound", [0, 1])
def test_the_learner_has_the_first_samples_of_a_batch_while_its_last_are_still_made(bound: int) -> None:
    learner = EagerLearner()
    run_loop(
        LoopConfig(num_steps=3, batch_size=4, max_staleness=bound),
        learner=learner,
        completions=WaitingCompletions(learner),
    )
    assert [len(batch) for batch in learner.batches] == [4, 4, 4]


class PayloadTeacher(FakeTeacher):
    """Makes payloads and remembers them without keeping them."""

    def __init__(self) -> None:
        super().__init__()
        self.payloads: list[weakref.ref[Payload]] = []

    async def score(self, example: Any, rollout: Any) -> TeacherScores:
        payload = Payload()
        self.payloads.append(weakref.ref(payload))
        return replace(await super().score(example, rollout), payload=payload)


class Payload:
    """Megabytes, in a real run."""


class ForgetfulLearner(FakeLearner):
    """Keeps no sample, and notes how many payloads are alive when it has seen the whole batch."""

    def __init__(self, teacher: PayloadTeacher):
        super().__init__()
        self._teacher = teacher
        self.alive: list[int] = []

    async def step(self, samples: Any) -> Any:
        async for sample in samples:
            del sample
        await asyncio.sleep(0.02)  # until every producer waits for its next ticket
        self.alive.append(sum(payload() is not None for payload in self._teacher.payloads))
        self.weight_version += 1
        return StepReport(metrics={}, samples=())


def test_nothing_but_the_learner_keeps_a_payload_whose_sample_it_has() -> None:
    teacher = PayloadTeacher()
    learner = ForgetfulLearner(teacher)
    run_loop(LoopConfig(num_steps=3, batch_size=4), teacher=teacher, learner=learner)
    assert len(teacher.payloads) == 12
    assert learner.alive == [0, 0, 0]


@pytest.mark.parametrize("bound", [0, 2])
def test_every_token_and_no_second_is_counted_twice_when_batches_overlap(bound: int) -> None:
    tracker = FakeTracker()
    started = time.perf_counter()
    run_loop(LoopConfig(num_steps=6, batch_size=4, max_staleness=bound), teacher=PayloadTeacher(), tracker=tracker)
    elapsed_s = time.perf_counter() - started
    for key in ("rollout/tokens", "teacher/tokens"):
        assert sum(metrics[key] for _, metrics in tracker.steps) == 6 * 4 * 2
    for key in ("loop/rollout_s", "loop/score_s", "loop/step_s"):
        assert 0 < sum(metrics[key] for _, metrics in tracker.steps) <= elapsed_s


def test_demonstrations_and_token_targets_count_as_nothing_sampled_and_nothing_scored() -> None:
    tracker = FakeTracker()
    run_loop(LoopConfig(num_steps=2, batch_size=2), completions=GivenCompletions(), tracker=tracker)
    for _, metrics in tracker.steps:
        assert metrics["rollout/tokens"] == metrics["teacher/tokens"] == 0


def test_a_completion_that_was_recorded_before_counts_as_nothing_sampled(tmp_path: Path) -> None:
    completions = RecordedCompletions(FakeCompletions(), tmp_path, str, resumes=False)
    asyncio.run(completions.record([make_example(index) for index in range(4)]))
    tracker = FakeTracker()
    run_loop(LoopConfig(num_steps=2, batch_size=2), completions=completions, teacher=PayloadTeacher(), tracker=tracker)
    assert [metrics["rollout/tokens"] for _, metrics in tracker.steps] == [0, 0]
    assert sum(metrics["teacher/tokens"] for _, metrics in tracker.steps) == 2 * 2 * 2


class CertainCompletions(FakeCompletions):
    """Every token is the only possible one."""

    async def complete(self, example: TokenizedExample) -> Rollout:
        return replace(await super().complete(example), logprobs=(0.0, 0.0))


def test_sampled_tokens_of_probability_one_count_as_sampled() -> None:
    tracker = FakeTracker()
    run_loop(LoopConfig(num_steps=2, batch_size=2), completions=CertainCompletions(), tracker=tracker)
    assert sum(metrics["rollout/tokens"] for _, metrics in tracker.steps) == 2 * 2 * 2


@pytest.mark.parametrize("bound", [0, 2])
def test_asked_to_stop_it_ends_behind_the_step_with_a_checkpoint_of_what_was_trained(bound: int) -> None:
    learner = FakeLearner()
    cfg = LoopConfig(num_steps=12, batch_size=4, max_staleness=bound, evaluate_every=1, checkpoint_every=100)
    evaluator = FakeEvaluator()
    with pytest.raises(ExceptionGroup) as ended:
        run_loop(cfg, learner=learner, evaluator=evaluator, is_asked_to_stop=lambda: learner.weight_version >= 3)
    assert ended.group_contains(Stopped) and len(ended.value.exceptions) == 1
    assert learner.weight_version == 3
    assert learner.checkpoints == [(3, {"position": 12})]
    assert evaluator.versions == [1, 2], "a run that is to end asks no questions"


def test_asked_to_stop_in_its_last_step_it_ends_as_ever() -> None:
    learner = FakeLearner()
    cfg = LoopConfig(num_steps=3, batch_size=4, checkpoint_every=2)
    run_loop(cfg, learner=learner, is_asked_to_stop=lambda: learner.weight_version >= 3)
    assert [version for version, _ in learner.checkpoints] == [2, 3]


class AskedWhileEvaluating(FakeEvaluator):
    """The signal comes while it asks its questions."""

    async def evaluate(self, version: int) -> dict[str, float]:
        self.is_asked = True
        return await super().evaluate(version)

    is_asked = False


def test_asked_to_stop_while_it_evaluates_it_takes_no_further_step() -> None:
    learner, evaluator = FakeLearner(), AskedWhileEvaluating()
    cfg = LoopConfig(num_steps=12, batch_size=4, evaluate_every=2, checkpoint_every=100)
    with pytest.raises(ExceptionGroup) as ended:
        run_loop(cfg, learner=learner, evaluator=evaluator, is_asked_to_stop=lambda: evaluator.is_asked)
    assert ended.group_contains(Stopped)
    assert learner.checkpoints == [(2, {"position": 8})]


def rehearsing_stream() -> ExampleStream:
    """Nine examples and five rehearsal prompts, of which a batch of six holds two."""
    rows = [
        TokenizedRow(example_id=name, prompt_tokens=(1,), teacher_prompt_tokens=(1,), demonstration_tokens=(2, 0))
        for name in [f"e{index}" for index in range(9)] + [f"r{index}" for index in range(5)]
    ]
    rehearsal = Rehearsal(source="old", rows=TokenizedRows.of(rows[9:]), per_batch=2, max_new_tokens=4, notes=())
    return ExampleStream(rows[:9], batch_size=6, seed=3, max_new_tokens=4, rehearsal=rehearsal)


@pytest.mark.parametrize("bound", [0, 2])
def test_a_resumed_run_rehearses_and_trains_as_if_it_had_never_stopped(bound: int) -> None:
    cfg = LoopConfig(num_steps=7, batch_size=6, max_staleness=bound, checkpoint_every=3)
    undisturbed: FakeLearner = run_loop(cfg, examples=rehearsing_stream())["learner"]
    assert all(sum(name.startswith("r") for name in batch) == 2 for batch in undisturbed.batches)
    version, state = undisturbed.checkpoints[0]  # when the producers of an asynchronous run were further on
    resumed = rehearsing_stream()
    resumed.load_state(state)
    learner = FakeLearner(version)
    run_loop(cfg, examples=resumed, learner=learner)
    assert learner.batches == undisturbed.batches[version:]
