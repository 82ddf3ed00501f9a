"""Alarms: one line on the console when a run begins to go wrong, with the step at which it began.

A rule of `alarm_rules.py` that stays broken raises an alarm, once until it has been kept again. The running mean and
the patience are there for noise: single bad steps pass, but for a leap of loss or divergence. The mean follows late,
so the step at which it began is not where the mean crossed the bound: it is the first of the steps before that whose
own values all break the rule. A slow drift that stays within the bounds is none of these rules' business.

A step that has no counted token, or a value that is not finite, says nothing to the rules of means. An alarm ends
nothing unless `tracking.alarms.stop` says so: low entropy is also what learning short, certain answers looks like. It
says where to look in samples.jsonl.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdft_ray.config import AlarmsConfig
from sdft_ray.tracking.alarm_rules import (
    DIVERGENCE,
    ENTROPY,
    LENGTH,
    MISMATCH,
    TRUNCATED,
    Rule,
    StepRule,
    Values,
    mean_rules,
    step_rules,
)
from sdft_ray.tracking.jsonl import cut_after, line_of
from sdft_ray.tracking.line_file import LineFile

ALARMS_FILE = "alarms.jsonl"
COUNTED = "learner/counted_tokens"
STALENESS = "loop/staleness_max"
WATCHED = (ENTROPY, LENGTH, TRUNCATED, DIVERGENCE, MISMATCH)


@dataclass(kw_only=True, slots=True)
class Series:
    """Steps in a row that break a rule."""

    began: int
    patience: int  # of them raise it
    num_steps: int = 0

    @property
    def is_raised(self) -> bool:
        """True when the alarm stands."""
        return self.num_steps >= self.patience


class Alarms:
    """Watches the metrics of a run, a `tracker.Watcher`."""

    def __init__(
        self,
        cfg: AlarmsConfig,
        *,
        run_dir: Path,
        say: Callable[[str], None],
        history: Iterable[Mapping[str, Any]] = (),
        resumed_step: int | None = None,
    ):
        """Begins alarms.jsonl, or goes on with it.

        Args:
            cfg: the numbers in the rules.
            run_dir: the run folder.
            say: prints a line.
            history: lines of metrics.jsonl of the run before it was resumed, which are watched without a word.
            resumed_step: the step of the checkpoint that is resumed; None begins a new file.
        """
        self._cfg = cfg
        self._say = say
        self._rules = mean_rules(cfg)
        self._step_rules = step_rules(cfg)
        self.reason_to_stop = ""  # the first alarm, where `stop` has it end the run
        self._stage: str | None = None  # none has begun
        self._lines = LineFile(run_dir / ALARMS_FILE, say)
        self._path = run_dir / ALARMS_FILE
        self.take_over(history, resumed_step)

    def take_over(self, history: Iterable[Mapping[str, Any]], step: int | None) -> None:
        """Begins again behind `step` with these lines of metrics.jsonl; later alarms move to earlier/.

        None moves all of them. Lines of the history are watched without a word.
        """
        self._lines.close()
        cut_after(self._path, step)
        self.reason_to_stop = ""
        self._stage = None
        self.begin_stage("")
        for line in history:
            self.begin_stage(line.get("stage", ""))
            self._observe(line["step"], line)
            self._look(line["step"], line)

    def begin_stage(self, name: str) -> None:
        """Forgets what the steps of another stage were like: other data have other lengths and entropies."""
        if name == self._stage:
            return
        self._stage = name
        self._first: list[dict[str, float]] = []  # values of the steps the reference is made of
        self._reference: dict[str, float] = {}
        self._mean: dict[str, float] = {}
        self._broken_since: dict[str, int] = {}  # by rule: the first of the last steps that break it by themselves
        self._series: dict[str, Series] = {}  # by rule: what its running mean, or the run of single steps, goes through
        self._own_means: dict[str, tuple[int, float]] = {}  # by rule of steps: values so far, and their running mean

    def watch(self, step: int, metrics: Mapping[str, float]) -> dict[str, float]:
        """Takes the metrics of a step; says and writes what is raised by it. Returns how many alarms stand."""
        for own, series, value in self._look(step, metrics):
            text = f"alarm at step {step}: {own.says}; it began at step {series.began} ({own.metric} {value:.3g})"
            self._write(text, step, series, own, mean=value, reference=self._own_means.get(own.name, (0, 0.0))[1])
        for rule, series in self._observe(step, metrics):
            self._raise(step, rule, series)
        return {"loop/alarms": float(sum(series.is_raised for series in self._series.values()))}

    def close(self) -> None:
        """Writes what has waited for room, and closes the file."""
        self._lines.close()

    def _look(self, step: int, metrics: Mapping[str, Any]) -> list[tuple[StepRule, Series, float]]:
        """What the step raises by its own values."""
        if not self._cfg.patience:
            return []
        raised = []
        for rule in self._step_rules:
            value = metrics.get(rule.metric)
            if not _is_number(value):
                continue
            assert value is not None
            if rule.broken(value, self._mean_before(rule, value)):
                series = self._series.setdefault(rule.name, Series(began=step, patience=rule.num_steps))
                series.num_steps += 1
                if series.num_steps == rule.num_steps:
                    raised.append((rule, series, value))
            else:
                self._series.pop(rule.name, None)
        return raised

    def _mean_before(self, rule: StepRule, value: float) -> float | None:
        """The running mean of the rule's metric without this step; None before `reference_steps` steps."""
        number, mean = self._own_means.get(rule.name, (0, 0.0))
        is_first = number < self._cfg.reference_steps
        share = 1 / (number + 1) if is_first else 1 - self._cfg.memory
        self._own_means[rule.name] = (number + 1, mean + share * (abs(value) - mean))
        return None if is_first else mean

    def _observe(self, step: int, metrics: Mapping[str, Any]) -> list[tuple[Rule, Series]]:
        """What the step raises by what the means have come to."""
        if not self._cfg.patience or not metrics.get(COUNTED, 1.0):
            return []
        values = {key: metrics[key] for key in WATCHED if _is_number(metrics.get(key))}
        if MISMATCH not in metrics or metrics.get(STALENESS):  # nothing was sampled, or by older weights
            values[MISMATCH] = 0.0
        if len(values) < len(WATCHED):
            return []
        if len(self._first) < self._cfg.reference_steps:
            self._first.append(values)
            self._reference = {key: sum(step[key] for step in self._first) / len(self._first) for key in WATCHED}
            self._mean = dict(self._reference)
            return []
        memory = self._cfg.memory
        self._mean = {key: memory * self._mean[key] + (1 - memory) * values[key] for key in WATCHED}
        return [(rule, series) for rule in self._rules if (series := self._follow(rule, step, values))]

    def _follow(self, rule: Rule, step: int, values: Values) -> Series | None:
        """The rule's series where this step makes it an alarm."""
        if rule.broken(values, self._reference):
            self._broken_since.setdefault(rule.name, step)
        else:
            self._broken_since.pop(rule.name, None)
        if not rule.broken(self._mean, self._reference):
            self._series.pop(rule.name, None)
            return None
        began = self._broken_since.get(rule.name, step)
        series = self._series.setdefault(rule.name, Series(began=began, patience=self._cfg.patience))
        series.num_steps += 1
        return series if series.num_steps == self._cfg.patience else None

    def _raise(self, step: int, rule: Rule, series: Series) -> None:
        mean, reference = self._mean[rule.metric], self._reference[rule.metric]
        text = (
            f"alarm at step {step}: {rule.says}; it began at step {series.began} "
            f"({rule.metric} {mean:.3g}, in the first {self._cfg.reference_steps} steps {reference:.3g})"
        )
        self._write(text, step, series, rule, mean=mean, reference=reference)

    def _write(
        self, text: str, step: int, series: Series, rule: Rule | StepRule, *, mean: float, reference: float
    ) -> None:
        self._say(text)
        record = {"step": step, "began": series.began, "rule": rule.name, "metric": rule.metric}
        self._lines.write([line_of(record | {"mean": mean, "reference": reference, "text": text})])
        if self._cfg.stop and not self.reason_to_stop:
            self.reason_to_stop = text


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
