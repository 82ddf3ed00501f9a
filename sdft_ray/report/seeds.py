"""What the runs of several seeds came to, as a table on the terminal."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sdft_ray.config import ReportConfig
from sdft_ray.report.lines import compact
from sdft_ray.report.quantities import form, named
from sdft_ray.report.results import ResultRow, final_rows
from sdft_ray.report.runs import read_runs
from sdft_ray.report.writing import make_study
from sdft_ray.statistics import Interval


def print_results(folders: Sequence[Path], console: Console) -> None:
    """Prints every final metric before and after training: means over the runs of an arm.

    Runs that differ in seed and name are one arm. There are more of them where a run was kept that had been trained
    with other settings; each then has a table of its own.

    Raises:
        ConfigError, DataError: a folder is no run folder, or a file in it is broken.
    """
    study = make_study(read_runs([str(folder) for folder in folders]), ReportConfig())
    for arm, rows in groupby(final_rows(study), key=lambda row: row.arm):
        console.print(_table(list(rows), is_terminal=console.is_terminal))
        num_runs = next(len(one.final_runs) for one in study.arms if one.label == arm)
        seeds = "1 seed, which has no interval" if num_runs == 1 else f"{num_runs} seeds, with 95 % intervals"
        console.print(f"{arm}: means over {seeds} (Student's t)", markup=False, soft_wrap=True)
    command = f"mode=report 'runs=[{','.join(map(str, folders))}]'"
    console.print(f"compare     python -m sdft_ray.launch {command}", markup=False, soft_wrap=True)


def _table(rows: Sequence[ResultRow], *, is_terminal: bool) -> Table:
    table = Table("", "before", "after", box=box.SIMPLE_HEAD if is_terminal else None)
    for row in rows:
        after = Interval(mean=row.after, low=row.low, high=row.high, num_values=row.runs)
        before = "not measured" if row.before is None else form(row.key).write(row.before)
        table.add_row(Text(named(row.key)), before, compact(after, form(row.key)))
    return table
