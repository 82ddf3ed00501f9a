"""What is refused before anything starts."""

import importlib.util
from pathlib import Path

import pytest

from sdft_ray.config import HarnessConfig, HarnessTask
from sdft_ray.errors import ConfigError
from sdft_ray.evaluation.harness.sources import SOURCES, TASK_FILES, check_harness, data_folder, task_name


def test_every_task_has_a_source_and_a_file() -> None:
    assert set(SOURCES) == set(HarnessTask)
    assert {path.stem for path in TASK_FILES.glob("*.yaml")} == {task.name for task in HarnessTask}


def test_the_folder_is_the_setting_else_that_of_the_environment_else_the_hub(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SDFT_RAY_DATA", str(tmp_path))
    assert data_folder(HarnessConfig()) is None, "no bench/ in it"
    (tmp_path / "bench").mkdir()
    assert data_folder(HarnessConfig()) == tmp_path / "bench"
    assert data_folder(HarnessConfig(data="here")) == Path("here").absolute()
    monkeypatch.delenv("SDFT_RAY_DATA")
    assert data_folder(HarnessConfig()) is None
    assert task_name(HarnessTask.mmlu, None) == "mmlu"
    assert task_name(HarnessTask.mmlu, tmp_path) == "local_mmlu"


def test_without_lm_eval_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_harness(HarnessConfig())
    with pytest.raises(ConfigError, match=r"harness.tasks=\[hellaswag,mmlu\].*make harness.*extra `eval`"):
        check_harness(HarnessConfig(tasks=[HarnessTask.hellaswag, HarnessTask.mmlu]))


def test_a_folder_without_the_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    cfg = HarnessConfig(tasks=[HarnessTask.mmlu], data=str(tmp_path))
    with pytest.raises(ConfigError, match="harness.data=.*has no mmlu_50_per_subject.jsonl"):
        check_harness(cfg)
    (tmp_path / "mmlu_50_per_subject.jsonl").touch()
    check_harness(cfg)
