"""Alarms: one line on the console when a run begins to go wrong, with the step at which it began.

The rules, with the numbers of `AlarmsConfig`. The reference is the mean of the first `reference_steps` steps of a run,
or of a stage where it has stages. From there on a running mean m <- memory * m + (1 - memory) * value begins at
the reference, and a rule is broken where

    entropy      student entropy         m < entropy_share * reference
    length       completion length       m < length_share * reference
    runaway      completion length       m > length_factor * reference, and truncated completions m > truncated_share
    divergence   from the teacher        m > divergence_factor * reference, and m > divergence_nats
    mismatch     sampler and learner     m > mismatch_nats, where every completion of the step was on-policy

A rule broken `patience` steps in a row raises an alarm, once until it has been kept again. The running mean and the
patience are there for noise: single bad steps, however bad, pass. The mean follows late, so the step at which it
began is not where the mean crossed the bound: it is the first of the steps before that whose own values all break
the rule. A slow drift that stays within the bounds is none of these rules' business.

A step that has no counted token, or a value that is not finite, says nothing and is passed over. An alarm ends
nothing: low entropy is also what learning short, certain answers looks like. It says where to look in samples.jsonl.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdft_ray.config import AlarmsConfig
from sdft_ray.tracking.jsonl import cut_after, line_of
from sdft_ray.tracking.line_file import LineFile

ALARMS_FILE = "alarms.jsonl"
COUNTED = "learner/counted_tokens"
ENTROPY = "learner/student_entropy_nats"
LENGTH = "rollout/completion_tokens_mean"
TRUNCATED = "rollout/truncated_share"
DIVERGENCE = "learner/divergence_nats"
MISMATCH = "learner/mismatch_max_nats"
STALENESS = "loop/staleness_max"
WATCHED = (ENTROPY, LENGTH, TRUNCATED, DIVERGENCE, MISMATCH)

Values = Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """What must not last."""

    name: str
    says: str  # what has happened where it is broken
    metric: str
    broken: Callable[[Values, Values], bool]  # by these values, given the reference


@dataclass(kw_only=True, slots=True)
class Series:
    """Steps in a row that break a rule."""

    began: int
    num_steps: int = 0


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
        self._rules = _rules(cfg)
        self._num_empty = 0  # of the last steps, those in a row that have trained on nothing
        self._stage: str | None = None  # none has begun
        self.begin_stage("")
        self._path = run_dir / ALARMS_FILE
        cut_after(self._path, resumed_step)
        self._lines = LineFile(self._path, say)
        for line in history:
            self.begin_stage(line.get("stage", ""))
            self._observe(line["step"], line)

    def begin_stage(self, name: str) -> None:
        """Forgets what the steps of another stage were like: other data have other lengths and entropies."""
        if name == self._stage:
            return
        self._stage = name
        self._first: list[dict[str, float]] = []  # values of the steps the reference is made of
        self._reference: dict[str, float] = {}
        self._mean: dict[str, float] = {}
        self._broken_since: dict[str, int] = {}  # by rule: the first of the last steps that break it by themselves
        self._series: dict[str, Series] = {}  # by rule: what its running mean is going through

    def watch(self, step: int, metrics: Mapping[str, float]) -> dict[str, float]:
        """Takes the metrics of a step; says and writes what is raised by it. Returns how many alarms stand."""
        self._watch_counted(step, metrics)
        for rule, series in self._observe(step, metrics):
            self._raise(step, rule, series)
        return {"loop/alarms": float(sum(self._is_raised(series) for series in self._series.values()))}

    def _watch_counted(self, step: int, metrics: Mapping[str, float]) -> None:
        """Says when `patience` steps in a row have trained on nothing; a single one may hold cut completions only."""
        self._num_empty = self._num_empty + 1 if metrics.get(COUNTED) == 0 else 0
        if self._num_empty and self._num_empty == self._cfg.patience:
            began = step - self._num_empty + 1
            text = (
                f"alarm at step {step}: no token has carried loss since step {began}, so nothing is learned; lower "
                "loss.skip_first_tokens, set loss.drop_truncated=false, or raise rollout.max_new_tokens so that "
                "completions reach loss.skip_until, if that is set"
            )
            self._write(text, step=step, began=began, rule="uncounted", metric=COUNTED, mean=0.0, reference=0.0)

    def _observe(self, step: int, metrics: Mapping[str, Any]) -> list[tuple[Rule, Series]]:
        """What the step raises."""
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
        series = self._series.setdefault(rule.name, Series(began=self._broken_since.get(rule.name, step)))
        series.num_steps += 1
        return series if series.num_steps == self._cfg.patience else None

    def _is_raised(self, series: Series) -> bool:
        return series.num_steps >= self._cfg.patience

    def _raise(self, step: int, rule: Rule, series: Series) -> None:
        mean, reference = self._mean[rule.metric], self._reference[rule.metric]
        text = (
            f"alarm at step {step}: {rule.says}; it began at step {series.began} "
            f"({rule.metric} {mean:.3g}, in the first {self._cfg.reference_steps} steps {reference:.3g})"
        )
        self._write(
            text,
            step=step,
            began=series.began,
            rule=rule.name,
            metric=rule.metric,
            mean=mean,
            reference=reference,
        )

    def _write(self, text: str, **fields: str | float) -> None:
        self._say(text)
        self._lines.write([line_of(fields | {"text": text})])


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _rules(cfg: AlarmsConfig) -> tuple[Rule, ...]:
    return (
        Rule(
            name="entropy",
            says="the student's entropy has collapsed",
            metric=ENTROPY,
            broken=lambda values, reference: values[ENTROPY] < cfg.entropy_share * reference[ENTROPY],
        ),
        Rule(
            name="length",
            says="the completions have collapsed to a fraction of their length",
            metric=LENGTH,
            broken=lambda values, reference: values[LENGTH] < cfg.length_share * reference[LENGTH],
        ),
        Rule(
            name="runaway",
            says="the completions run away to their length limit",
            metric=LENGTH,
            broken=lambda values, reference: (
                values[LENGTH] > cfg.length_factor * reference[LENGTH] and values[TRUNCATED] > cfg.truncated_share
            ),
        ),
        Rule(
            name="divergence",
            says="the student moves away from its teacher",
            metric=DIVERGENCE,
            broken=lambda values, reference: (
                values[DIVERGENCE] > max(cfg.divergence_factor * reference[DIVERGENCE], cfg.divergence_nats)
            ),
        ),
        Rule(
            name="mismatch",
            says="the rollout engines sample from other weights than the learner holds",
            metric=MISMATCH,
            broken=lambda values, reference: values[MISMATCH] > cfg.mismatch_nats,
        ),
    )
