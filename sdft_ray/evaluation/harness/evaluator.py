"""The evaluator of prior capabilities: runs lm_eval beside the event loop and keeps every answer."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdft_ray.config import HarnessConfig, HarnessTask
from sdft_ray.config.harness import THE_SIX
from sdft_ray.evaluation.harness.sources import LOCAL, SOURCES, data_folder, task_name
from sdft_ray.evaluation.harness.student import Student
from sdft_ray.tracking.jsonl import line_of
from sdft_ray.tracking.line_file import LineFile

HARNESS_ANSWERS_FILE = "harness_answers.jsonl"
LOG_FILE = "harness.log"


class HarnessEvaluator:
    """Implements `roles.Evaluator`."""

    def __init__(
        self,
        student: Student,
        cfg: HarnessConfig,
        *,
        run_dir: Path,
    ):
        """Every answer goes to harness_answers.jsonl in the run folder: two runs are compared question by question.

        Args:
            student: who is asked.
            cfg: the tasks and where their questions are.
            run_dir: the run folder.
        """
        self._student = student
        self._cfg = cfg
        self._answers = LineFile(run_dir / HARNESS_ANSWERS_FILE)
        self._log = run_dir / "logs" / LOG_FILE

    async def evaluate(self, version: int) -> dict[str, float]:
        """Accuracies of the student's weights of `version`."""
        # Here and not above: lm_eval is there for runs that name tasks only.
        from sdft_ray.evaluation.harness.adapter import evaluate

        await self._student.load_weights(version)
        cfg, folder = self._cfg, data_folder(self._cfg)
        results = await asyncio.to_thread(
            evaluate,
            self._student,
            asyncio.get_running_loop(),
            cfg,
            folder,
            self._log,
        )
        self._keep_answers(version, results["samples"])
        accuracies = {
            task: float(results["results"][task_name(task, folder)][SOURCES[task].metric]) for task in cfg.tasks
        }
        return harness_metrics(accuracies)

    def _keep_answers(self, version: int, samples: Mapping[str, list[dict[str, Any]]]) -> None:
        """`samples` is keyed by lm_eval's tasks, of which MMLU on the hub has 57."""
        for name, answers in samples.items():
            benchmark = name.removeprefix(LOCAL)
            metric, _, wanted = _metric_of(benchmark).partition(",")
            records = [_record(version, benchmark, answer, metric) for answer in answers if answer["filter"] == wanted]
            self._answers.write(map(line_of, records))


def harness_metrics(accuracies: Mapping[HarnessTask, float]) -> dict[str, float]:
    """Metrics by key, with the unweighted mean of the paper's six where all of them are there."""
    metrics = {f"harness/{task.name}_accuracy": accuracy for task, accuracy in accuracies.items()}
    if accuracies.keys() >= THE_SIX:
        metrics["harness/mean_accuracy"] = sum(accuracies[task] for task in THE_SIX) / len(THE_SIX)
    return metrics


def _metric_of(benchmark: str) -> str:
    """The metric of one of lm_eval's tasks, whose name may have that of a subject behind it."""
    return next(source.metric for task, source in SOURCES.items() if benchmark.startswith(task.name))


def _record(version: int, benchmark: str, answer: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """One line: a completion, or the logprobs [nats] of the choices; IFEval's `right` is a list, one an instruction."""
    responses = [first for first, *_ in answer["resps"]]
    said = {"completion": responses[0]}
    if not isinstance(responses[0], str):
        said = {"logprobs": [logprob for logprob, _ in responses]}
    record = {"step": version, "set": benchmark, "example_id": str(answer["doc_id"]), "answer": str(answer["target"])}
    return record | said | {"right": answer[metric]}
