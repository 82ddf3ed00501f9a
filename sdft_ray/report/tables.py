"""Tables as rows of cells that can be sorted, and written as CSV."""

from collections.abc import Sequence
from dataclasses import dataclass

from sdft_ray.report.axes import Form
from sdft_ray.report.lines import compact
from sdft_ray.statistics import Interval


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """What a table shows at one place."""

    text: str
    order: float | str | None = None  # what the column is sorted by; None, the last in both directions, for no value
    index: int | None = None  # of the arm whose look stands before the text


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows under named columns."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    num_text_columns: int = 1  # the first ones; numbers stand at the right of theirs
    has_prose: bool = False  # whether cells hold sentences, whose lines are broken


def text_cell(text: str, index: int | None = None) -> Cell:
    """A cell sorted by its text."""
    return Cell(text=text, order=text.casefold(), index=index)


def number_cell(value: float | None, form: Form) -> Cell:
    """A cell sorted by its number."""
    return EMPTY if value is None else Cell(text=form.write(value), order=value)


def interval_cell(value: Interval | None, form: Form) -> Cell:
    """A cell sorted by its mean."""
    return EMPTY if value is None else Cell(text=compact(value, form), order=value.mean)


EMPTY = Cell(text="\N{EN DASH}")


def table(
    caption: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    *,
    num_text_columns: int = 1,
    has_prose: bool = False,
) -> Table:
    """A table of equally long rows."""
    assert all(len(row) == len(columns) for row in rows)
    return Table(
        caption=caption,
        columns=tuple(columns),
        rows=tuple(map(tuple, rows)),
        num_text_columns=num_text_columns,
        has_prose=has_prose,
    )
