"""What the user sees: start-up phases, a progress bar, a line a step, the table at the end.

On a terminal, and in a notebook that has ipywidgets, there is a bar and a spinner; anywhere else (a file, a CI log)
there are plain lines only. Every line also goes to this module's logger, which a run sends to its folder.
"""

import io
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Self

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, Task, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from sdft_ray.records import SampleReport

LOG = logging.getLogger(__name__)
LOG_WIDTH = 160  # of a table in the log, characters
COUNT_EVERY_S = 10.0  # between two lines that say how far something is, where there is no terminal
STEPS_FOR_TIME_LEFT = 10  # the mean over fewer jumps about, over more it ignores that completions grow

COUNTS = ("_unscored", "/judge_prompts", "/judge_requests", "/judge_retries")  # ends of the keys of numbers of things

STEP_COLUMNS = (
    ("learner/loss", "loss {:.4f}"),
    ("learner/divergence_nats", "divergence {:.4f}"),
    ("rehearsal/divergence_nats", "rehearsed {:.4f}"),
    ("learner/grad_norm", "grad norm {:.2f}"),
    ("rollout/completion_tokens_mean", "completion {:.0f} tokens"),
    ("loop/step_s", "{:.1f} s"),
)


class CountColumn(MofNCompleteColumn):
    """Done of total; nothing where there is no total."""

    def render(self, task: Task) -> Text:
        """The column of one row."""
        return Text() if task.total is None else super().render(task)


class ConsoleSink:
    """The sink that a person reads."""

    def __init__(self, num_steps: int, console: Console | None = None):
        """Prepares the output; nothing is printed yet.

        Args:
            num_steps: steps of the whole run.
            console: where to print; standard output by default.
        """
        self._console = console or Console(highlight=False)
        self._has_bar = _has_bar(self._console)
        self._num_steps = num_steps
        self._step_times_s: deque[float] = deque(maxlen=STEPS_FOR_TIME_LEFT)
        self._bar: TaskID | None = None
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            CountColumn(),
            TextColumn("{task.fields[numbers]}", markup=False),
            console=self._console,
            transient=True,
            disable=not self._has_bar,
        )

    def __enter__(self) -> Self:
        """Shows the bar; leaving the block takes it away, also after a failure."""
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def phase(self, what: str) -> Iterator[None]:
        """Shows that `what` ("starting rollout") is going on, and how long it took. Phases may overlap."""
        with self.counting(what):
            yield

    @contextmanager
    def counting(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """As `phase`; what it yields is told how many there are of how many, and shows that."""
        if not self._has_bar:
            self.say(f"{what} ...")
        task = self._progress.add_task(what, total=None, numbers="")
        start = said_at = time.monotonic()
        outcome = "failed after "

        def update(num_done: int, num_all: int) -> None:
            nonlocal said_at
            self._progress.update(task, completed=num_done, total=num_all)
            if not self._has_bar and time.monotonic() - said_at >= COUNT_EVERY_S:
                said_at = time.monotonic()
                self.say(f"{what} ... {num_done} of {num_all}")

        try:
            yield update
            outcome = ""
        finally:
            self._progress.remove_task(task)
            self.say(f"{what} ... {outcome}{time.monotonic() - start:.0f} s")

    def going_on(self) -> tuple[str, ...]:
        """What the terminal shows of phases that have not ended, training left out; with a count where there is one."""
        tasks = [task for task in self._progress.tasks if task.id != self._bar]
        return tuple(
            task.description + (f" {task.completed:.0f} of {task.total:.0f}" if task.total else "") for task in tasks
        )

    def say(self, line: str) -> None:
        """Prints one line, above the bar where there is one."""
        self._console.print(line, markup=False, soft_wrap=True)
        LOG.info(line)

    def show(self, show: Callable[[Console], None]) -> None:
        """Has something printed that is more than a line, such as a table."""
        self.close()
        show(self._console)
        plain = Console(file=io.StringIO(), highlight=False, width=LOG_WIDTH)
        show(plain)
        for line in plain.file.getvalue().splitlines():  # type: ignore[attr-defined]
            LOG.info(line)

    def log_step(
        self, step: int, time_s: float, metrics: Mapping[str, float], samples: tuple[SampleReport, ...]
    ) -> None:
        """Prints the step's line and moves the bar."""
        if "loop/step_s" in metrics:
            self._step_times_s.append(metrics["loop/step_s"])
        columns = [form.format(metrics[key]) for key, form in STEP_COLUMNS if key in metrics]
        pace = [*_tokens_per_s(metrics), *self._time_left(step)]
        plain_pace = [] if self._has_bar else pace
        self.say("  ".join([f"step {step}/{self._num_steps}", *columns, *plain_pace]))
        if self._bar is None:
            self._bar = self._progress.add_task("training", total=self._num_steps, numbers="")
        self._progress.update(self._bar, completed=step, numbers="  ".join([*columns[:2], *pace]))

    def log_evaluation(self, step: int, time_s: float, metrics: Mapping[str, float]) -> None:
        """Prints the evaluation's line."""
        results = ", ".join(f"{evaluation_name(key)} {shown_value(key, value)}" for key, value in metrics.items())
        self.say(f"evaluation after step {step}: {results}")

    def close(self) -> None:
        """Takes the bar away."""
        self._progress.stop()

    def show_summary(self, summary: Mapping[str, Any], run_dir: str) -> None:
        """Prints what was reached: a table of the evaluations, where the run lies, and what held it up.

        Args:
            summary: as `summary.build_summary` makes it.
            run_dir: the run folder.
        """
        self.close()
        table = Table("", "before", "after", box=box.SIMPLE_HEAD if self._has_bar else None)
        for name, value in summary["evaluation"].items():
            key = f"evaluation/{name}"
            table.add_row(evaluation_name(key), shown_value(key, value["before"]), shown_value(key, value["after"]))
        if table.row_count:
            self.show(lambda console: console.print(table))
        self.say(f"run folder  {run_dir}")
        self.say(f"wall time   {duration(summary['wall_s'])}, {duration(summary['setup_s'])} of it set-up")
        peaks = [f"{role} {memory['max']:.1f}" for role, memory in summary["peak_gpu_memory_gib"].items()]
        if peaks:
            self.say(f"GPU memory  {', '.join(peaks)} GiB reserved at most, on the fullest GPU")
        if summary["verdict"] is not None:
            self.say(f"verdict     {summary['verdict']}")

    def show_evaluation(self, metrics: Mapping[str, float], run_dir: str) -> None:
        """Prints one evaluation as a table, and where the run lies."""
        self.close()
        table = Table("", "", show_header=False, box=box.SIMPLE_HEAD if self._has_bar else None)
        for key, value in metrics.items():
            table.add_row(evaluation_name(key), shown_value(key, value))
        self.show(lambda console: console.print(table))
        self.say(f"run folder  {run_dir}")

    def _time_left(self, step: int) -> list[str]:
        if not self._step_times_s:
            return []
        mean_s = sum(self._step_times_s) / len(self._step_times_s)
        return [f"{duration(mean_s * (self._num_steps - step))} left"]


def _has_bar(console: Console) -> bool:
    """True when a bar can move: on a terminal, or in a notebook with the widgets that rich draws it with."""
    return console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)


def _tokens_per_s(metrics: Mapping[str, float]) -> list[str]:
    if "learner/train_tokens" not in metrics or not metrics.get("loop/step_s"):
        return []
    return [f"{metrics['learner/train_tokens'] / metrics['loop/step_s']:.0f} tokens/s"]


def evaluation_name(key: str) -> str:
    """`evaluation/prior_logprob_nats` as "prior logprob"; what is no evaluation of the run's own keeps its role."""
    return key.removeprefix("evaluation/").removesuffix("_nats").replace("_", " ").replace("/", " ")


def shown_value(key: str, value: float | None) -> str:
    """The value of an evaluation's metric, with its unit."""
    if value is None:
        return "not measured"
    if key.endswith("_accuracy") or "_pass_at_" in key:
        return f"{value:.1%}"
    return f"{value:.0f}" if key.endswith(COUNTS) else f"{value:.3f} nats per token"


def duration(seconds: float) -> str:
    """Seconds as people say them: "3 min 23 s"."""
    minutes, rest_s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest_s} s" if minutes else f"{rest_s} s"
