"""Metrics as Ray gauges, so that the Prometheus behind a Ray dashboard has them."""

from collections.abc import Iterable, Mapping

from ray.util.metrics import Gauge

from sdft_ray.records import SampleReport, WorkerStatus
from sdft_ray.tracking.metrics import SET, WORKER_METRICS, WORKER_ROLES, K, Metric, find_metric

DRIVER = "driver"  # the role of what no worker's role measures: times of the loop, faults, evaluations


class RayMetrics:
    """The sink that sets one gauge a metric, with labels.

    `run` and `role` are those of every metric, and `set` is the evaluation set, if any. What each worker holds has
    `rank` and `node` besides. Ray must be running in this process. A gauge comes to be with its first value.
    """

    def __init__(self, run_name: str):
        """Sets nothing yet."""
        self._run_name = run_name
        self._gauges: dict[str, Gauge] = {}

    def log_step(
        self, step: int, time_s: float, metrics: Mapping[str, float], samples: tuple[SampleReport, ...]
    ) -> None:
        """Sets the gauges of the step's metrics."""
        self._set(metrics)

    def log_evaluation(self, step: int, time_s: float, metrics: Mapping[str, float]) -> None:
        """Sets the gauges of the evaluation's metrics."""
        self._set(metrics)

    def set_workers(self, statuses: Iterable[WorkerStatus]) -> None:
        """Sets the gauges of these workers."""
        for status in statuses:
            labels = {"run": self._run_name, "role": status.role, "rank": str(status.rank), "node": status.node}
            for metric in WORKER_METRICS:
                value = float(getattr(status, metric.key.partition("/")[2]))
                self._gauge(gauge_name(metric), metric, labels).set(value, tags=labels)

    def close(self) -> None:
        """Nothing to end: gauges end with the process."""

    def _set(self, metrics: Mapping[str, float]) -> None:
        for key, value in metrics.items():
            metric, set_name = find_metric(key)
            role = key.partition("/")[0]
            labels = {"run": self._run_name, "role": role if role in WORKER_ROLES else DRIVER, "set": set_name}
            self._gauge(gauge_name(metric, k=key.rpartition("_")[2]), metric, labels).set(value, tags=labels)

    def _gauge(self, name: str, metric: Metric, labels: Mapping[str, str]) -> Gauge:
        if name not in self._gauges:
            description = f"{metric.meaning} [{metric.unit}]"
            self._gauges[name] = Gauge(name, description=description, tag_keys=tuple(labels))
        return self._gauges[name]


def gauge_name(metric: Metric, k: str = "k") -> str:
    """`sdft_<role>_<quantity>`; the evaluation set is a label, since Prometheus names hold fewer characters."""
    return "sdft_" + metric.key.replace(f"{SET}_", "").replace(K, k).replace("/", "_")
