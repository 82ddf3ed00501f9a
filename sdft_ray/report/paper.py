"""The paper's tables, read from `paper.yaml`, to stand beside the figures of one's own runs."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from sdft_ray.errors import ConfigError
from sdft_ray.report.arms import Arm

NEW, PRIOR = "new task", "prior capabilities"  # columns that report.task and report.prior fill; others name a set


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperRow:
    """One row of a table: what the paper calls it, which settings make it, what it came to."""

    label: str
    settings: dict[str, list[str]]  # full key -> values, of which an arm has one; {} is the model before training
    figures: dict[str, float]  # column -> share
    sets: dict[str, str]  # column -> the evaluation set that it is read from before training; {} takes the column's own


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperTable:
    """One table or figure."""

    title: str
    source: str
    rows: tuple[PaperRow, ...]
    columns: tuple[str, ...]
    note: str

    def row_of(self, arm: Arm) -> PaperRow | None:
        """The row that an arm repeats."""
        own = {key: str(value) for key, value in arm.runs[0].settings.items()}
        for row in self.rows:
            if row.settings and all(own.get(key) in values for key, values in row.settings.items()):
                return row
        return None


@cache
def paper_tables() -> dict[str, PaperTable]:
    """All tables by name."""
    written = yaml.safe_load(Path(__file__).with_name("paper.yaml").read_text(encoding="utf-8"))
    tables = {}
    for name, table in written["tables"].items():
        columns = tuple(table["columns"])
        rows = tuple(
            PaperRow(
                label=row["label"],
                settings=row["settings"],
                sets=row.get("sets", {}),
                figures={column: value / 100 for column, value in zip(columns, row["percent"], strict=True)},
            )
            for row in table["rows"]
        )
        note = table.get("note", "")
        tables[name] = PaperTable(title=table["title"], source=written["source"], rows=rows, columns=columns, note=note)
    return tables


def paper_table(name: str) -> PaperTable:
    """The table of a name.

    Raises:
        ConfigError: there is none of that name.
    """
    tables = paper_tables()
    if name not in tables:
        raise ConfigError("report.paper", name, "is no table of the paper", f"choose one of: {', '.join(tables)}")
    return tables[name]
