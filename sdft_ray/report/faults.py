"""What the runs have survived: the events of their faults.jsonl."""

from typing import Any

from sdft_ray.report.axes import Form
from sdft_ray.report.runs import Run, json_lines
from sdft_ray.report.sections import Section, Study
from sdft_ray.report.tables import Cell, number_cell, table, text_cell
from sdft_ray.tracking.faults import FAULTS_FILE

LEAD = "Workers that were lost or did not answer, what came in their place, and who joined or left; seconds it took."
COLUMNS = ("run", "time", "event", "worker", "node", "what happened", "step", "count", "seconds")


def faults(study: Study) -> Section:
    """Every event of every run; empty where nothing was lost."""
    rows = [_row(run, event) for run in study.runs for event in _events(run)]
    made = table("Faults", COLUMNS, rows, num_text_columns=6, has_prose=True)
    return Section(name="faults", title="Faults survived", lead=LEAD, tables=(made,) if rows else ())


def _events(run: Run) -> list[dict[str, Any]]:
    return [event for _, _, event in json_lines(run.folder / FAULTS_FILE)]


def _row(run: Run, event: dict[str, Any]) -> list[Cell]:
    rank = event["rank"]
    worker = event["role"] if rank < 0 else f"{event['role']} {rank}"
    words = (run.name, event["time"], event["kind"], worker, event["node"], event["text"])
    numbers = ((event["step"], Form.COUNT), (event["count"], Form.COUNT), (event["seconds"] or None, Form.NUMBER))
    return [*map(text_cell, words), *(number_cell(value, form) for value, form in numbers)]
