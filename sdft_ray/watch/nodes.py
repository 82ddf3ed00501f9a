"""mode=stacks on every node of a run: here by this process, on the others by tasks of Ray that are pinned there."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from sdft_ray.cluster.environment import run_mark
from sdft_ray.errors import ClusterError
from sdft_ray.watch.sources import ClusterSource, FolderSource
from sdft_ray.watch.stacks import RunProcesses, Stacks, stacks_here

TASK_TIMEOUT_S = 90.0  # a node starts a process for the task, which asks py-spy for one process after the other
LOOPBACK = ("127.", "localhost:", "[::1]")


def stacks_of(run: FolderSource | ClusterSource) -> tuple[list[Stacks], list[str]]:
    """The stacks of all processes of a run, and what could not be asked.

    Raises:
        ClusterError: the run has ended, no process may be traced, or its Ray cluster does not answer.
    """
    look = run.look()
    if not look.is_alive:
        raise ClusterError(f"name={run.name}: no process of it is there, it is {look.state.words}; see mode=top.")
    processes, status = processes_of(run), look.view.status
    address = os.environ.get("RAY_ADDRESS", "")
    if status is not None and isinstance(run, FolderSource):
        address = status.address
    if ":" not in address or address.startswith(LOOPBACK):  # a Ray of the run's own, or a cluster on one machine
        found, missing = in_order(stacks_here(processes)), list[str]()
    else:
        with joined(address):
            found, missing = stacks_on_nodes(processes)
    if not found and not missing:
        raise ClusterError(
            f"name={run.name}: no process of it is on the machines that were asked; its driver runs on "
            f"{processes.driver_host}: ask there, with RAY_ADDRESS as it was for the run."
        )
    if found and all(each.is_denied for each in found):
        raise ClusterError(f"name={run.name}: {found[0].problem}.")
    return found, missing


def processes_of(run: FolderSource | ClusterSource) -> RunProcesses:
    """By what the processes of a run are known."""
    holder = run.holder if isinstance(run, FolderSource) else None
    if holder is not None and isinstance(run, FolderSource):
        mark = run_mark(run.folder, holder.host)
        return RunProcesses(mark=mark, driver_host=holder.host, driver=holder.process_id)
    status = run.look().view.status
    assert status is not None  # what is known of a run through its cluster alone
    return RunProcesses(mark=status.mark, driver_host=status.host, driver=status.process_id)


@contextmanager
def joined(address: str) -> Iterator[None]:
    """Inside the block this process has joined the Ray cluster of a head node; as it is where it has joined one."""
    import ray

    from sdft_ray.cluster.session import prepare_to_join

    if ray.is_initialized():
        yield
        return
    prepare_to_join(address)
    ray.init(address, log_to_driver=False, logging_level="ERROR")
    try:
        yield
    finally:
        ray.shutdown()


def stacks_on_nodes(run: RunProcesses) -> tuple[list[Stacks], list[str]]:
    """The stacks on every node of the Ray cluster that this process has joined, and the nodes that do not answer."""
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from sdft_ray.cluster.session import alive_nodes

    ask, nodes = ray.remote(stacks_here), {}
    for node in alive_nodes():
        place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        answer = ask.options(num_cpus=0, max_retries=0, scheduling_strategy=place).remote(run)
        nodes[answer] = node["NodeManagerAddress"]
    answered, silent = ray.wait(list(nodes), num_returns=len(nodes), timeout=TASK_TIMEOUT_S)
    missing = [f"node {nodes[answer]} has not answered within {TASK_TIMEOUT_S:.0f} s" for answer in silent]
    found: dict[tuple[str, int], Stacks] = {}  # several nodes may be on one machine
    for answer in answered:
        try:
            found |= {(each.host, each.process_id): each for each in ray.get(answer, timeout=TASK_TIMEOUT_S)}
        except RayError as error:
            missing.append(f"node {nodes[answer]}: {type(error).__name__}: {str(error).splitlines()[0]}")
    return in_order(found.values()), missing


def in_order(stacks: Iterable[Stacks]) -> list[Stacks]:
    """The driver first, then workers by role and rank, the worker's own process before those it has started."""
    return sorted(stacks, key=lambda each: (each.rank >= 0, each.role, each.rank, each.host, each.process_id))
