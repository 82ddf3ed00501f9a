"""The metrics of a step add up over ranks."""

import numpy as np
import pytest

from sdft_ray.learner.metrics import step_metrics
from sdft_ray.records import RankReport, Rollout, Sample, TeacherScores
from sdft_ray.tracking.metrics import check_declared


def sample(num_tokens: int, truncated: bool) -> Sample:
    rollout = Rollout(
        prompt_tokens=(1, 2),
        completion_tokens=(3,) * num_tokens,
        logprobs=(-1.0,) * num_tokens,
        weight_version=0,
        truncated=truncated,
    )
    scores = TeacherScores(payload=None, num_tokens=num_tokens, teacher_version=0)
    return Sample(example_id="a", epoch=0, rollout=rollout, scores=scores)


def report(counted_tokens: int, divergence: float, duration_s: float) -> RankReport:
    return RankReport(
        counted_tokens=counted_tokens,
        loss=0.25,
        divergence=divergence,
        student_entropy=2.0 * counted_tokens,
        teacher_entropy=1.0 * counted_tokens,
        correction=1.0 * counted_tokens,
        mismatch_max=duration_s / 100,
        grad_norm=3.0,
        durations_s={"learner/ema_s": duration_s},
        token_divergence=(np.zeros(1),),
    )


def test_sums_of_ranks_become_means_over_counted_tokens() -> None:
    batch = [sample(4, True), sample(2, False)]
    weights = [[0.0, 0.25, 0.25, 0.25], [0.0, 0.0]]
    metrics = step_metrics(batch, [report(2, 1.0, 5.0), report(1, 2.0, 7.0)], weights, sampled=True)
    check_declared(metrics)
    assert metrics["learner/loss"] == 0.5
    assert metrics["learner/divergence_nats"] == pytest.approx(1.0)
    assert metrics["learner/student_entropy_nats"] == pytest.approx(2.0)
    assert metrics["rollout/truncated_share"] == 0.5
    assert metrics["learner/uncounted_samples"] == 1
    assert metrics["learner/train_tokens"] == 10
    assert metrics["learner/mismatch_max_nats"] == pytest.approx(0.07)
    assert metrics["learner/ema_s"] == 7.0


def test_a_batch_without_a_counted_token_has_zeros_and_no_nan() -> None:
    metrics = step_metrics([sample(1, False)], [report(0, 0.0, 1.0)], [[0.0]], sampled=False)
    assert metrics["learner/divergence_nats"] == 0
    assert "learner/mismatch_max_nats" not in metrics
    assert metrics["rollout/tokens"] == 0
