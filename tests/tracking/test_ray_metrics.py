import time
import urllib.request
from collections.abc import Iterator

import pytest
import ray

from sdft_ray.tracking.metrics import METRICS
from sdft_ray.tracking.ray_metrics import RayMetrics, gauge_name


@pytest.fixture
def export_address() -> Iterator[str]:
    """Where a Ray of this test's own exports its metrics for Prometheus."""
    ray.init(
        address="local",
        num_cpus=1,
        include_dashboard=False,
        log_to_driver=False,
        _system_config={"metrics_report_interval_ms": 200},
    )
    node = ray.nodes()[0]
    yield f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    ray.shutdown()


def exported(address: str, name: str) -> str:
    deadline = time.monotonic() + 60
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < deadline:
        try:
            lines = opener.open(address, timeout=10).read().decode().splitlines()
        except OSError:  # the exporter is still starting
            lines = []
        for line in lines:
            if line.startswith(f"ray_{name}{{"):
                return line
        time.sleep(0.2)
    raise AssertionError(f"{name} did not appear at {address}")


@pytest.mark.cluster
def test_prometheus_finds_the_metrics_with_run_and_set(export_address: str) -> None:
    sink = RayMetrics("a run")
    sink.log_step(1, 0.0, {"learner/loss": 0.25}, ())
    sink.log_evaluation(1, 0.0, {"evaluation/taught-facts_accuracy": 0.5})
    loss = exported(export_address, "sdft_learner_loss")
    assert 'run="a run"' in loss
    assert loss.endswith(" 0.25")
    accuracy = exported(export_address, "sdft_evaluation_accuracy")
    assert 'set="taught-facts"' in accuracy
    assert accuracy.endswith(" 0.5")


def test_every_metric_has_a_gauge_name_of_its_own_that_prometheus_accepts() -> None:
    names = [gauge_name(metric) for metric in METRICS]
    assert len(set(names)) == len(METRICS)
    assert all(name.isidentifier() for name in names)
