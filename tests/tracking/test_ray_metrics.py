from sdft_ray.tracking.metrics import METRICS, WORKER_METRICS, find_metric
from sdft_ray.tracking.ray_metrics import gauge_name


def test_every_metric_has_a_gauge_name_of_its_own_that_prometheus_accepts() -> None:
    names = [gauge_name(metric) for metric in (*METRICS, *WORKER_METRICS)]
    assert len(set(names)) == len(METRICS) + len(WORKER_METRICS)
    assert all(name.isidentifier() for name in names)


def test_each_k_has_a_gauge_of_its_own() -> None:
    metric, _ = find_metric("evaluation/taught_pass_at_16")
    assert gauge_name(metric, k="16") == "sdft_evaluation_pass_at_16"
