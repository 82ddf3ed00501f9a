"""Host memory of a node with GPUs, where roles put what they hold there: offloaded optimizers, roles that sleep.

What ordinary processes take besides is not counted. Memory that GPUs copy to and from is pinned, and torch 2.13 rounds
every pinned tensor up to a power of two and keeps it: `ATen/core/CachingHostAllocator.h`. Of weights that leave the GPU
one by one that is up to twice what they are.
"""

import math

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
        held |= _offloaded(work)
        ranks = cluster.learner.num_workers
        held = {name: size * min(ranks, cluster.gpus_per_node) for name, size in held.items()}
    if cluster.turns:
        engine_or_teacher = _pinned_apart(work, work.worker_element_bytes)
        held |= {f"{role} asleep": engine_or_teacher for role in ("rollout", "teacher") if role in work.roles}
        held["learner asleep"] = _learner_asleep(work)
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


def pinned_bytes(num_bytes: float) -> float:
    """What one pinned tensor takes: the next power of two."""
    return float(1 << (math.ceil(num_bytes) - 1).bit_length()) if num_bytes > 0 else 0.0


def _pinned_apart(work: Workload, element_bytes: int) -> float:
    """A pinned copy of all weights, each a tensor of its own; engines join some, which comes to the same."""
    return sum(pinned_bytes(size * element_bytes) for size in work.shape.parameter_sizes)


def _learner_asleep(work: Workload) -> float:
    """What DeepSpeed's `offload_states` pins, and the moving average: of all weights, since an adapter's stays."""
    width, trained = work.learner_element_bytes, pinned_bytes(work.learner_element_bytes * work.num_trained)
    has_adapter = work.cfg.model.adapter.is_on
    asleep = trained + (_pinned_apart(work, width) if has_adapter else 0.0)  # what is trained is one flat tensor
    if work.cfg.learner.offload:
        return asleep
    optimizer = optimizer_bytes(work)
    asleep += pinned_bytes(optimizer["fp32 masters"]) + 2 * pinned_bytes(optimizer["AdamW moments"] / 2)
    return asleep + (_pinned_apart(work, FP32_BYTES) if optimizer["EMA"] and not has_adapter else 0.0)


def _offloaded(work: Workload) -> dict[str, float]:
    """Of one rank: what its optimizer works with, gradients in fp32 among it, and DeepSpeed's copies in its precision.

    These are the new weights on their way to the GPU, and gradients between two microbatches. The optimizer makes its
    moments itself, and pins none.
    """
    optimizer, width, ranks = optimizer_bytes(work), work.learner_element_bytes, work.cfg.cluster.learner.num_workers
    trained = work.num_trained / ranks
    copies = pinned_bytes(width * trained)
    if work.num_microbatches > 1:  # one tensor a parameter, here
        copies += width * trained if work.cfg.model.adapter.is_on else _pinned_apart(work, width) / ranks
    return optimizer | {
        "fp32 masters": pinned_bytes(optimizer["fp32 masters"]),
        "gradients": pinned_bytes(FP32_BYTES * trained),
        "copies in the learner's precision": copies,
    }
