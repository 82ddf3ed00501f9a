"""What fits, and which settings to change where something does not: found by trying them, one after the other."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from sdft_ray.config import Payload, Precision, Target, TeacherBackend, TeacherEma
from sdft_ray.planning.memory import RoleMemory, object_store_gib, role_memory
from sdft_ray.planning.workload import Workload

SMALLEST_FORWARD = 1024  # tokens; below, matrix products no longer fill a GPU


@dataclass(frozen=True, kw_only=True, slots=True)
class Misfit:
    """A role that needs more memory than there is."""

    role: str
    needed_gib: float
    limit_gib: float
    remedy: tuple[str, ...]  # settings that together make it fit; empty if none were found

    def __str__(self) -> str:
        size = f"{self.role} needs {self.needed_gib:.1f} GiB where {self.limit_gib:.1f} GiB can be used; "
        if self.remedy:
            return size + "set " + " ".join(self.remedy)
        return size + "no setting makes it fit: take GPUs with more memory, or a smaller model"


def misfits(work: Workload) -> list[Misfit]:
    """Every role that does not fit, with what to do about it. CPU roles share the memory of their node."""
    roles = role_memory(work)
    found = [
        Misfit(
            role=memory.role,
            needed_gib=memory.total_gib,
            limit_gib=memory.limit_gib,
            remedy=_remedy(work, memory.role, None),
        )
        for memory in roles
        if memory.device == "cuda" and not memory.fits_in(memory.limit_gib)
    ]
    on_cpu = [memory for memory in roles if memory.device == "cpu"]
    there = work.cfg.cluster.hardware.memory_gib * work.cfg.cluster.num_nodes
    needed = sum(memory.total_gib * memory.num_workers for memory in on_cpu)
    if needed > there:
        largest = max(on_cpu, key=lambda memory: memory.total_gib * memory.num_workers)
        rest = there - needed + largest.total_gib * largest.num_workers
        names = " + ".join(memory.role for memory in on_cpu)
        remedy = _remedy(work, largest.role, rest / largest.num_workers)
        found.append(Misfit(role=names, needed_gib=needed, limit_gib=there, remedy=remedy))
    return found + _object_store(work)


def _object_store(work: Workload) -> list[Misfit]:
    """Ray moves what does not fit its store to the disk, which is slow."""
    needed, there = object_store_gib(work), work.cfg.cluster.object_store_gib
    if needed <= there:
        return []
    settings = (f"cluster.object_store_gib={math.ceil(needed)}",)
    return [Misfit(role="the object store of a node", needed_gib=needed, limit_gib=there, remedy=settings)]


def _remedy(work: Workload, role: str, limit_gib: float | None) -> tuple[str, ...]:
    """Settings that together bring a worker of `role` to `limit_gib` (None: its own), the least costly first.

    Returns:
        As the command line takes them; empty if all that is known does not suffice.
    """
    before = _memory_of(work, role)
    kept: dict[str, str] = {}
    for settings in _candidates(work, role):
        changes = {key: value for key, value in settings.items() if value_of(work.cfg, key) != value}
        cfg = work.cfg
        for key, value in changes.items():
            cfg = with_setting(cfg, key, value)
        changed = replace(work, cfg=cfg)
        after = _memory_of(changed, role)
        if after.total_gib - after.limit_gib >= before.total_gib - before.limit_gib:
            continue
        work, before = changed, after
        kept |= {key: f"{key}={_spelled(value)}" for key, value in changes.items()}
        if after.fits_in(after.limit_gib if limit_gib is None else limit_gib):
            return tuple(kept.values())
    return ()


def value_of(settings: Any, key: str) -> Any:
    """The value under a dotted key."""
    return reduce(getattr, key.split("."), settings)


def with_setting(settings: Any, key: str, value: Any) -> Any:
    """The settings with another value under a dotted key; their checks run again."""
    name, _, rest = key.partition(".")
    return replace(settings, **{name: with_setting(getattr(settings, name), rest, value) if rest else value})


def _candidates(work: Workload, role: str) -> Iterator[dict[str, Any]]:
    """Settings that go together and may save memory; those that cost least come first."""
    cfg, placement = work.cfg, work.cfg.cluster.placements()[role]
    if role == "learner":
        yield {"learner.gradient_checkpointing": True}
        if cfg.method.target is Target.TEACHER:
            yield {"teacher.payload": Payload.HIDDEN}
        stage = max(2, cfg.learner.zero_stage)
        yield {"learner.zero_stage": stage}
        yield {"learner.zero_stage": stage, "learner.precision": Precision.BFLOAT16}
        yield {"learner.zero_stage": 3}
        yield from _halved("learner.max_tokens_per_microbatch", cfg.learner.max_tokens_per_microbatch)
        num_ranks = cfg.cluster.learner.num_workers
        while num_ranks * 2 <= cfg.batch_size:
            num_ranks *= 2
            yield _placed(work, role, gpus_per_worker=math.ceil(placement.gpus_per_worker), num_workers=num_ranks)
        return
    # What averages the student itself has to receive it in fp32.
    yield {"weights.teacher_ema": TeacherEma.LEARNER, "model.dtype": Precision.BFLOAT16}
    if role == "teacher":
        yield from _halved("teacher.max_tokens_per_forward", cfg.teacher.max_tokens_per_forward)
    else:
        yield {"rollout.kv_cache_gib": cfg.rollout.kv_cache_gib / 2}
    spread = {"teacher.payload": Payload.HIDDEN, "teacher.backend": TeacherBackend.VLLM} if role == "teacher" else {}
    for size in (1, 2, 4, 8):
        if placement.device == "cuda" and placement.gpus_per_worker < size <= max(1, cfg.cluster.gpus_per_node):
            yield (spread if size > 1 else {}) | _placed(work, role, gpus_per_worker=size)


def _halved(key: str, tokens: int) -> Iterator[dict[str, int]]:
    while tokens // 2 >= SMALLEST_FORWARD:
        tokens //= 2
        yield {key: tokens}


def _placed(work: Workload, role: str, **changes: int) -> dict[str, int]:
    """Another placement of a role, after nodes enough to hold it."""
    cluster = work.cfg.cluster
    placements = cluster.placements() | {role: replace(cluster.placements()[role], **changes)}
    gpus = sum(placement.num_workers * placement.gpus_per_worker for placement in placements.values())
    num_nodes = max(cluster.num_nodes, math.ceil(gpus / cluster.gpus_per_node)) if gpus else cluster.num_nodes
    return {"cluster.num_nodes": num_nodes} | {f"cluster.{role}.{field}": value for field, value in changes.items()}


def _memory_of(work: Workload, role: str) -> RoleMemory:
    return next(memory for memory in role_memory(work) if memory.role == role)


def _spelled(value: Any) -> str:
    """As the command line takes it."""
    return value.name if hasattr(value, "name") else str(value).lower()
