from pathlib import Path

from sdft_ray.tracking.glossary import HEALTHY, ROLES, page
from sdft_ray.tracking.metrics import METRICS, WORKER_METRICS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"


def test_every_metric_has_a_healthy_value_and_no_other_has() -> None:
    assert {metric.key for metric in (*METRICS, *WORKER_METRICS)} == set(HEALTHY), (
        "HEALTHY of sdft_ray/tracking/glossary.py"
    )
    assert {metric.key.partition("/")[0] for metric in (*METRICS, *WORKER_METRICS)} == set(ROLES)


def test_every_metric_stands_once_on_the_page_with_its_unit_and_meaning() -> None:
    for metric in (*METRICS, *WORKER_METRICS):
        meaning = metric.meaning.replace("|", "\\|")
        assert page().count(f"\n| `{metric.key}` | {metric.unit} | {meaning} | ") == 1


def test_the_page_of_the_metrics_is_todays() -> None:
    assert PAGE.read_text() == page(), "run: python -m sdft_ray.tracking.glossary > docs/metrics.md"
