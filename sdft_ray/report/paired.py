"""The section of paired comparisons, and the same as plain numbers."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from sdft_ray.report.axes import Form
from sdft_ray.report.pairs import Comparison, Paired
from sdft_ray.report.sections import Section, Study
from sdft_ray.report.tables import EMPTY, Cell, Table, number_cell, table, text_cell
from sdft_ray.statistics import Interval

ARROW = "\N{RIGHTWARDS ARROW}"
NUMBERS = ("difference in points, 95 % interval", "questions", "gained", "lost", "left out", "seeds", "p", "p, Holm")
LEAD = (
    "Accuracy on the same questions: of two arms after training, and of one arm before and after it. An interval is "
    "that of a paired bootstrap over questions: it tells how the difference would vary with other questions, not with "
    "other seeds, and there is none where all questions changed alike. Runs of the same seed are paired, and a "
    "question counts once, with its mean over the seeds; gained and lost are the questions whose mean rose and fell. "
    "Left out is a question that some run was not asked, or whose answer could not be scored. p is that of McNemar's "
    "exact test, which takes a single seed. Holm's correction holds for all tests of a table together; the intervals "
    "are each for itself."
)


def paired(study: Study) -> Section:
    """Differences on the same questions."""
    between, within = study.paired.arms, study.paired.training
    tables = []
    if between:
        tables.append(_table(f"After training, reference {ARROW} arm", between))
    if within:
        tables.append(_table(f"Before {ARROW} after training", within))
    return Section(
        name="paired",
        title="Paired comparison",
        lead=LEAD,
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


def _table(caption: str, compared: Sequence[Comparison]) -> Table:
    """One row a comparison; without references there is no column of them."""
    has_reference = compared[0].reference is not None
    columns = ("set", "reference", "arm") if has_reference else ("set", "arm")
    rows = []
    for one in compared:
        cells = [text_cell(one.set_name)]
        if one.reference:
            cells.append(text_cell(one.reference.label, one.reference.index))
        cells.append(text_cell(one.arm.label, one.arm.index))
        rows.append([*cells, *_numbers(one)])
    return table(caption, (*columns, "accuracy", *NUMBERS), rows, num_text_columns=len(columns))


def _numbers(one: Comparison) -> list[Cell]:
    counts = (
        one.change.num_values, one.num_gained, one.num_lost, one.num_unscored + one.num_unmatched, one.num_seeds
    )  # fmt: skip
    accuracy = f"{Form.SHARE.write(one.before)} {ARROW} {Form.SHARE.write(one.after)}"
    return [
        Cell(text=accuracy, order=one.after),
        Cell(text=in_points(one.change), order=one.change.mean),
        *(number_cell(count, Form.COUNT) for count in counts),
        *(EMPTY if math.isnan(p) else number_cell(p, Form.NUMBER) for p in (one.p, one.p_holm)),
    ]


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
