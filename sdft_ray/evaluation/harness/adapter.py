"""The student as a model of lm_eval, and lm_eval's evaluation of it. Imported by a run that names tasks only."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from sdft_ray.config import HarnessConfig, HarnessTask
from sdft_ray.evaluation.harness.sources import SOURCES, TASK_FILES
from sdft_ray.evaluation.harness.student import Student

DEFAULT_NEW_TOKENS = 256  # of a task that does not say, as in lm_eval's own adapters


class StudentLM(LM):
    """Answers lm_eval, which waits in a thread of its own, from the event loop that knows the workers."""

    def __init__(self, student: Student, loop: asyncio.AbstractEventLoop):
        """Takes the student and the loop that its workers are called from, which is not the caller's."""
        super().__init__()
        self._student = student
        self._loop = loop

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Logprob [nats] of every continuation, and whether it is the greedy one."""
        return self._all(self._student.likelihood, [request.args for request in requests])

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Logprob [nats] of every whole text, read in windows of the greatest length."""
        return self._all(self._rolling, [request.args for request in requests])

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """The greedy completion of every context, up to a stop string.

        Raises:
            ValueError: a task wants samples.
        """
        return self._all(self._completed, [request.args for request in requests])

    def _all(self, answer: Callable[..., Awaitable[Any]], questions: Sequence[tuple[Any, ...]]) -> list[Any]:
        async def ask() -> list[Any]:
            return list(await asyncio.gather(*(answer(*question) for question in questions)))

        return asyncio.run_coroutine_threadsafe(ask(), self._loop).result()

    async def _rolling(self, text: str) -> float:
        student = self._student
        windows = get_rolling_token_windows(
            student.encode(text), prefix_token=student.prefix_token, max_seq_len=student.max_tokens - 1, context_len=1
        )
        parts = [await student.token_likelihood(*make_disjoint_window(window)) for window in windows]
        return sum(logprob for logprob, _ in parts)

    async def _completed(self, context: str, settings: dict[str, Any]) -> str:
        settings = normalize_gen_kwargs(settings, DEFAULT_NEW_TOKENS)
        if settings["do_sample"]:
            raise ValueError(f"this adapter answers greedily, but a task wants samples: {settings}")
        return await self._student.complete(context, until=settings["until"], max_new_tokens=settings["max_gen_toks"])


def on_file(task: HarnessTask, folder: Path) -> dict[str, Any]:
    """Our task on its file in `folder`, as lm_eval takes it."""
    settings: dict[str, Any] = load_yaml(TASK_FILES / f"{task.name}.yaml")
    return settings | {"dataset_kwargs": {"data_files": {"test": str(folder / SOURCES[task].file)}}}


def on_hub(task: HarnessTask) -> str | dict[str, Any]:
    """lm_eval's own task, whose data it fetches; of HumanEval it would fetch the program that runs the tests, too."""
    if task is not HarnessTask.humaneval:
        return task.name
    settings: dict[str, Any] = load_yaml(TASK_FILES / f"{task.name}.yaml")
    return settings | {"task": task.name, "dataset_path": "openai/openai_humaneval", "dataset_kwargs": None}


def evaluate(
    student: Student,
    loop: asyncio.AbstractEventLoop,
    cfg: HarnessConfig,
    folder: Path | None,
    log: Path,
) -> dict[str, Any]:
    """What lm_eval's `simple_evaluate` returns; called in another thread than the loop's.

    Args:
        student: who is asked.
        loop: where its workers are called from.
        cfg: the tasks.
        folder: with the files of their questions; None for lm_eval's own tasks, which read the hub.
        log: gets its progress bars, since the terminal belongs to the run.
    """
    # Reading the thousands of task files that lm_eval brings takes seconds.
    manager = TaskManager(include_defaults=folder is None)
    with log.open("a") as file, redirect_stderr(file):
        results: dict[str, Any] = simple_evaluate(
            StudentLM(student, loop),
            tasks=[on_hub(task) if folder is None else on_file(task, folder) for task in cfg.tasks],
            num_fewshot=0,
            limit=cfg.limit or None,
            bootstrap_iters=0,
            task_manager=manager,
            confirm_run_unsafe_code=cfg.allow_code_execution,
            # It would seed this process's random numbers, which belong to the run.
            random_seed=None,
            numpy_random_seed=None,
            torch_random_seed=None,
        )
    return results
