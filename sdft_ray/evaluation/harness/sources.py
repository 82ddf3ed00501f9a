"""Where the questions of each benchmark come from: files that are here, or lm_eval's own tasks, which read the hub."""

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sdft_ray.config import HarnessConfig, HarnessTask
from sdft_ray.errors import ConfigError

TASK_FILES = Path(__file__).parent / "task_files"
DATA_VARIABLE = "SDFT_RAY_DATA"
LOCAL = "local_"


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskSource:
    """One benchmark: its file, and which of lm_eval's metrics is its accuracy."""

    file: str
    metric: str  # of lm_eval, with its filter, the same for the file and for the hub


# HellaSwag's endings differ in length, so lm_eval's leaderboards divide their logprob by it. Without examples to copy
# GSM8K's "#### 3" from, the last number of an answer is its result.
SOURCES = {
    HarnessTask.hellaswag: TaskSource(file="hellaswag_val_1000.jsonl", metric="acc_norm,none"),
    HarnessTask.mmlu: TaskSource(file="mmlu_50_per_subject.jsonl", metric="acc,none"),
    HarnessTask.truthfulqa_mc1: TaskSource(file="truthfulqa.jsonl", metric="acc,none"),
    HarnessTask.winogrande: TaskSource(file="winogrande_dev.jsonl", metric="acc,none"),
    HarnessTask.humaneval: TaskSource(file="humaneval.jsonl", metric="pass@1,create_test"),
    HarnessTask.ifeval: TaskSource(file="ifeval.jsonl", metric="inst_level_loose_acc,none"),
    HarnessTask.gsm8k: TaskSource(file="gsm8k_test.jsonl", metric="exact_match,flexible-extract"),
}


def task_name(task: HarnessTask, folder: Path | None) -> str:
    """Its name in lm_eval; our own task on a file is not to be mistaken for lm_eval's."""
    return task.name if folder is None else LOCAL + task.name


def data_folder(cfg: HarnessConfig) -> Path | None:
    """The folder with the files; None where lm_eval is to read the hub."""
    if cfg.data:
        return Path(cfg.data).absolute()
    if DATA_VARIABLE in os.environ:
        folder = Path(os.environ[DATA_VARIABLE]).absolute() / "bench"
        return folder if folder.is_dir() else None
    return None


def check_harness(cfg: HarnessConfig) -> None:
    """Refuses, before anything starts, what lm_eval would fail at after minutes.

    Raises:
        ConfigError: lm_eval, a file or the sentence model of IFEval is missing.
    """
    if not cfg.tasks:
        return
    names = f"[{','.join(task.name for task in cfg.tasks)}]"
    if importlib.util.find_spec("lm_eval") is None:
        problem = "these tasks are those of lm-evaluation-harness, which is not installed"
        raise ConfigError("harness.tasks", names, problem, "run `make harness`, or install the extra `eval`")
    folder = data_folder(cfg)
    if folder is not None:
        _check_files(cfg.tasks, folder)
    if HarnessTask.ifeval in cfg.tasks:
        _check_sentence_model(names)


def _check_files(tasks: Sequence[HarnessTask], folder: Path) -> None:
    missing = [SOURCES[task].file for task in tasks if not (folder / SOURCES[task].file).is_file()]
    if missing:
        problem = f"the folder has no {', no '.join(missing)}"
        remedy = f"put it there, or leave harness.data empty and {DATA_VARIABLE} unset to read the hub"
        raise ConfigError("harness.data", str(folder), problem, remedy)


def _check_sentence_model(names: str) -> None:
    """IFEval counts sentences with NLTK's model; where lm_eval cannot fetch it, it goes on until it needs it."""
    import nltk  # comes with the extra, too

    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError as error:
        raise ConfigError(
            "harness.tasks",
            names,
            "ifeval counts sentences with NLTK's model punkt_tab, which is not here",
            "run `python -m nltk.downloader punkt_tab`, or set NLTK_DATA to a folder with tokenizers/punkt_tab",
        ) from error
