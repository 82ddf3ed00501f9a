"""The Ray cluster of a run: joined at RAY_ADDRESS, else started on this machine and ended with the run."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import psutil
import ray
from ray._private import ray_constants, services, worker
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray._private.grpc_utils import init_grpc_channel
from ray._private.ray_constants import GLOBAL_GRPC_OPTIONS
from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc
from ray.exceptions import AuthenticationError

from sdft_ray.cluster.environment import DRIVER, OWN_RAY
from sdft_ray.cluster.local_security import exposure_of_cluster, keep_token_private, on_loopback, own_temp_dir
from sdft_ray.cluster.old_sessions import remove_old_sessions
from sdft_ray.config import ClusterConfig, RunConfig
from sdft_ray.errors import ClusterError, RayLostError

GIB = 2**30
ROLES = ("rollout", "teacher", "learner")
NOBODY = "start one with 'ray start --head', or unset RAY_ADDRESS to run on a Ray of this command's own"
ANSWER_TIMEOUT_S = 20.0  # of a head node; ray.init alone waits for 300 s
POLL_S = 1.0  # between two looks at its processes
NEEDED = (ray_constants.PROCESS_TYPE_GCS_SERVER, ray_constants.PROCESS_TYPE_RAYLET)
AUTO, LOCAL = "auto", "local"  # what RAY_ADDRESS may be besides HOST:PORT: a Ray that Ray finds, and one's own


class RaySession:
    """Connects to Ray; a context manager that leaves nothing of a local cluster behind."""

    def __init__(
        self, cluster: ClusterConfig, roles: Collection[str] = ROLES, metadata: Mapping[str, str] | None = None
    ):
        """Connects to nothing yet.

        Args:
            cluster: the machines that are asked for.
            roles: those that will be started; the workers of others are not asked for.
            metadata: of the job, by which Ray's dashboard and `ray list jobs` tell it from others.
        """
        self._cluster = cluster
        self._roles = roles
        self._metadata = dict(metadata or {})
        self.dashboard = ""  # its address, "" where this Ray has none
        self.warning = ""  # what a user should know of this Ray
        self.has_workers = True  # which answer a while longer where its head alone is gone

    def __enter__(self) -> "RaySession":
        if ray.is_initialized():  # joining it would end it with the run
            raise ClusterError(
                "This process is connected to a Ray cluster already; call ray.shutdown() before the run."
            )
        os.environ.update(DRIVER)
        logging.getLogger("ray").setLevel(logging.ERROR)  # it would tell on the terminal how to do without a token
        if (address := os.environ.get("RAY_ADDRESS", "")) not in ("", LOCAL):
            context = self._join(address)
            self.warning = exposure_of_cluster()
        else:
            for name, value in OWN_RAY.items():
                os.environ.setdefault(name, value)
            context = self._start()
        self.dashboard = f"http://{context.dashboard_url}" if context.dashboard_url else ""
        try:
            check_resources(self._cluster, self._roles)
        except ClusterError:
            ray.shutdown()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        ray.shutdown()

    async def watch(self) -> None:
        """Looks until it is cancelled whether the processes of a Ray of one's own are there.

        Without its raylet every worker is lost, and what is started waits for ever. Without its head this process
        would be ended by Ray a minute later.

        Raises:
            RayLostError: one is not; names it.
        """
        while True:
            if dead := dead_processes():
                self.has_workers = ray_constants.PROCESS_TYPE_RAYLET not in dead
                raise RayLostError(
                    f"Ray's {dead[0]} on this machine has died, for want of memory for instance: look into "
                    f"{worker._global_node.get_logs_dir_path()}, and start again; training goes on with resume=auto."
                )
            await asyncio.sleep(POLL_S)

    @asynccontextmanager
    async def watched(self) -> AsyncIterator["RaySession"]:
        """Connects, and inside the block watches as `watch` does: for what has nothing to save where its Ray dies.

        Raises:
            ExceptionGroup: of the block, or of a `RayLostError`.
        """
        with self:
            async with asyncio.TaskGroup() as tasks:
                watch = tasks.create_task(self.watch())
                yield self
                watch.cancel()

    def _join(self, address: str) -> ray.runtime_context.RuntimeContext:
        if address != AUTO:
            prepare_to_join(address)
        try:
            return ray.init(job_config=self._job_config(), log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, AuthenticationError) as error:
            raise ClusterError(f"RAY_ADDRESS={address}: {error}; {NOBODY}.") from error

    def _job_config(self) -> ray.job_config.JobConfig:
        return ray.job_config.JobConfig(metadata=self._metadata)

    def _start(self) -> ray.runtime_context.RuntimeContext:
        temp_dir = own_temp_dir()
        keep_token_private()
        self.warning = remove_old_sessions(temp_dir)
        with on_loopback() as address, in_groups_of_their_own():
            return self._init(address, temp_dir)

    def _init(self, address: str, temp_dir: Path) -> ray.runtime_context.RuntimeContext:
        return ray.init(
            address="local",
            job_config=self._job_config(),
            _node_ip_address=address,
            _temp_dir=str(temp_dir),
            # Logical CPUs: roles that take turns may reserve more than the machine has. Threads are set by role.
            num_cpus=max(self._cluster.num_cpus, os.cpu_count() or 1),
            # Ray refuses to start with more than the machine has, before anybody can say what else is missing.
            object_store_memory=int(min(self._cluster.object_store_gib * GIB, 0.3 * psutil.virtual_memory().total)),
            include_dashboard=self._cluster.dashboard,
            dashboard_host="127.0.0.1",
            log_to_driver=False,
            logging_level="ERROR",
        )


def dead_processes() -> list[str]:
    """Those of a Ray that this process has started for itself which have died, and without which nothing goes on."""
    node = worker._global_node
    return [kind for kind, _ in node.dead_processes() if kind in NEEDED] if node else []


@contextmanager
def in_groups_of_their_own() -> Iterator[None]:
    """Has each process of a Ray that is started inside the block lead a process group.

    A signal to the group of the command, as `timeout` and schedulers send SIGTERM, then reaches the driver alone. It
    would end Ray first, under the hands of a driver that is about to save a checkpoint.
    """
    before = services.ConsolePopen
    services.ConsolePopen = partial(before, process_group=0)
    try:
        yield
    finally:
        services.ConsolePopen = before


def job_metadata(folder: Path, cfg: RunConfig, stages: Sequence[str] = ()) -> dict[str, str]:
    """What Ray keeps with the job of a run; `stages` are their names."""
    return {
        "sdft_run": folder.name,
        "sdft_folder": str(folder),
        "sdft_mode": cfg.mode.name,
        "sdft_method": cfg.method.name,
        "sdft_model": cfg.model.path,
        "sdft_stages": ", ".join(filter(None, stages)),
    }


def prepare_to_join(address: str) -> None:
    """Asks the head node whether it is there and wants a token, and has this process send the token it finds.

    Ray sends one to a given address only where RAY_AUTH_MODE=token is set. 'ray start --head' wants one as soon as its
    user has a token, which any Ray that a script starts leaves behind.

    Raises:
        ClusterError: nobody answers, or the token is missing or another; with what to set.
    """
    logging.getLogger("ray").setLevel(logging.ERROR)  # it would tell on the terminal how to do without a token
    if "://" in address:
        raise ClusterError(f"RAY_ADDRESS={address}: is no address of a head node; write HOST:PORT, such as HEAD:6379.")
    answer = _ask(address)
    if answer is grpc.StatusCode.UNAUTHENTICATED and maybe_enable_token_auth_if_token_available(warn_if_disabled=False):
        answer = _ask(address)
    if answer is grpc.StatusCode.UNAUTHENTICATED:
        raise ClusterError(
            f"RAY_ADDRESS={address}: this Ray cluster wants another token than this process has, or one at all; set "
            "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to what 'ray get-auth-token' prints on its head node."
        )
    if answer is not grpc.StatusCode.OK:
        raise ClusterError(
            f"RAY_ADDRESS={address}: no Ray cluster answers there within {ANSWER_TIMEOUT_S:.0f} s "
            f"({answer.name}); {NOBODY}."
        )


def _ask(address: str) -> grpc.StatusCode:
    """How the head node answers the simplest of its calls."""
    try:
        # Past any web proxy of the environment, as Ray itself.
        with init_grpc_channel(address, GLOBAL_GRPC_OPTIONS) as channel:
            head = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
            head.CheckAlive(gcs_service_pb2.CheckAliveRequest(), timeout=ANSWER_TIMEOUT_S, wait_for_ready=True)
    except AuthenticationError:  # told to send a token, and finds none
        return grpc.StatusCode.UNAUTHENTICATED
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


def check_resources(cluster: ClusterConfig, roles: Collection[str] = ROLES) -> None:
    """Refuses a cluster file whose `roles` need more than this Ray cluster has, before anything is started.

    Raises:
        ClusterError: names what is asked, what is there, and what else one can do.
    """
    there = ray.cluster_resources()
    placements = [placement for role, placement in cluster.placements().items() if role in roles]
    num_gpus = sum(placement.num_workers * placement.gpus_per_worker for placement in placements)
    num_cpus = sum(placement.num_workers * placement.cpus_per_worker for placement in placements)
    for resource, needed in (("GPU", num_gpus), ("CPU", num_cpus)):
        has = there.get(resource, 0)
        if has < needed:
            raise ClusterError(
                f"cluster={cluster.name} needs {needed:g} {resource}s, this Ray cluster has {has:g}; "
                "use +cluster=local, a smaller file of conf/cluster, or set RAY_ADDRESS to a cluster that has them."
            )


def alive_nodes() -> list[dict[str, Any]]:
    """What Ray says of every node that is alive, of the cluster that this process is connected to."""
    return [node for node in ray.nodes() if node["Alive"]]


def num_alive_nodes() -> int:
    """The nodes of the Ray cluster that this process is connected to; asked once in a start, since nodes may join."""
    return len(alive_nodes())
