"""The learner group on ranks in memory: when rounds start, what surfaces, what is kept."""

import asyncio
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdft_ray.config import LearnerConfig, LossConfig, Normalization
from sdft_ray.data.reasoning import AnswerStart
from sdft_ray.errors import NonFiniteError
from sdft_ray.faults import FaultKind
from sdft_ray.learner.group import LearnerGroup
from sdft_ray.learner.nonfinite import LOSS
from sdft_ray.learner.saving import SavingPlan
from sdft_ray.learner.schedule import LearnerStage, StagePlan
from sdft_ray.records import Microbatch, RankReport, Rollout, Sample, StepReport, TeacherScores, TokenViews
from sdft_ray.workers.group import WorkerGroup
from tests.fakes import make_views

LENGTHS = [6, 9, 4, 12, 5, 7]  # of samples, two tokens of prompt included


class Remote:
    """A method of a rank, called as that of an actor: calls run one after the other, in the order they were made."""

    def __init__(self, rank: "FakeRank", method: Callable[..., Awaitable[Any]]):
        self._rank = rank
        self._method = method

    def remote(self, *arguments: Any) -> Awaitable[Any]:
        return asyncio.ensure_future(self._in_turn(*arguments))

    async def _in_turn(self, *arguments: Any) -> Any:
        async with self._rank.turn:
            return await self._method(*arguments)


class FakeRank:
    """A rank that remembers what it was given, and whose divergence is the token's id."""

    def __init__(self, seconds: float = 0.0, bad: str = "", nonfinite: str = ""):
        self.turn = asyncio.Lock()
        self.rounds: list[tuple[tuple[str, ...], list[float], bool]] = []
        self.num_applied = 0
        self.began = asyncio.Event()
        self.accumulate = Remote(self, self._accumulate)
        self.apply = Remote(self, self._apply)
        self._seconds = seconds
        self._bad = bad
        self._nonfinite = nonfinite
        self._input_tokens = 0

    async def _accumulate(self, microbatch: Microbatch, is_last: bool) -> list[TokenViews]:
        self.began.set()
        await asyncio.sleep(self._seconds)
        if self._bad in microbatch.example_ids:
            raise NonFiniteError("loss", 1, [self._bad])
        self.rounds.append((microbatch.example_ids, microbatch.token_weights.tolist(), is_last))
        self._input_tokens += len(microbatch.input_ids)
        ends = np.bincount(microbatch.sequence_ids).cumsum()[:-1]
        views = [make_views(ids, scored=False) for ids in np.split(microbatch.completion_ids.astype(np.float32), ends)]
        return [
            replace(of_sample, nonfinite=LOSS if example_id == self._nonfinite else "")
            for example_id, of_sample in zip(microbatch.example_ids, views, strict=True)
        ]

    async def _apply(self) -> RankReport:
        self.num_applied += 1
        return RankReport(
            input_tokens=self._input_tokens,
            head_rows=1,
            sequence_tokens=self._input_tokens,
            counted_tokens=1,
            loss=0.0,
            divergence=0.0,
            student_entropy=0.0,
            teacher_entropy=0.0,
            correction=0.0,
            mismatch_max=0.0,
            grad_norm=0.0,
            durations_s={"learner/forward_backward_s": 1.0},
        )


class Payload:
    """Megabytes, in a real run."""


def make_sample(index: int, payload: Any = None) -> Sample:
    completion = (index,) * (LENGTHS[index] - 2)
    rollout = Rollout(
        prompt_tokens=(1, 1),
        completion_tokens=completion,
        logprobs=(-1.0,) * len(completion),
        weight_version=0,
        truncated=False,
        num_sampled=len(completion),
    )
    scores = TeacherScores(payload=payload, num_tokens=len(completion), teacher_version=0)
    return Sample(example_id=str(index), epoch=0, rollout=rollout, scores=scores)


def make_group(
    ranks: Sequence[FakeRank],
    normalization: Normalization = Normalization.SEQUENCE_MEAN,
    max_tokens: int = 16,
    num_report_samples: int = len(LENGTHS),
    answer_start: AnswerStart | None = None,
) -> LearnerGroup:
    learner = LearnerConfig(max_tokens_per_microbatch=max_tokens)
    stage = LearnerStage(num_steps=9, batch_size=len(LENGTHS), skip_first_tokens=1, learner=learner)
    return LearnerGroup(
        WorkerGroup("learner", ranks, "logs"),
        learner=learner,
        loss=LossConfig(skip_first_tokens=1, normalization=normalization),
        plan=StagePlan([stage]),
        sampled=True,
        num_report_samples=num_report_samples,
        saving=SavingPlan(root=Path(), keep=1),
        answer_start=answer_start,
    )


async def coming(pauses: Sequence[float] = (0.0,) * len(LENGTHS)) -> AsyncIterator[Sample]:
    """The batch, each sample after its pause."""
    for index, pause in enumerate(pauses):
        await asyncio.sleep(pause)
        yield make_sample(index)


def within(seconds: float, step: Awaitable[StepReport]) -> Any:
    return asyncio.wait_for(step, seconds)


async def test_the_first_round_starts_while_later_rollouts_still_run() -> None:
    rank = FakeRank()

    async def the_last_waits_for_the_first_round() -> AsyncIterator[Sample]:
        async for sample in coming():
            if sample.example_id == "5":
                await rank.began.wait()
            yield sample

    await within(5, make_group([rank]).step(the_last_waits_for_the_first_round()))
    assert [ids for ids, _, _ in rank.rounds] == [("0", "1"), ("2", "3"), ("4", "5")]


async def test_a_round_does_not_wait_for_the_answer_to_the_one_before() -> None:
    """The only rank is held up in its first round until the whole batch has been sent."""
    rank = FakeRank()
    sent = asyncio.Event()

    async def held_up(microbatch: Microbatch, is_last: bool) -> list[TokenViews]:
        await sent.wait()
        return await rank._accumulate(microbatch, is_last)

    async def telling() -> AsyncIterator[Sample]:
        async for sample in coming():
            yield sample
        sent.set()

    rank.accumulate = Remote(rank, held_up)
    await within(5, make_group([rank]).step(telling()))
    assert len(rank.rounds) == 3


async def test_the_last_round_says_so_and_the_optimizer_step_comes_after_it() -> None:
    ranks = [FakeRank(seconds=0.003), FakeRank()]
    rounds_at_apply: list[int] = []

    async def noting() -> RankReport:
        rounds_at_apply.extend(len(rank.rounds) for rank in ranks)
        return await ranks[1]._apply()

    ranks[1].apply = Remote(ranks[1], noting)
    report = await make_group(ranks, max_tokens=10).step(coming())
    for rank in ranks:
        assert [is_last for _, _, is_last in rank.rounds] == [False, False, True]
    assert rounds_at_apply == [3, 3]
    assert [rank.num_applied for rank in ranks] == [1, 1]
    assert len(report.samples) == len(LENGTHS)


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
async def test_what_the_ranks_get_does_not_depend_on_timing(num_ranks: int) -> None:
    async def rounds(pauses: Sequence[float], seconds: Sequence[float]) -> list[Any]:
        ranks = [FakeRank(seconds[index]) for index in range(num_ranks)]
        await make_group(ranks).step(coming(pauses))
        return [rank.rounds for rank in ranks]

    at_once = await rounds([0.0] * 6, [0.0] * 3)
    assert await rounds([0.004, 0.0, 0.002, 0.004, 0.0, 0.001], [0.0] * 3) == at_once
    assert await rounds([0.001] * 6, [0.005, 0.0, 0.002]) == at_once


@pytest.mark.parametrize("num_ranks", [1, 2])
@pytest.mark.parametrize("normalization", Normalization)
async def test_token_weights_are_those_of_the_whole_batch(num_ranks: int, normalization: Normalization) -> None:
    ranks = [FakeRank() for _ in range(num_ranks)]
    await make_group(ranks, normalization).step(coming())
    counts = [length - 3 for length in LENGTHS]  # without the prompt and the one token that is skipped
    weight = {
        Normalization.SEQUENCE_MEAN: [1 / (len(LENGTHS) * count) for count in counts],
        Normalization.TOKEN_MEAN: [1 / sum(counts)] * len(LENGTHS),
    }[normalization]
    seen = set()
    for rank in ranks:
        for ids, weights, _ in rank.rounds:
            expected = [part for i in map(int, ids) for part in [0.0] + [weight[i]] * counts[i]]
            assert weights == pytest.approx(expected) or not any(weights), "a filler weighs nothing"
            seen.update(ids)
    assert seen == set("012345")


async def test_token_mean_waits_for_the_last_sample() -> None:
    rank = FakeRank()

    async def looking() -> AsyncIterator[Sample]:
        async for sample in coming():
            yield sample
        await asyncio.sleep(0.01)
        assert not rank.began.is_set()

    await make_group([rank], Normalization.TOKEN_MEAN).step(looking())
    assert len(rank.rounds) == 3


@pytest.mark.parametrize("bad", ["0", "3"])
async def test_an_error_of_one_rank_surfaces_while_samples_are_still_missing(bad: str) -> None:
    async def never_ending() -> AsyncIterator[Sample]:
        for index in range(5):
            yield make_sample(index)
        await asyncio.Event().wait()

    ranks = [FakeRank(bad=bad), FakeRank(bad=bad)]
    with pytest.raises(NonFiniteError, match=f"samples: {bad}"):
        await within(5, make_group(ranks, max_tokens=8).step(never_ending()))
    assert [rank.num_applied for rank in ranks] == [0, 0]


async def test_an_error_is_raised_though_another_rank_never_answers() -> None:
    ranks = [FakeRank(seconds=60), FakeRank(bad="1")]
    with pytest.raises(NonFiniteError):
        await within(5, make_group(ranks).step(coming()))


async def test_what_a_rank_finds_not_finite_ends_the_step_before_its_update_with_the_samples() -> None:
    ranks = [FakeRank(nonfinite="2"), FakeRank(nonfinite="2")]
    with pytest.raises(NonFiniteError, match="NaN or infinite: the loss .learner. in step 1, samples: 2\\.") as raised:
        await within(5, make_group(ranks).step(coming()))
    (bad,) = raised.value.samples
    assert (bad.example_id, bad.completion_tokens) == ("2", (2, 2))
    assert [rank.num_applied for rank in ranks] == [0, 0]


async def test_a_gradient_that_is_not_finite_comes_with_all_samples_of_the_step() -> None:
    ranks = [FakeRank(), FakeRank()]

    async def fail() -> RankReport:
        raise NonFiniteError("the gradient of lm_head.weight (learner)", 1, ["0"])

    ranks[0].apply = Remote(ranks[0], fail)
    with pytest.raises(NonFiniteError) as raised:
        await within(5, make_group(ranks).step(coming()))
    assert [sample.example_id for sample in raised.value.samples] == list("012345")


async def test_a_failing_producer_of_samples_is_an_error_of_the_step() -> None:
    async def failing() -> AsyncIterator[Sample]:
        yield make_sample(0)
        raise RuntimeError("no more samples")

    with pytest.raises(RuntimeError, match="no more samples"):
        await make_group([FakeRank()]).step(failing())


async def test_a_payload_is_free_as_soon_as_its_round_is_trained() -> None:
    rank = FakeRank()
    payloads: list[weakref.ref[Payload]] = []
    alive: list[list[int]] = []

    async def watching() -> AsyncIterator[Sample]:
        for index in range(len(LENGTHS)):
            await asyncio.sleep(0.01)  # time enough for every round that has been sent
            alive.append([number for number, payload in enumerate(payloads) if payload() is not None])
            payload = Payload()
            payloads.append(weakref.ref(payload))
            yield make_sample(index, payload)
            del payload

    await make_group([rank]).step(watching())
    # Rounds are 0-1, 2-3 and 4-5; each is sent when the first sample of the next is there.
    assert alive == [[], [0], [0, 1], [2], [2, 3], [4]]
    assert not any(payload() for payload in payloads)


@pytest.mark.parametrize(
    ("pauses", "seconds", "waiting_s"),
    [
        ([0.02, 0.02, 0.0, 0.0, 0.0, 0.0], 0.03, 0.04),  # the first round needs two pauses, the others are ready
        ([0.03] * 6, 0.0, 0.18),
        ([0.0] * 6, 0.03, 0.0),
    ],
)
async def test_waiting_is_the_time_without_a_round_for_want_of_samples(
    pauses: Sequence[float], seconds: float, waiting_s: float
) -> None:
    started = time.perf_counter()
    report = await make_group([FakeRank(seconds)]).step(coming(pauses))
    most = time.perf_counter() - started - 3 * seconds
    # A busy machine lengthens rounds, which run beside the pauses, and shortens the waiting by as much.
    assert waiting_s / 2 <= report.metrics["loop/wait_s"] <= most + 0.01


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
async def test_reports_hold_the_samples_in_order_with_their_own_divergence(num_ranks: int) -> None:
    report = await make_group([FakeRank() for _ in range(num_ranks)]).step(coming())
    assert [sample.example_id for sample in report.samples] == list("012345")
    for index, sample in enumerate(report.samples):
        assert sample.views.divergence.tolist() == [float(index)] * (LENGTHS[index] - 2)
        assert sample.num_counted == LENGTHS[index] - 3


async def test_tokens_up_to_the_answer_carry_no_loss_and_a_completion_without_an_answer_none() -> None:
    starts = {0: 0, 1: 1, 2: None, 3: 3, 4: 2, 5: None}  # by sample; its tokens are its index
    group = make_group([FakeRank()], answer_start=lambda tokens: starts[tokens[0]])
    report = await group.step(coming())
    lengths = [length - 2 for length in LENGTHS]
    skipped = [length if (start := starts[index]) is None else max(1, start) for index, length in enumerate(lengths)]
    expected = [max(0, length - before) for length, before in zip(lengths, skipped, strict=True)]
    assert [sample.num_counted for sample in report.samples] == expected
    assert report.metrics["learner/uncounted_samples"] == expected.count(0)
    assert 0 < expected.count(0) < len(expected)


async def test_rehearsal_counts_from_the_start_though_it_never_holds_the_text_that_an_answer_begins_behind() -> None:
    async def mixed() -> AsyncIterator[Sample]:
        for index in range(len(LENGTHS)):
            yield replace(make_sample(index), is_rehearsal=index % 2 == 1)

    report = await make_group([FakeRank()], answer_start=lambda tokens: None).step(mixed())
    first_skipped = 1 + 2  # loss.skip_first_tokens, and the prompt
    assert [sample.num_counted for sample in report.samples] == [
        (length - first_skipped) * (index % 2) for index, length in enumerate(LENGTHS)
    ]


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4])
async def test_the_divergence_by_position_is_that_of_the_batch_however_many_ranks_share_it(num_ranks: int) -> None:
    """Lengths and ids differ, and with four ranks fillers are trained on that must not count."""
    report = await make_group([FakeRank() for _ in range(num_ranks)], max_tokens=8).step(coming())
    counted = {
        bucket: [index for index, length in enumerate(LENGTHS) for at in range(1, length - 2) if (at < 8) == bucket]
        for bucket in (True, False)
    }
    assert report.metrics["learner/divergence_first_nats"] == pytest.approx(np.mean(counted[True]))
    assert report.metrics["learner/divergence_early_nats"] == pytest.approx(np.mean(counted[False]))
    assert "learner/divergence_middle_nats" not in report.metrics


@pytest.mark.parametrize("normalization", Normalization)
@pytest.mark.parametrize("num_ranks", [1, 2, 4])
async def test_the_ranks_are_told_which_sequences_are_reported_once_each(
    num_ranks: int, normalization: Normalization
) -> None:
    told: list[str] = []

    class TellingRank(FakeRank):
        async def _accumulate(self, microbatch: Microbatch, is_last: bool) -> list[TokenViews]:
            told.extend(microbatch.example_ids[sequence] for sequence in microbatch.reported)
            return await super()._accumulate(microbatch, is_last)

    group = make_group([TellingRank() for _ in range(num_ranks)], normalization, max_tokens=8, num_report_samples=3)
    report = await group.step(coming())
    assert sorted(told) == [sample.example_id for sample in report.samples] == ["0", "1", "2"]


async def test_nothing_is_padded_but_repeated_samples_count_as_such() -> None:
    one = await make_group([FakeRank()]).step(coming())
    assert one.metrics["learner/padded_share"] == 0
    four = [FakeRank() for _ in range(4)]
    report = await make_group(four, max_tokens=8).step(coming())
    fillers = sum(LENGTHS[int(ids[0])] - 1 for rank in four for ids, weights, _ in rank.rounds if not any(weights))
    assert fillers > 0
    assert report.metrics["learner/padded_share"] == pytest.approx(fillers / (sum(LENGTHS) - 6 + fillers))


async def test_a_step_that_is_cancelled_while_the_ranks_apply_it_is_counted() -> None:
    """The ranks end it all the same: saved under the number before, its samples would be trained twice."""
    rank, applying = FakeRank(), asyncio.Event()
    whole = rank._apply

    async def slow() -> RankReport:
        applying.set()
        await asyncio.sleep(0.1)
        return await whole()

    rank.apply = Remote(rank, slow)
    group = make_group([rank])
    step = asyncio.create_task(group.step(coming()))
    await applying.wait()
    step.cancel()
    with pytest.raises(asyncio.CancelledError):
        await step
    assert group.weight_version == rank.num_applied == 1


async def test_a_learner_that_has_lost_a_rank_can_publish_nothing() -> None:
    group = make_group([FakeRank()])
    assert group.publishable() == 0
    group.workers._seats[0].lose(FaultKind.LOST, "killed")
    assert group.publishable() is None


@pytest.mark.parametrize("normalization", Normalization)
async def test_a_sample_that_is_tried_goes_through_all_ranks_and_no_step_is_taken(normalization: Normalization) -> None:
    ranks = [FakeRank(), FakeRank()]
    learner = make_group(ranks, normalization)
    report = await learner.try_sample(make_sample(2))
    ids = list(report.completion_tokens)
    assert report.views.divergence.tolist() == ids
    weights = [rank.rounds for rank in ranks]
    assert weights == [[(("2",), pytest.approx([1 / len(ids)] * len(ids)), True)], [(("2",), [0.0] * len(ids), True)]]
    assert learner.weight_version == 0 and not any(rank.num_applied for rank in ranks)
    with pytest.raises(NonFiniteError):
        await make_group([FakeRank(nonfinite="2")]).try_sample(make_sample(2))
