import pytest

from sdft_ray.config import HarnessTask
from sdft_ray.config.harness import THE_SIX
from sdft_ray.evaluation.harness.evaluator import harness_metrics
from sdft_ray.tracking.metrics import check_declared


def test_the_mean_is_unweighted_and_of_the_papers_six_only() -> None:
    accuracies = {task: index / 10 for index, task in enumerate(sorted(THE_SIX, key=lambda task: task.name))}
    metrics = harness_metrics(accuracies | {HarnessTask.gsm8k: 0.9})
    assert metrics["harness/mean_accuracy"] == pytest.approx((0.0 + 0.1 + 0.2 + 0.3 + 0.4 + 0.5) / 6)
    assert metrics["harness/gsm8k_accuracy"] == 0.9
    check_declared(metrics)


def test_there_is_no_mean_of_fewer() -> None:
    assert harness_metrics({HarnessTask.mmlu: 0.5}) == {"harness/mmlu_accuracy": 0.5}
