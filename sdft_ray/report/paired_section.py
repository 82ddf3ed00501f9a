"""The section of paired comparisons, and the same as plain numbers."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from sdft_ray.report.axes import Form
from sdft_ray.report.paired_comparisons import Comparison, Paired
from sdft_ray.report.sections import Section, Study
from sdft_ray.report.tables import EMPTY, Cell, Table, number_cell, table, text_cell
from sdft_ray.statistics import Interval

ARROW = "\N{RIGHTWARDS ARROW}"
COLUMNS = ("set", "arm", "points, 95 % interval", "accuracy", "p", "p, Holm", "gained", "lost", "questions")
SEEDS, LEFT_OUT = "seeds", "left out"  # columns of a page where there are several, and where there are any
LEAD = (
    "Accuracy on the same questions, of two arms after training and of one arm before and after it. The interval is a "
    "paired bootstrap over questions: how the difference would vary with other questions, not with other seeds; where "
    "all questions changed alike there is none. Runs of the same seed are paired, and a question counts once, with its "
    "mean over the seeds: gained where that rose, lost where it fell. p is McNemar's exact test, for a single seed "
    "only. Holm's correction covers all comparisons between arms, and by itself all with before training; the "
    "intervals are not corrected."
)
LEAD_LEFT_OUT = " Left out are questions that not all runs were asked, or whose answers could not all be scored."


def paired(study: Study) -> Section:
    """Differences on the same questions: a table for each arm that others are compared with, and one for training."""
    between, within = study.paired.arms, study.paired.training
    told = (*between, *within)
    has_left_out = any(_num_left_out(one) for one in told)
    more = [SEEDS] * any(one.num_seeds > 1 for one in told) + [LEFT_OUT] * has_left_out
    tables = []
    for reference in dict.fromkeys(one.reference.label for one in between if one.reference):
        compared = [one for one in between if one.reference and one.reference.label == reference]
        tables.append(_table(f"After training, {reference} {ARROW} arm", compared, more))
    if within:
        tables.append(_table(f"Before {ARROW} after training", within, more))
    return Section(
        name="paired",
        title="Paired comparison",
        lead=LEAD + LEAD_LEFT_OUT if has_left_out else LEAD,
        tables=tuple(tables),
        notices=_notices(study.paired),
    )


class PairedRow(NamedTuple):
    """A comparison as plain numbers; shares are 0 to 1."""

    comparison: str  # "arms" after training, or "training": the same runs before and after
    set: str
    arm: str
    reference: str  # "" where it is the arm itself before training
    seeds: int
    questions: int
    reference_accuracy: float
    accuracy: float
    difference: float
    low: float  # of the 95 % interval; NaN where all questions changed alike
    high: float
    gained: int
    lost: int
    unscored: int
    unmatched: int
    p: float  # NaN with several seeds
    p_holm: float


def paired_rows(study: Study) -> list[PairedRow]:
    """Both tables as plain numbers."""
    named = [("arms", one) for one in study.paired.arms] + [("training", one) for one in study.paired.training]
    return [
        PairedRow(
            comparison=name,
            set=one.set_name,
            arm=one.arm.label,
            reference=one.reference.label if one.reference else "",
            seeds=one.num_seeds,
            questions=one.change.num_values,
            reference_accuracy=one.before,
            accuracy=one.after,
            difference=one.change.mean,
            low=one.change.low,
            high=one.change.high,
            gained=one.num_gained,
            lost=one.num_lost,
            unscored=one.num_unscored,
            unmatched=one.num_unmatched,
            p=one.p,
            p_holm=one.p_holm,
        )
        for name, one in named
    ]


def _table(caption: str, compared: Sequence[Comparison], more: Sequence[str]) -> Table:
    """One row a comparison; `more` are the columns behind those of every page."""
    rows = []
    for one in compared:
        accuracy = f"{Form.SHARE.write(one.before)} {ARROW} {Form.SHARE.write(one.after)}"
        counts = [one.num_gained, one.num_lost, one.change.num_values]
        counts += [{SEEDS: one.num_seeds, LEFT_OUT: _num_left_out(one)}[name] for name in more]
        rows.append(
            [
                text_cell(one.set_name),
                text_cell(one.arm.label, one.arm.index),
                Cell(text=in_points(one.change), order=one.change.mean),
                Cell(text=accuracy, order=one.after),
                *(EMPTY if math.isnan(p) else number_cell(p, Form.NUMBER) for p in (one.p, one.p_holm)),
                *(number_cell(count, Form.COUNT) for count in counts),
            ]
        )
    return table(caption, (*COLUMNS, *more), rows, num_text_columns=2)


def _num_left_out(one: Comparison) -> int:
    return one.num_unscored + one.num_unmatched


def in_points(change: Interval) -> str:
    """A difference of shares in percentage points with its bounds: +5.0 (-2.5 to +12.5)."""
    if math.isnan(change.low):
        return _points(change.mean)
    return f"{_points(change.mean)} ({_points(change.low)} to {_points(change.high)})"


def _points(share: float) -> str:
    written = f"{100 * share:+.1f}"
    return "0.0" if written in ("+0.0", "-0.0") else written.replace("-", "\N{MINUS SIGN}")


def _notices(found: Paired) -> tuple[str, ...]:
    """Which arms were asked the same set and are not compared."""
    sets: dict[str, list[str]] = {}
    for base, arm, name in found.without_pairs:
        sets.setdefault(f"{arm.label} and {base.label}", []).append(name)
    return tuple(
        f"{both} are not compared on {', '.join(names)}: they have no seed in common, or no scored question."
        for both, names in sets.items()
    )
