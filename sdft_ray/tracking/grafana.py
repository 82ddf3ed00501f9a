"""A Grafana dashboard with a panel for every metric, made from their declarations.

`python -m sdft_ray.tracking.grafana` prints it; launch/monitoring/grafana.json keeps it.
"""

import json
import re
from collections.abc import Mapping
from itertools import groupby
from typing import Any

from sdft_ray.tracking.metrics import METRICS, SET, WORKER_METRICS, K, Metric

EXPORTED = "ray_"  # which Ray puts before the name of every gauge
COLUMNS, PANEL_WIDTH, PANEL_HEIGHT = 24, 8, 7  # of Grafana's grid
SOURCE = {"type": "prometheus", "uid": "${source}"}
UNITS = {"s": "s", "bytes": "bytes", "share": "percentunit", "GiB": "gbytes"}  # ours -> Grafana's; others as they are


def dashboard() -> dict[str, Any]:
    """The dashboard: a row for each role, a panel for each metric, a line for each run, evaluation set and worker."""
    panels: list[dict[str, Any]] = []
    height = 0
    for role, metrics in groupby((*METRICS, *WORKER_METRICS), key=lambda metric: metric.key.partition("/")[0]):
        panels.append({"type": "row", "title": role, "gridPos": {"x": 0, "y": height, "w": COLUMNS, "h": 1}})
        height += 1
        of_role = list(metrics)
        per_row = COLUMNS // PANEL_WIDTH
        for index, metric in enumerate(of_role):
            place = {"x": index % per_row * PANEL_WIDTH, "y": height + index // per_row * PANEL_HEIGHT}
            panels.append(_panel(metric) | {"gridPos": {**place, "w": PANEL_WIDTH, "h": PANEL_HEIGHT}})
        height += -(-len(of_role) // per_row) * PANEL_HEIGHT
    for number, panel in enumerate(panels, start=1):
        panel["id"] = number
    runs = f"label_values({EXPORTED}sdft_loop_step_s, run)"
    return {
        "title": "sdft_ray",
        "uid": "sdft-ray",
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [
                {"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"},
                {
                    "name": "run",
                    "type": "query",
                    "datasource": SOURCE,
                    "query": runs,
                    "refresh": 2,
                    "includeAll": True,
                    "multi": True,
                },
            ]
        },
        "panels": panels,
    }


def query(metric: Metric) -> str:
    """What a panel asks Prometheus for; k of pass@k is a part of the name, so all of them are asked for together."""
    name = EXPORTED + "sdft_" + metric.key.replace(f"{SET}_", "").replace("/", "_")
    if K not in metric.key:
        return f'{name}{{run=~"$run"}}'
    return f'{{__name__=~"{re.escape(name).replace(re.escape(K), "[0-9]+")}", run=~"$run"}}'


def _panel(metric: Metric) -> dict[str, Any]:
    legend = "{{run}} {{set}}" if SET in metric.key else "{{run}}"
    if metric in WORKER_METRICS:
        legend = "{{run}} {{role}} {{rank}} on {{node}}"
    return {
        "type": "timeseries",
        "title": metric.key.partition("/")[2].replace(f"{SET}_", ""),
        "description": f"{metric.meaning} [{metric.unit}]",
        "datasource": SOURCE,
        "fieldConfig": {"defaults": {"unit": UNITS.get(metric.unit, f"suffix: {metric.unit}")}, "overrides": []},
        "targets": [{"refId": "A", "datasource": SOURCE, "expr": query(metric), "legendFormat": legend}],
    }


def written(board: Mapping[str, Any]) -> str:
    """The dashboard as Grafana imports it."""
    return json.dumps(board, indent=1) + "\n"


if __name__ == "__main__":
    print(written(dashboard()), end="")
