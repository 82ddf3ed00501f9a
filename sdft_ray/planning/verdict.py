"""Which roles do not fit into their memory."""

from dataclasses import dataclass

from sdft_ray.planning.host import host_memory
from sdft_ray.planning.memory import kv_cache_gib_of_one_sequence, object_store_gib, role_memory
from sdft_ray.planning.workload import Workload


@dataclass(frozen=True, kw_only=True, slots=True)
class Misfit:
    """A role that needs more memory than there is."""

    role: str
    needed_gib: float
    limit_gib: float

    def __str__(self) -> str:
        return f"{self.role} needs {self.needed_gib:.1f} GiB where {self.limit_gib:.1f} GiB can be used"


def misfits(work: Workload) -> list[Misfit]:
    """Every role that does not fit. CPU roles share the memory of their node."""
    roles = role_memory(work)
    found = [
        Misfit(role=memory.role, needed_gib=memory.total_gib, limit_gib=memory.limit_gib)
        for memory in roles
        if memory.device == "cuda" and not memory.fits_in(memory.limit_gib)
    ]
    on_cpu = [memory for memory in roles if memory.device == "cpu"]
    there = work.cfg.cluster.hardware.memory_gib * work.cfg.cluster.num_nodes
    needed = sum(memory.total_gib * memory.num_workers for memory in on_cpu)
    if needed > there:
        names = " + ".join(memory.role for memory in on_cpu)
        found.append(Misfit(role=names, needed_gib=needed, limit_gib=there))
    if "rollout" in work.roles and not work.cfg.cluster.fills_device("rollout"):
        sequence, cache = kv_cache_gib_of_one_sequence(work), work.cfg.rollout.kv_cache_gib
        if sequence > cache:
            found.append(Misfit(role="one sequence of a rollout's KV cache", needed_gib=sequence, limit_gib=cache))
    host, limit = sum(host_memory(work).values()), work.cfg.cluster.hardware.host_memory_gib
    if 0 < limit < host:
        found.append(Misfit(role="a node's host memory", needed_gib=host, limit_gib=limit))
    # Ray moves what does not fit its store to the disk, which is slow.
    stored, store = object_store_gib(work), work.cfg.cluster.object_store_gib
    if stored > store:
        found.append(Misfit(role="the object store of a node", needed_gib=stored, limit_gib=store))
    return found
