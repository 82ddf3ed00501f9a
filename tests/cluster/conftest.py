"""One small Ray cluster for all tests in this folder. Logical CPUs cost nothing: threads are set by hand."""

import os
from pathlib import Path

import pytest
import ray

from sdft_ray.cluster.environment import DRIVER, actor_environment
from sdft_ray.config import RolePlacement

# As in a run, with one thread for each role.
WORKER_ENVIRONMENT = {
    name: value
    for role in ("rollout", "teacher", "learner")
    for name, value in actor_environment(role, RolePlacement()).items()
} | {"HF_HUB_OFFLINE": "1"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="session")
def cluster():
    os.environ.update(DRIVER)
    context = ray.init(
        num_cpus=64,
        num_gpus=8,  # pretended: for placing, not for computing
        include_dashboard=True,  # jobs are submitted to it
        dashboard_host="127.0.0.1",
        log_to_driver=False,
        object_store_memory=512 * 2**20,
        runtime_env={"env_vars": WORKER_ENVIRONMENT},
    )
    yield context
    ray.shutdown()
