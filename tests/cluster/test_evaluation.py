"""mode=evaluate as a user runs it, on a tiny random model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.cluster.command import SETTINGS
from tests.cluster.in_process import run_in_process


def test_a_model_is_evaluated_as_it_is_by_rollout_workers_alone(launch: Callable[..., Any], folder: str) -> None:
    run_dir, output = launch("looked-at", "mode=evaluate", "+evaluation.sets.taught='builtin:facts:taught[:4]'")
    result = json.loads((run_dir / "evaluation.json").read_text())
    assert result["model"] == folder
    assert result["metrics"].keys() == {"evaluation/taught_accuracy"}
    assert len((run_dir / "answers.jsonl").read_text().splitlines()) == 4
    assert "taught accuracy" in output
    assert {path.name for path in (run_dir / "logs").iterdir()} == {"driver.log", "rollout-0.log"}
    assert not (run_dir / "checkpoints").exists()


def test_an_evaluation_that_has_nothing_to_ask_is_refused(tmp_path: Path) -> None:
    code, output = run_in_process(*SETTINGS, "model.path=nowhere", f"runs_dir={tmp_path}", "mode=evaluate")
    assert code == 1
    assert "mode=evaluate has nothing to ask" in output
