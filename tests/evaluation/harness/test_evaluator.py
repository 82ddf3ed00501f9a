import json
from pathlib import Path

import pytest

from sdft_ray.config import HarnessConfig, HarnessTask
from sdft_ray.config.harness import THE_SIX
from sdft_ray.evaluation.harness.evaluator import HARNESS_ANSWERS_FILE, HarnessEvaluator, harness_metrics
from sdft_ray.tracking.metrics import check_declared
from tests.full_disk import no_file_beyond


def test_the_mean_is_unweighted_and_of_the_papers_six_only() -> None:
    accuracies = {task: index / 10 for index, task in enumerate(sorted(THE_SIX, key=lambda task: task.name))}
    metrics = harness_metrics(accuracies | {HarnessTask.gsm8k: 0.9})
    assert metrics["harness/mean_accuracy"] == pytest.approx((0.0 + 0.1 + 0.2 + 0.3 + 0.4 + 0.5) / 6)
    assert metrics["harness/gsm8k_accuracy"] == 0.9
    check_declared(metrics)


def test_there_is_no_mean_of_fewer() -> None:
    assert harness_metrics({HarnessTask.mmlu: 0.5}) == {"harness/mmlu_accuracy": 0.5}


def test_answers_that_find_no_room_end_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = {"filter": "none", "doc_id": 0, "target": "a", "resps": [[(-1.0, False)], [(-2.0, False)]], "acc": 1.0}
    evaluator = HarnessEvaluator(None, HarnessConfig(), run_dir=tmp_path)  # type: ignore[arg-type]
    path = tmp_path / HARNESS_ANSWERS_FILE
    with no_file_beyond(5):
        evaluator._keep_answers(0, {"winogrande": [answer]})
    assert "not written" in capsys.readouterr().out and path.read_text() == ""
    evaluator._keep_answers(4, {"winogrande": [answer]})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [0, 4]
