"""Ray metrics reach Prometheus, on the tests' Ray cluster."""

import time
import urllib.request

import pytest
import ray

from sdft_ray.tracking.ray_metrics import RayMetrics
from tests.fakes import make_status

RUN = "a run"


@pytest.fixture
def export_address(cluster: None) -> str:
    """Where Ray exports its metrics for Prometheus."""
    node = ray.nodes()[0]
    return f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"


def exported(address: str, name: str) -> str:
    deadline = time.monotonic() + 60
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < deadline:
        try:
            lines = opener.open(address, timeout=10).read().decode().splitlines()
        except OSError:  # the exporter is still starting
            lines = []
        for line in lines:
            if line.startswith(f"ray_{name}{{") and f'run="{RUN}"' in line:  # runs of other tests are there, too
                return line
        time.sleep(0.2)
    raise AssertionError(f"{name} did not appear at {address}")


def test_prometheus_finds_the_metrics_with_run_role_and_set_and_those_of_workers_with_rank_and_node(
    export_address: str,
) -> None:
    sink = RayMetrics(RUN)
    sink.log_step(1, 0.0, {"learner/loss": 0.25}, ())
    sink.log_evaluation(1, 0.0, {"evaluation/taught-facts_accuracy": 0.5})
    sink.set_workers([make_status("teacher", 3, node="10.0.0.7", weight_version=12, peak_memory_gib=1.5)])
    loss = exported(export_address, "sdft_learner_loss")
    assert loss.endswith(" 0.25") and 'role="learner"' in loss
    held = exported(export_address, "sdft_worker_weight_version")
    assert held.endswith(" 12.0")
    assert all(label in held for label in ('role="teacher"', 'rank="3"', 'node="10.0.0.7"'))
    accuracy = exported(export_address, "sdft_evaluation_accuracy")
    assert 'set="taught-facts"' in accuracy
    assert accuracy.endswith(" 0.5")
