"""What the arms came to: the final table, trade-off, pass@k, bars, and the paper beside them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from sdft_ray.report.arms import Arm
from sdft_ray.report.axes import Form
from sdft_ray.report.bars import Bar, bar_chart
from sdft_ray.report.curves import Point, first, latest, over_runs
from sdft_ray.report.lines import Line, compact, line_chart
from sdft_ray.report.paper import NEW, PRIOR, PaperRow, PaperTable
from sdft_ray.report.pareto import Spot, pareto_chart
from sdft_ray.report.quantities import (
    PASS_AT_K,
    UNSCORED,
    accuracy_key,
    evaluation_sets,
    form,
    mean_at,
    named,
    retention_keys,
    set_name,
    title,
    unscored_key,
)
from sdft_ray.report.runs import Run
from sdft_ray.report.sections import Figure, Section, Study, file_name, numbered
from sdft_ray.report.tables import EMPTY, Cell, Table, interval_cell, number_cell, table, text_cell
from sdft_ray.statistics import Interval, mean_interval


def results(study: Study) -> Section:
    """The final table."""
    found = final_table(study)
    notices = []
    for arm in study.arms:
        unfinished = [run.name for run in arm.runs if not run.is_finished]
        if unfinished and len(unfinished) < len(arm.runs):
            notices.append(f"{arm.label}: {', '.join(unfinished)} has not finished; its results leave it out.")
        elif unfinished:
            notices.append(f"{arm.label}: no run has finished; its results are those so far ({', '.join(unfinished)}).")
        notices += _unscored(arm, study.keys)
    lead = "Means over the runs of an arm, with 95 % intervals between runs (Student's t); one run has none."
    return Section(
        name="results",
        title="Results",
        lead=lead,
        tables=(found,) if found else (),
        notices=tuple(notices),
    )


def _unscored(arm: Arm, keys: Sequence[str]) -> list[str]:
    """What the last evaluation could not score, as where a judge model was out of reach."""
    notices = []
    for name in [match.group(1) for key in keys if (match := UNSCORED.fullmatch(key))]:
        counts = {run.name: int(latest(run, unscored_key(name)) or 0) for run in arm.final_runs}
        silent = [run.name for run in arm.final_runs if counts[run.name] and not _is_scored(run, name)]
        if total := sum(counts.values()):
            answers = "1 answer" if total == 1 else f"{total} answers"
            notice = f"{arm.label}: {answers} of {name} could not be scored; its accuracy leaves them out."
            if silent:
                notice += f" In {', '.join(silent)} not one could: that accuracy is an earlier one, if there is any."
            notices.append(notice)
    return notices


def _is_scored(run: Run, name: str) -> bool:
    """Whether the set has an accuracy after the step at which its unscored answers were last counted."""
    return max(run.values(unscored_key(name))) in run.values(accuracy_key(name))


class ResultRow(NamedTuple):
    """What an arm came to in one capability."""

    arm: str
    runs: int
    key: str
    before: float | None  # mean before training
    after: float
    low: float  # of the 95 % interval of `after`; NaN for a single run
    high: float


def final_rows(study: Study) -> list[ResultRow]:
    """The final table as plain numbers."""
    rows = []
    for arm in study.arms:
        for key in _final_keys(study):
            before = _interval(arm.final_runs, key, is_final=False)
            after = _interval(arm.final_runs, key, is_final=True)
            if after is not None:
                mean = before.mean if before else None
                rows.append(ResultRow(arm.label, after.num_values, key, mean, after.mean, after.low, after.high))
    return rows


def final_table(study: Study) -> Table | None:
    """Every measured capability before and after training; None where no run was evaluated."""
    keys = _final_keys(study)
    if not keys:
        return None
    rows = []
    for arm in study.arms:
        cells = [text_cell(arm.label, arm.index), number_cell(len(arm.final_runs), Form.COUNT)]
        for key in keys:
            before = _interval(arm.final_runs, key, is_final=False)
            after = _interval(arm.final_runs, key, is_final=True)
            cells.append(_change(before, after, form(key)))
        rows.append(cells)
    return table("Before \N{RIGHTWARDS ARROW} after training", ("arm", "runs", *map(named, keys)), rows)


def _change(before: Interval | None, after: Interval | None, form: Form) -> Cell:
    """Sorted by what came of it."""
    if after is None:
        return EMPTY
    begin = f"{form.write(before.mean)} \N{RIGHTWARDS ARROW} " if before else ""
    return Cell(text=begin + compact(after, form), order=after.mean)


def _final_keys(study: Study) -> list[str]:
    accuracies = [accuracy_key(name) for name in evaluation_sets(study.keys)]
    return [*accuracies, *(key for key in retention_keys(study.keys, study.tasks) if key not in accuracies)]


def trade_off(study: Study) -> Section:
    """New-task accuracy against prior capability."""
    spots, befores = [], []
    for arm in study.arms:
        pairs = [pair for run in arm.final_runs if (pair := _pair(study, run)) is not None]
        befores += [pair for run in arm.runs if (pair := _pair_at(study, run, 0)) is not None]
        if pairs:
            spots.append(_spot(arm.label, arm.index, pairs))
    figures: tuple[Figure, ...] = ()
    if spots:
        if befores:
            spots.append(_spot("before", -1, befores))
        new, prior = (" + ".join(map(set_name, keys)) for keys in (study.tasks.new, study.tasks.prior))
        drawing = pareto_chart(
            "New task against prior capability",
            spots,
            new_name=f"accuracy, {new}",
            prior_name=f"accuracy, {prior}",
        )
        rows = [
            [
                text_cell(spot.label),
                number_cell(spot.new.num_values, Form.COUNT),
                interval_cell(spot.new, Form.SHARE),
                interval_cell(spot.prior, Form.SHARE),
            ]
            for spot in spots
        ]
        numbers = table("New task against prior capability", ("arm", "runs", new, prior), rows)
        figures = (Figure(name="trade-off", drawing=drawing, numbers=numbers),)
    lead = (
        "Up and to the right is better. Bars are 95 % intervals, small dots single runs, the hollow mark is the model "
    )
    lead += "before training; the thin line joins the arms that no other arm beats on both."
    return Section(name="trade-off", title="New task against prior capability", lead=lead, figures=figures)


def pass_at_k(study: Study) -> Section:
    """The chance that one of k completions is right."""
    ks: dict[str, set[int]] = {}
    for key in study.keys:
        if match := PASS_AT_K.fullmatch(key):
            ks.setdefault(match.group(1), set()).add(int(match.group(2)))
    figures = []
    for name, found in ks.items():
        lines = []
        for arm in study.arms:
            points = [
                Point(x=k, y=value)
                for k in sorted(found)
                if (value := _interval(arm.final_runs, f"evaluation/{name}_pass_at_{k}", is_final=True)) is not None
            ]
            if points:
                lines.append(Line(label=arm.label, index=arm.index, points=tuple(points)))
        if lines:
            drawing = line_chart(f"pass@k, {name}", lines, form=Form.SHARE, x_name="k completions", x_at=sorted(found))
            figures.append(Figure(name=file_name("pass-at-k", name), drawing=drawing))
    lead = "The share of questions of which at least one of k sampled completions is right, after training."
    return Section(name="pass-at-k", title="pass@k", lead=lead, figures=numbered(figures))


def comparison(study: Study) -> Section:
    """One bar an arm, for every evaluation set."""
    figures = []
    for name in evaluation_sets(study.keys) if len(study.arms) > 1 else ():
        key = accuracy_key(name)
        bars = [
            Bar(label=arm.label, index=arm.index, value=value, before=before.mean if before else None)
            for arm in study.arms
            if (value := _interval(arm.final_runs, key, is_final=True)) is not None
            for before in [_interval(arm.final_runs, key, is_final=False)]
        ]
        if bars:
            drawing = bar_chart(title(key), bars, form=Form.SHARE)
            figures.append(Figure(name=file_name("arms", name), drawing=drawing))
    lead = "Accuracy after training; whiskers are 95 % intervals, and a tick marks the accuracy before training."
    return Section(name="arms", title="Arm by arm", lead=lead, figures=numbered(figures))


def paper(study: Study) -> Section:
    """The paper's figures beside those of the arms."""
    if study.paper is None:
        return Section(name="paper", title="", lead="")
    found = _paper_table(study, study.paper)
    source = study.paper.source
    lead = f"The paper's figures ({source}) are those of 7B models unless its title says otherwise. {study.paper.note}"
    return Section(name="paper", title=f"Beside the paper: {study.paper.title}", lead=lead.strip(), tables=(found,))


def _paper_table(study: Study, printed: PaperTable) -> Table:
    columns = [part for name in printed.columns for part in (f"{name}, paper", f"{name}, here")]
    # A run whose teacher is another model mends one that had been trained, so it did not begin with the base model.
    from_base = [run for run in study.runs if not run.settings.get("teacher.path")]
    rows: list[list[Cell]] = []
    for row in printed.rows:
        arms = [arm for arm in study.arms if printed.row_of(arm) is row]
        if not arms:  # the model before training is that of all other arms
            sets = [row.sets.get(name, name) for name in printed.columns]
            ours = [None if row.settings else _column_of(study, from_base, name, first) for name in sets]
            rows.append(_paper_cells(row, None, printed.columns, ours))
        rows += [_paper_cells(row, arm, printed.columns, _columns_of(study, arm, printed)) for arm in arms]
    strangers = [arm for arm in study.arms if printed.row_of(arm) is None]
    rows += [_paper_cells(None, arm, printed.columns, _columns_of(study, arm, printed)) for arm in strangers]
    return table(printed.title, ("paper", "arm", *columns), rows, num_text_columns=2)


def _paper_cells(
    row: PaperRow | None, arm: Arm | None, columns: Sequence[str], ours: Sequence[Interval | None]
) -> list[Cell]:
    """A row of the paper beside an arm; either may be missing."""
    cells = [text_cell(row.label) if row else EMPTY, text_cell(arm.label, arm.index) if arm else EMPTY]
    for name, value in zip(columns, ours, strict=True):
        cells.append(number_cell(row.figures.get(name) if row else None, Form.SHARE))
        cells.append(interval_cell(value, Form.SHARE))
    return cells


def _columns_of(study: Study, arm: Arm, printed: PaperTable) -> list[Interval | None]:
    return [_column_of(study, arm.final_runs, name, latest) for name in printed.columns]


def _column_of(
    study: Study, runs: Sequence[Run], name: str, read: Callable[[Run, str], float | None]
) -> Interval | None:
    """What stands under a column of the paper: a task of this study, or the set of that name."""
    # The evaluator calls the milder of a set's two scores SET_lenient; the paper has one set, and its strict score.
    lenient = tuple(accuracy_key(f"{set_name(key)}_lenient") for key in study.tasks.new)
    columns = {NEW: study.tasks.new, PRIOR: study.tasks.prior, "strict": study.tasks.new, "lenient": lenient}
    own = accuracy_key(name)
    keys = (own,) if own in study.keys else columns.get(name, (own,))

    def mean(run: Run) -> float | None:
        values = [read(run, key) for key in keys]
        found = [value for value in values if value is not None]
        return sum(found) / len(found) if found and len(found) == len(values) else None

    return over_runs(runs, mean)


def _interval(runs: Sequence[Run], key: str, *, is_final: bool) -> Interval | None:
    read = latest if is_final else first
    return over_runs(runs, lambda run: read(run, key))


def _pair(study: Study, run: Run) -> tuple[float, float] | None:
    step = study.tasks.last_step(run)
    return None if step is None else _pair_at(study, run, step)


def _pair_at(study: Study, run: Run, step: int) -> tuple[float, float] | None:
    new, prior = mean_at(run, study.tasks.new, step), mean_at(run, study.tasks.prior, step)
    return None if new is None or prior is None else (new, prior)


def _spot(label: str, index: int, pairs: Sequence[tuple[float, float]]) -> Spot:
    new, prior = zip(*pairs, strict=True)
    return Spot(label=label, index=index, new=mean_interval(new), prior=mean_interval(prior), runs=tuple(pairs))
