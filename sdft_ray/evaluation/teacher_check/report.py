"""The check as a table for a person and as plain containers for a program."""

from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sdft_ray.config.validation import template_label
from sdft_ray.evaluation.teacher_check.advice import Current, sentences, settings
from sdft_ray.evaluation.teacher_check.copying import COPIED_SHARE, NUM_TOKENS
from sdft_ray.evaluation.teacher_check.measure import Comparison, Measured
from sdft_ray.evaluation.teacher_check.sample import STUDENT
from sdft_ray.evaluation.teacher_check.verdict import Verdict
from sdft_ray.statistics import Interval

LEGEND = (
    "right: greedy answers; logprob: mean per token of the example's demonstration [nats]; copied: answers of which "
    f"{COPIED_SHARE:.0%} of the runs of {NUM_TOKENS} tokens stand in the demonstration; cut: answers that reached "
    "their token limit; KL: of the teacher to the model alone, on tokens sampled at temperature 1 [nats per token]; "
    "wrong: another example's demonstration; BM25, RANDOM: those of teacher.pool; with 95 % intervals"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherReport:
    """What was asked, measured and concluded."""

    model: str
    source: str
    seed: int
    comparison: Comparison
    verdict: Verdict
    now: Current
    command: str  # to run next; "" where there is little left to teach, or where no command has asked

    def as_dict(self) -> dict[str, Any]:
        """Plain containers, the answers of every example among them."""
        comparison, sample = self.comparison, self.comparison.sample
        return {
            "model": self.model,
            "source": self.source,
            "seed": self.seed,
            "num_examples": len(sample.probes),
            "num_available": sample.num_available,
            "num_unreadable": sample.num_unreadable,
            "num_demonstrations_not_right": sum(not probe.passes for probe in sample.probes),
            "prompt_tokens": {name: asdict(lengths) for name, lengths in sample.lengths.items()},
            "student": _measured(comparison.student),
            "teachers": {name: _measured(measured) for name, measured in comparison.teachers.items()},
            "pools": {
                name: {"template": comparison.best} | _measured(measured) for name, measured in comparison.pools.items()
            },
            "wrong_demonstration": {"template": comparison.best} | _measured(comparison.wrong),
            "verdict": asdict(self.verdict)
            | {
                "usable": self.verdict.usable.name,
                "settings": settings(comparison, self.verdict, self.now),
                "sentences": sentences(comparison, self.verdict, self.now),
                "command": self.command,
            },
            "examples": [self._example(place) for place in range(len(sample.probes))],
        }

    def show(self, console: Console) -> None:
        """Prints the table and the verdict."""
        sample = self.comparison.sample
        _say(
            console,
            f"teacher check of {self.model} on {self.source}: {len(sample.probes)} of {sample.num_available} examples, "
            f"seed {self.seed}",
        )
        console.print(_table(self.comparison))
        _say(console, LEGEND)
        _say(console, f"\nverdict: {self.verdict.usable.name}")
        for sentence in sentences(self.comparison, self.verdict, self.now):
            _say(console, f"- {sentence}")
        changes = settings(self.comparison, self.verdict, self.now)
        _say(console, f"set: {' '.join(changes) if changes else 'nothing, the settings may stay'}")
        if self.command:
            _say(console, f"next: {self.command}")

    def _example(self, place: int) -> dict[str, Any]:
        comparison, probe = self.comparison, self.comparison.sample.probes[place]
        asked = {STUDENT: comparison.student} | comparison.teachers | {"wrong_demonstration": comparison.wrong}
        asked |= {f"pool_{name}": measured for name, measured in comparison.pools.items()}
        return {
            "example_id": probe.example_id,
            "answer": "" if probe.gold is None else probe.gold.answer,
            "demonstration": probe.demonstration,
            "wrong_demonstration_of": probe.wrong_id,
            "pool_demonstrations_of": {name: pool.ids for name, pool in probe.pools.items()},
            "answers": {name: asdict(measured.observations[place]) for name, measured in asked.items()},
        }


def _measured(measured: Measured) -> dict[str, Any]:
    return {
        "accuracy": asdict(measured.accuracy) if measured.right else None,
        "logprob_nats": asdict(measured.logprob),
        "copied_share": asdict(measured.copied),
        "divergence_nats": asdict(measured.divergence) if measured.divergence else None,
        "num_cut": measured.num_cut,
    }


def _table(comparison: Comparison) -> Table:
    scored = bool(comparison.student.right)
    columns = ["prompt", *(["right"] if scored else []), "logprob", "copied", "cut", "KL"]
    table = Table(*columns, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))  # six columns fit into 80 characters
    for column in table.columns[1:]:
        column.justify = "right"
        column.no_wrap = True
    rows = {STUDENT: comparison.student}
    rows |= {template_label(name): measured for name, measured in comparison.teachers.items()}
    rows |= {f"{template_label(comparison.best)}, {name}": measured for name, measured in comparison.pools.items()}
    rows |= {f"{template_label(comparison.best)}, wrong": comparison.wrong}
    for name, measured in rows.items():
        accuracy = [_share(measured.accuracy)] if scored else []
        divergence = "-" if measured.divergence is None else _number(measured.divergence)
        shares = f"{measured.copied.mean:.0%}", f"{measured.num_cut / len(measured.observations):.0%}"
        table.add_row(Text(name), *accuracy, _number(measured.logprob), *shares, divergence)
    return table


def _share(interval: Interval) -> str:
    return f"{interval.mean:.0%} ({100 * interval.low:.0f}-{100 * interval.high:.0f})"


def _number(interval: Interval) -> str:
    """Intervals of means are symmetric."""
    return f"{interval.mean:.2f} ± {interval.high - interval.mean:.2f}"


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, soft_wrap=True)
