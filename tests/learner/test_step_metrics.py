"""The metrics of a step add up over ranks."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from sdft_ray.learner.metrics import num_sequence_tokens
from sdft_ray.learner.step_metrics import POSITION_BUCKETS, divergence_by_position, step_metrics
from sdft_ray.records import MatmulSeconds, RankReport, SampleReport
from sdft_ray.tracking.metrics import check_declared
from tests.fakes import make_views


def sample(
    num_tokens: int,
    truncated: bool,
    weight_version: int = 0,
    num_counted: int = 0,
    divergence: Sequence[float] | None = None,
) -> SampleReport:
    return SampleReport(
        example_id="a",
        epoch=0,
        weight_version=weight_version,
        prompt_tokens=(1, 2),
        completion_tokens=(3,) * num_tokens,
        num_counted=num_counted,
        views=make_views([0.0] * num_tokens if divergence is None else divergence),
        copied_share=num_tokens / 10,
        truncated=truncated,
    )


def report(
    counted_tokens: int, divergence: float, duration_s: float, sequence_tokens: int = 4, input_tokens: int = 4
) -> RankReport:
    return RankReport(
        input_tokens=input_tokens,
        head_rows=2,
        sequence_tokens=sequence_tokens,
        counted_tokens=counted_tokens,
        loss=0.25,
        divergence=divergence,
        student_entropy=2.0 * counted_tokens,
        teacher_entropy=1.0 * counted_tokens,
        correction=1.0 * counted_tokens,
        mismatch_max=duration_s / 100,
        grad_norm=3.0,
        durations_s={"learner/ema_s": duration_s, "learner/forward_backward_s": 4.0},
    )


def test_sums_of_ranks_become_means_over_counted_tokens() -> None:
    batch = [sample(4, True), sample(2, False)]
    matmuls = [MatmulSeconds(per_token=0.1, per_head_row=0.2), MatmulSeconds(per_token=0.2, per_head_row=0.1)]
    reports = [report(2, 1.0, 5.0), report(1, 2.0, 7.0)]
    metrics = step_metrics(batch, reports, weight_version=0, sampled=True, matmuls=matmuls)
    check_declared(metrics)
    assert metrics["learner/loss"] == 0.5
    assert metrics["learner/divergence_nats"] == pytest.approx(1.0)
    assert metrics["learner/student_entropy_nats"] == pytest.approx(2.0)
    assert metrics["rollout/truncated_share"] == 0.5
    assert metrics["learner/train_tokens"] == 10
    assert metrics["learner/mismatch_max_nats"] == pytest.approx(0.07)
    assert metrics["learner/ema_s"] == 7.0
    assert metrics["learner/matmul_share"] == pytest.approx(0.25), "of the rank with the most to multiply"
    assert metrics["rollout/copied_share"] == pytest.approx(0.3)


def test_a_batch_without_a_counted_token_has_zeros_and_no_nan() -> None:
    metrics = step_metrics([sample(1, False)], [report(0, 0.0, 1.0)], weight_version=0, sampled=False)
    assert metrics["learner/divergence_nats"] == 0
    assert not {"learner/mismatch_max_nats", "rollout/copied_share", *POSITION_BUCKETS} & set(metrics)


def test_divergence_by_position_is_the_mean_over_counted_tokens_at_each_position_of_any_completion() -> None:
    long = [float(position) for position in range(200)]
    batch = [
        sample(200, False, num_counted=197, divergence=long),
        sample(10, False, num_counted=7, divergence=[100 + nats for nats in long[:10]]),
        sample(4, True, num_counted=0, divergence=[math.nan] * 4),  # drop_truncated
    ]
    metrics = divergence_by_position(batch)
    check_declared(metrics)
    assert metrics == {
        "learner/divergence_first_nats": pytest.approx(np.mean([3, 4, 5, 6, 7, 103, 104, 105, 106, 107])),
        "learner/divergence_early_nats": pytest.approx(np.mean([*range(8, 32), 108, 109])),
        "learner/divergence_middle_nats": pytest.approx(np.mean(range(32, 128))),
        "learner/divergence_last_nats": pytest.approx(np.mean(range(128, 200))),
    }


def test_the_buckets_of_positions_leave_none_out_and_share_none() -> None:
    buckets = list(POSITION_BUCKETS.values())
    assert buckets[0].start == 0 and buckets[-1].stop is None
    assert [bucket.stop for bucket in buckets[:-1]] == [bucket.start for bucket in buckets[1:]]


@pytest.mark.parametrize(("sequence_tokens", "share"), [((5, 3), 0.0), ((5, 5), 0.2)])
def test_padding_is_what_was_read_beyond_prompts_and_all_but_the_last_completion_token(
    sequence_tokens: tuple[int, int], share: float
) -> None:
    batch = [sample(4, False), sample(2, False)]  # 5 and 3 tokens to read
    reports = [report(1, 0.0, 0.0, num_tokens) for num_tokens in sequence_tokens]
    metrics = step_metrics(batch, reports, weight_version=0, sampled=True)
    assert metrics["learner/padded_share"] == pytest.approx(share)


def test_staleness_is_that_of_the_oldest_completion() -> None:
    batch = [sample(1, False, weight_version=7), sample(1, False, weight_version=5)]
    assert step_metrics(batch, [report(1, 0.0, 0.0)], weight_version=7, sampled=True)["loop/staleness_max"] == 2


def test_a_prefix_read_once_for_two_samples_is_shared_and_not_padded() -> None:
    batch = [sample(4, False), sample(2, False)]
    metrics = step_metrics(batch, [report(1, 0.0, 0.0, 8, 6)], weight_version=0, sampled=True)
    assert metrics["learner/shared_share"] == 0.25
    assert metrics["learner/padded_share"] == 0


@pytest.mark.parametrize(("positions", "total"), [([0], 1), ([0, 1, 2, 0, 1], 5), ([0, 1, 2, 1, 2, 3, 1], 9)])
def test_every_sequence_of_a_pack_is_counted_whole(positions: list[int], total: int) -> None:
    assert num_sequence_tokens(np.array(positions)) == total


def test_rehearsal_rows_have_metrics_of_their_own_and_copy_nothing() -> None:
    taught = sample(3, False, num_counted=2, divergence=[9.0, 1.0, 2.0])
    rehearsed = replace(sample(2, True, num_counted=2, divergence=[0.25, 0.5]), is_rehearsal=True, copied_share=0.0)
    metrics = step_metrics([taught, rehearsed], [report(4, 3.75, 1.0)], weight_version=0, sampled=True)
    check_declared(metrics)
    assert metrics["rehearsal/rows"] == 1
    assert metrics["rehearsal/divergence_nats"] == 0.375
    assert metrics["rehearsal/taught_divergence_nats"] == 1.5
    assert metrics["rehearsal/completion_tokens_mean"] == 2
    assert metrics["rollout/copied_share"] == taught.copied_share
    assert not any(
        key.startswith("rehearsal/")
        for key in step_metrics([taught], [report(2, 3.0, 1.0)], weight_version=0, sampled=True)
    )


def test_rehearsal_rows_without_a_counted_token_have_no_divergence() -> None:
    rehearsed = replace(sample(2, True), is_rehearsal=True)
    metrics = step_metrics(
        [sample(3, False, num_counted=2), rehearsed], [report(2, 3.0, 1.0)], weight_version=0, sampled=True
    )
    assert "rehearsal/divergence_nats" not in metrics
    assert metrics["rehearsal/rows"] == 1
