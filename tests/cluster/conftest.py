"""One small Ray cluster for all tests in this folder. Logical CPUs cost nothing: threads are set by hand."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import ray
from filelock import FileLock

from sdft_ray.cluster.environment import DRIVER, actor_environment
from sdft_ray.cluster.session import prepare_to_join
from sdft_ray.config import RolePlacement
from tests.cluster.command import ROOT, SETTINGS, users_environment
from tests.cluster.in_process import run_in_process
from tests.tiny import make_tiny_model

# As in a run, with one thread for each role.
ENVIRONMENT = {
    "env_vars": {"HF_HUB_OFFLINE": "1"}
    | {
        name: value
        for role in ("rollout", "teacher", "learner")
        for name, value in actor_environment(role, RolePlacement()).items()
    }
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what computes on the shared cluster or joins a head; a module that starts its own Ray marks itself."""
    for item in items:
        if isinstance(item, pytest.Function) and {"cluster", "head"} & set(item.fixturenames):
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Ray's context of this process. Test processes that run side by side share the cluster of the first of them.

    Two clusters on one machine fight for the port of the agent that takes jobs.
    """
    os.environ.update(DRIVER)
    own = tmp_path_factory.getbasetemp()
    shared = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "cluster"
    shared.mkdir(exist_ok=True)
    address, me = shared / "address", shared / f"user-{os.getpid()}"
    with FileLock(shared / "lock"):
        starts = not address.exists()
        context = _start() if starts else _join(address.read_text())
        address.write_text(ray.get_runtime_context().gcs_address)
        me.touch()
    yield context
    me.unlink()
    while starts and list(shared.glob("user-*")):
        time.sleep(0.5)
    ray.shutdown()


def _join(address: str) -> Any:
    prepare_to_join(address)
    return ray.init(address, log_to_driver=False, runtime_env=ENVIRONMENT)


def _start() -> Any:
    return ray.init(
        address="local",  # never another Ray that runs on this machine
        num_cpus=64,
        num_gpus=8,  # pretended: for placing, not for computing
        include_dashboard=True,  # jobs are submitted to it
        dashboard_host="127.0.0.1",
        log_to_driver=False,
        object_store_memory=2**30,
        runtime_env=ENVIRONMENT,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_tiny_model(tmp_path_factory.mktemp("model"), context=1024)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def command(cluster: None, folder: str, runs: Path) -> Any:
    """Runs the command, or another program, in a process of its own on the tests' Ray cluster; answers as `launch`."""
    environment = users_environment(RAY_ADDRESS=ray.get_runtime_context().gcs_address)

    def run(name: str, *overrides: str, program: Sequence[str] = ("-m", "sdft_ray.launch")) -> tuple[Path, str]:
        command = [sys.executable, *program, *settings(folder, runs, name), *overrides]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400)
        output = done.stdout + done.stderr
        assert done.returncode == 0, output
        return runs / name, output

    return run


@pytest.fixture(scope="module")
def launch(cluster: None, folder: str, runs: Path) -> Any:
    """Runs the command in this process; answers its run folder and its output.

    Seconds of imports are spared, and of the command only its `RaySession` is.
    """

    def run(name: str, *overrides: str, fails: bool = False) -> tuple[Path, str]:
        code, output = run_in_process(*settings(folder, runs, name), *overrides)
        assert (code != 0) == fails, output
        return runs / name, output

    return run


def settings(folder: str, runs: Path, name: str) -> list[str]:
    return [*SETTINGS, f"model.path={folder}", f"runs_dir={runs}", f"name={name}"]
