"""The Ray cluster of a run: joined at RAY_ADDRESS, else started on this machine and ended with the run."""

import os

import psutil
import ray

from sdft_ray.cluster.environment import DRIVER
from sdft_ray.config import ClusterConfig
from sdft_ray.errors import ClusterError

GIB = 2**30


class RaySession:
    """Connects to Ray; a context manager that leaves nothing of a local cluster behind."""

    def __init__(self, cluster: ClusterConfig):
        self._cluster = cluster
        self.dashboard = ""  # its address, "" where this Ray has none

    def __enter__(self) -> "RaySession":
        os.environ.update(DRIVER)
        if "RAY_ADDRESS" in os.environ:
            context = self._join(os.environ["RAY_ADDRESS"])
        else:
            context = self._start()
        self.dashboard = f"http://{context.dashboard_url}" if context.dashboard_url else ""
        try:
            check_resources(self._cluster)
        except ClusterError:
            ray.shutdown()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        ray.shutdown()

    def _join(self, address: str) -> ray.runtime_context.RuntimeContext:
        try:
            return ray.init(log_to_driver=False, logging_level="ERROR")
        except ConnectionError as error:
            raise ClusterError(
                f"RAY_ADDRESS={address}: no Ray cluster answers there ({error}); start one with 'ray start --head', "
                "or unset RAY_ADDRESS to run on a Ray of this command's own."
            ) from error

    def _start(self) -> ray.runtime_context.RuntimeContext:
        return ray.init(
            address="local",
            # Logical CPUs: roles that take turns may reserve more than the machine has. Threads are set by role.
            num_cpus=max(self._cluster.num_cpus, os.cpu_count() or 1),
            # Ray refuses to start with more than the machine has, before anybody can say what else is missing.
            object_store_memory=int(min(self._cluster.object_store_gib * GIB, 0.3 * psutil.virtual_memory().total)),
            include_dashboard=self._cluster.dashboard,
            dashboard_host="127.0.0.1",
            log_to_driver=False,
            logging_level="ERROR",
        )


def check_resources(cluster: ClusterConfig) -> None:
    """Refuses a cluster file that asks for more than this Ray cluster has, before anything is started.

    Raises:
        ClusterError: names what is asked, what is there, and what else one can do.
    """
    there = ray.cluster_resources()
    for resource, needed in (("GPU", cluster.num_gpus), ("CPU", cluster.num_cpus)):
        has = there.get(resource, 0)
        if has < needed:
            raise ClusterError(
                f"cluster={cluster.name} needs {needed:g} {resource}s, this Ray cluster has {has:g}; "
                "use +cluster=local, a smaller file of conf/cluster, or set RAY_ADDRESS to a cluster that has them."
            )
