"""One small Ray cluster for all tests in this folder. Logical CPUs cost nothing: threads are set by hand."""

import pytest
import ray

WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
}


@pytest.fixture(scope="session")
def cluster():
    ray.init(
        num_cpus=8,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=512 * 2**20,
        runtime_env={"env_vars": WORKER_ENVIRONMENT},
    )
    yield
    ray.shutdown()
