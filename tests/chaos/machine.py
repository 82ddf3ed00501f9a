"""The machine of a chaos run: a Ray cluster of several nodes on it, and what is left of it afterwards."""

import os
import socket
from pathlib import Path
from typing import Any

import psutil
from ray.cluster_utils import Cluster

from sdft_ray.cluster.environment import DRIVER
from tests.chaos.cable import HERE, Cable, NodeBehindCable

MARK = "SDFT_CHAOS_MARK"  # in the environment of everything that the run starts
SHARED_MEMORY = Path("/dev/shm")
NUM_NODES = 3
STORE_BYTES = 2**27


class Machine:
    """Three Ray nodes of one CPU each, so that roles spread; a node that is gone is replaced.

    The last is behind a cable of its own, where this user may make one.
    """

    def __init__(self, cable: Cable | None) -> None:
        os.environ.update(DRIVER)  # which workers have from their node
        self._shared_before = set(os.listdir(SHARED_MEMORY))
        node: dict[str, Any] = {"num_cpus": 1, "object_store_memory": STORE_BYTES}
        node |= {"node_ip_address": HERE} if cable else {}
        self._node = node | {"include_dashboard": False}
        with socket.create_server(("127.0.0.1", 0)) as free:  # Ray's own may be taken
            dashboard = {"include_dashboard": True, "dashboard_port": free.getsockname()[1]}
        self._cluster = Cluster(initialize_head=True, head_node_args=node | dashboard)
        self._far = self._behind_cable() if cable else None
        for _ in range(NUM_NODES - (2 if cable else 1)):
            self._cluster.add_node(**self._node)

    @property
    def address(self) -> str:
        """Of its head."""
        address: str = self._cluster.address
        return address

    @property
    def head_raylet(self) -> int:
        """Its process."""
        return _raylet(self._cluster.head_node)

    def mend(self) -> None:
        """Brings a node in the place of each that is gone, as a scheduler would."""
        if self._far and not self._far.is_alive:
            self._far.close()
            self._far = self._behind_cable()
        for node in list(self._cluster.worker_nodes):
            if not _is_alive(_raylet(node)):
                self._cluster.remove_node(node, allow_graceful=False)
                self._cluster.add_node(**self._node)

    def close(self) -> None:
        """Ends all nodes."""
        if self._far:
            self._far.close()
        self._cluster.shutdown()

    def _behind_cable(self) -> NodeBehindCable:
        return NodeBehindCable(self._cluster.address, num_cpus=1, object_store_memory=STORE_BYTES)

    def shared_memory_left(self) -> list[str]:
        """New files there that no process maps or has open."""
        used = set()
        for process in psutil.process_iter():
            try:
                used |= {Path(place.path).name for place in process.memory_maps()}
                used |= {Path(file.path).name for file in process.open_files()}
            except (psutil.Error, OSError):
                continue
        return sorted(set(os.listdir(SHARED_MEMORY)) - self._shared_before - used)


def marked_processes(mark: str) -> list[psutil.Process]:
    """What the run has started and is alive, this process not counted."""
    found = []
    for process in psutil.process_iter():
        try:
            is_ours = process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE
        except (psutil.Error, OSError):
            continue
        if is_ours and process.pid != os.getpid():
            found.append(process)
    return found


def _raylet(node: Any) -> int:
    pid: int = node.all_processes["raylet"][0].process.pid
    return pid


def _is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
