"""How workers may be distributed over the GPUs of a cluster, as settings: who gets how many, and in which groups."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from sdft_ray.config import Payload, TeacherBackend, TeacherEma
from sdft_ray.planning.workload import Workload

PARTS = 8  # a cluster of more GPUs is divided in eighths
SHARE_STEPS = 20  # a GPU that roles share is divided in twentieths
TURNED_SHARE = 0.3  # of roles in turns; three of them make less than a whole GPU
GROUPS = (1, 2, 4, 8)  # GPUs of one engine

Settings = dict[str, Any]  # by dotted key


def layouts(work: Workload, num_nodes: int) -> Iterator[Settings]:
    """Every distribution of the GPUs of `num_nodes` nodes among the roles of a run.

    Each role has whole GPUs where there are enough for all. Otherwise the learner has one to itself if there are two,
    and the others share one.
    """
    if work.cfg.weights.channel.reach.one_node and num_nodes > 1:
        return
    num_gpus = num_nodes * work.cfg.cluster.gpus_per_node
    divided = _whole(work, num_gpus) if num_gpus >= len(work.roles) else _shared(work, num_gpus)
    idle = {
        f"cluster.{role}.{field}": value
        for role in ("rollout", "teacher", "learner")
        if role not in work.roles
        for field, value in (("num_workers", 1), ("gpus_per_worker", 0))
    }
    for settings in divided:
        yield {"cluster.num_nodes": num_nodes, "cluster.turns": False} | idle | settings


def _whole(work: Workload, num_gpus: int) -> Iterator[Settings]:
    parts = min(PARTS, num_gpus)
    others = [role for role in work.roles if role != "learner"]
    for counts in itertools.product(range(1, parts), repeat=len(others)):
        gpus = [count * num_gpus // parts for count in counts]
        ranks = min(num_gpus - sum(gpus), work.cfg.batch_size)
        if ranks < 1:
            continue
        groups = [_groups(work, role, count) for role, count in zip(others, gpus, strict=True)]
        for chosen in itertools.product(*groups):
            settings = _placed("learner", ranks, 1)
            for of_role in chosen:
                settings |= of_role
            yield settings


def _groups(work: Workload, role: str, num_gpus: int) -> Sequence[Settings]:
    """The same GPUs as many engines on one each, or as few on several; none with more engines than samples."""
    spread: Settings = {}
    if role == "teacher":  # transformers computes on one GPU, and an engine cannot average the student itself
        spread = {
            "teacher.payload": Payload.HIDDEN,
            "teacher.backend": TeacherBackend.VLLM,
            "weights.teacher_ema": TeacherEma.LEARNER,
        }
    # Rehearsal beside a moving average takes two sets of weights, of which an engine holds one.
    sizes = GROUPS[:1] if role == "teacher" and work.weights.teachers_keep_initial else GROUPS
    return [
        (spread if size > 1 else {}) | _placed(role, num_gpus // size, size)
        for size in sizes
        if num_gpus % size == 0
        and work.cfg.cluster.gpus_per_node % size == 0
        and work.shape.num_heads % size == 0
        and num_gpus // size <= work.cfg.batch_size
    ]


def _shared(work: Workload, num_gpus: int) -> Iterator[Settings]:
    """One worker a role, on shares of a GPU that together make a whole one; or all in turns, where there is but one."""
    if num_gpus == 1:
        yield one_gpu_in_turns()
    sharing = [role for role in work.roles if num_gpus == 1 or role != "learner"]
    alone = _placed("learner", 1, 1) if num_gpus > 1 else {}
    for steps in itertools.product(range(1, SHARE_STEPS), repeat=len(sharing) - 1):
        rest = SHARE_STEPS - sum(steps)
        if rest > 0:
            settings = dict(alone)
            for role, count in zip(sharing, (*steps, rest), strict=True):
                settings |= _placed(role, 1, count / SHARE_STEPS if count < SHARE_STEPS else 1)
            yield settings


def one_gpu_in_turns() -> Settings:
    """All roles in turns on one GPU; Ray is told of a part of it for each, and each may fill it."""
    settings: Settings = {"cluster.turns": True, "max_staleness": 0}
    for role in ("rollout", "teacher", "learner"):
        settings |= _placed(role, 1, TURNED_SHARE)
    return settings


def _placed(role: str, num_workers: int, gpus_per_worker: float) -> Settings:
    return {f"cluster.{role}.num_workers": num_workers, f"cluster.{role}.gpus_per_worker": gpus_per_worker}
