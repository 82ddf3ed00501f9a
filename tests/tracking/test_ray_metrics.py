from sdft_ray.tracking.metrics import METRICS
from sdft_ray.tracking.ray_metrics import gauge_name


def test_every_metric_has_a_gauge_name_of_its_own_that_prometheus_accepts() -> None:
    names = [gauge_name(metric) for metric in METRICS]
    assert len(set(names)) == len(METRICS)
    assert all(name.isidentifier() for name in names)
