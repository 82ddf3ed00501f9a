"""What the finished runs of an arm answered, question by question."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from sdft_ray.report.curves import latest
from sdft_ray.report.runs import Run, json_lines, read_runs
from sdft_ray.report.stages import borders
from sdft_ray.tracking.jsonl import ANSWERS_FILE
from tests.claims.arms import ARMS, SEEDS
from tests.claims.running import is_finished, run_folder

PRIOR_LOGPROB, BASE_KL = "evaluation/prior_logprob_nats", "retention/base_student_kl_nats"

Answers = dict[str, float]  # 1 for right, 0 for wrong, by question


@dataclass(frozen=True, slots=True)
class Questions:
    """A value of each question, and each run's mean over them."""

    means: Answers  # over the runs
    by_seed: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Measured:
    """An arm with its finished runs."""

    runs: tuple[Run, ...]

    def by_seed(self, metric: str) -> tuple[float, ...]:
        """A metric of each run after training; NaN where it was not measured."""
        values = [latest(run, metric) for run in self.runs]
        return tuple(math.nan if value is None else value for value in values)

    def at_end(self, sets: Sequence[str]) -> Questions:
        """Whether each question of the sets is right after training."""
        return self._questions(lambda run: answers(run, run.num_steps, sets))

    def changed(self, sets: Sequence[str]) -> Questions:
        """The same, less whether it was right before training."""
        return self._questions(lambda run: _less(answers(run, run.num_steps, sets), answers(run, 0, sets)))

    def kept(self, sets: Sequence[str]) -> Questions:
        """Whether each question is right after the last stage, less whether it was right after the first."""

        def of_run(run: Run) -> Answers:
            (_, _, first_end), *_ = borders(run)
            return _less(answers(run, run.num_steps, sets), answers(run, first_end, sets))

        return self._questions(of_run)

    def _questions(self, of_run: Callable[[Run], Answers]) -> Questions:
        by_run = [of_run(run) for run in self.runs]
        common = [name for name in by_run[0] if all(name in values for values in by_run)]
        return Questions(
            means={name: fmean(values[name] for values in by_run) for name in common},
            by_seed=tuple(fmean(values.values()) for values in by_run),
        )


def read_measured() -> dict[str, Measured]:
    """The arms of which a run has finished, by name."""
    folders = {arm.name: [folder for seed in SEEDS if is_finished(folder := run_folder(arm, seed))] for arm in ARMS}
    return {name: Measured(read_runs([str(one) for one in found])) for name, found in folders.items() if found}


def answers(run: Run, step: int, sets: Sequence[str]) -> Answers:
    """Whether each question of the sets was answered right at an evaluation."""
    return {
        f"{record['set']}/{record['example_id']}": float(record["right"])
        for _, _, record in json_lines(run.folder / ANSWERS_FILE)
        if record["step"] == step and record["set"] in sets
    }


def _less(after: Answers, before: Answers) -> Answers:
    return {name: after[name] - before[name] for name in after if name in before}
