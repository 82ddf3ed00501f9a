"""Every panel of the dashboard asks for a gauge that a run sets, and none is forgotten; alerts are about gauges too."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from sdft_ray.tracking.grafana import EXPORTED, dashboard, query, written
from sdft_ray.tracking.metrics import METRICS, WORKER_METRICS
from sdft_ray.tracking.ray_metrics import gauge_name

MONITORING = Path(__file__).parents[2] / "launch" / "monitoring"
FILE = MONITORING / "grafana.json"


def asked_for(expression: str, name: str) -> bool:
    """True when a query chooses the exported gauge of this name."""
    if by_pattern := re.match(r'\{__name__=~"([^"]+)"', expression):
        return re.fullmatch(by_pattern[1], name) is not None
    return expression.partition("{")[0] == name


def test_the_file_is_what_the_metrics_make_today() -> None:
    again = "run python -m sdft_ray.tracking.grafana > launch/monitoring/grafana.json"
    assert FILE.read_text() == written(dashboard()), again


def test_every_metric_has_one_panel_whose_query_chooses_its_gauge() -> None:
    expressions = [panel["targets"][0]["expr"] for panel in dashboard()["panels"] if panel["type"] != "row"]
    shown = [*METRICS, *WORKER_METRICS]
    assert expressions == [query(metric) for metric in shown]
    for metric in shown:
        gauge = EXPORTED + gauge_name(metric, k="8")
        assert asked_for(query(metric), gauge)
        others = [EXPORTED + gauge_name(other, k="8") for other in shown if other is not metric]
        assert not any(asked_for(query(metric), other) for other in others if other != gauge)


def test_no_panel_lies_on_another() -> None:
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in dashboard()["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24


def test_every_alert_is_about_gauges_that_there_are() -> None:
    text = (MONITORING / "alerts.yaml").read_text().replace("(lost|hung)", "lost")
    named = set(re.findall(r"ray_sdft_\w+", text))
    assert named and named <= {EXPORTED + gauge_name(metric) for metric in METRICS}


def test_every_alert_has_a_time_at_which_it_fires_and_one_at_which_it_does_not() -> None:
    rules = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"][0]["rules"]
    tests = yaml.safe_load((MONITORING / "alerts_test.yaml").read_text())["tests"]
    expected = [(case["alertname"], bool(case["exp_alerts"])) for test in tests for case in test["alert_rule_test"]]
    assert set(expected) == {(rule["alert"], fires) for rule in rules for fires in (True, False)}


def test_alerts_fire_when_they_should_and_not_before() -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed; Debian's prometheus has it")
    command = [program, "test", "rules", str(MONITORING / "alerts_test.yaml")]
    tested = subprocess.run(command, capture_output=True, text=True)
    assert tested.returncode == 0, tested.stdout + tested.stderr
