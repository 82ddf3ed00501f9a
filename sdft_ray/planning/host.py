"""Host memory of a node with GPUs, where roles put what they hold there: offloaded optimizers, roles that sleep.

What ordinary processes take besides is not counted. P is the number of parameters.
"""

from sdft_ray.config import Saving
from sdft_ray.models.arithmetic import FP32_BYTES, weight_bytes
from sdft_ray.planning.learner_memory import optimizer_bytes
from sdft_ray.planning.memory import GIB, object_store_gib
from sdft_ray.planning.workload import Workload


def host_memory(work: Workload) -> dict[str, float]:
    """GiB on one node by what they hold; empty where no role puts anything there."""
    cfg, cluster = work.cfg, work.cfg.cluster
    if cluster.learner.device == "cpu" or not (cluster.turns or cfg.learner.offload or cfg.model.adapter.is_on):
        return {}
    copy = weight_bytes(work.shape, work.worker_element_bytes)
    held: dict[str, float] = {}
    if cfg.learner.offload:
        held |= optimizer_bytes(work) | _offloaded_gradients(work)
        ranks = cluster.learner.num_workers
        held = {name: size * min(ranks, cluster.gpus_per_node) for name, size in held.items()}
    if cluster.turns:
        held |= {f"{role} asleep": float(copy) for role in ("rollout", "teacher") if role in work.roles}
        held["learner asleep"] = float(work.learner_element_bytes * work.shape.num_parameters)
        if not cfg.learner.offload:
            held["learner asleep"] += sum(optimizer_bytes(work).values())
    if cfg.checkpoint_every and cfg.learner.saving is Saving.BACKGROUND:
        held["checkpoint that is being written"] = sum(optimizer_bytes(work).values())
    if cfg.model.adapter.is_on and "rollout" in work.roles:  # its worker merges there: all weights, the targets twice
        merging = copy + work.shape.matrix_elements * work.worker_element_bytes
        held["merged weights"] = float(merging * min(cluster.rollout.num_workers, cluster.gpus_per_node))
    if work.weights.student_channel.reach.one_node:
        held["publications"] = float(sum(map(work.num_published, work.weights.published)) * work.worker_element_bytes)
    in_gib = {name: size / GIB for name, size in held.items() if size}
    return in_gib | {"object store": object_store_gib(work)}


def moved_bytes(work: Workload) -> float:
    """Bytes that one step of roles in turns sends between GPU and host, there and back.

    A teacher wakes twice: to load, and to score.
    """
    if not work.cfg.cluster.turns or work.cfg.cluster.learner.device == "cpu":
        return 0.0
    copy = weight_bytes(work.shape, work.worker_element_bytes)
    wakes = {"rollout": 1, "teacher": 2}
    moved: float = sum(copy * number for role, number in wakes.items() if role in work.roles)
    moved += work.learner_element_bytes * work.shape.num_parameters
    if not work.cfg.learner.offload:
        moved += sum(optimizer_bytes(work).values())
    return 2.0 * moved


def _offloaded_gradients(work: Workload) -> dict[str, float]:
    """In fp32 for the optimizer; beside them DeepSpeed's copies in the learner's precision.

    Those are the new weights on their way to the GPU, and gradients between two microbatches.
    """
    trained, ranks = work.num_trained, work.cfg.cluster.learner.num_workers
    copies = 1 + (work.num_microbatches > 1)
    return {
        "gradients": FP32_BYTES * trained / ranks,
        "copies in the learner's precision": copies * work.learner_element_bytes * trained / ranks,
    }
