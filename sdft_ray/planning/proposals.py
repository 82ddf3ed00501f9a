"""What to set where a run does not fit: found by planning every change, those that cost least first.

Settings on the same workers come first, then other workers on the same machines, then more machines, then larger
batches on these. Every proposal is planned as a whole before it is made, and fits.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from itertools import groupby
from typing import Any

from sdft_ray.config import AdapterKind, Payload, Precision, Target, TeacherEma
from sdft_ray.planning.layouts import Settings, layouts, one_gpu_in_turns
from sdft_ray.planning.memory import RoleMemory, kv_cache_gib_of_one_sequence, object_store_gib, role_memory
from sdft_ray.planning.seconds import step_seconds
from sdft_ray.planning.traffic import step_traffic
from sdft_ray.planning.verdict import misfits
from sdft_ray.planning.workload import Workload

SMALLEST_FORWARD = 1024  # tokens; below, matrix products no longer fill a GPU
CACHE_STEP_GIB = 0.25
WORTH_MOVING = 0.9  # of the seconds of a step: other workers are proposed beside mere settings if they save a tenth
MORE_NODES = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32)  # besides those there are
LARGER_BATCHES = (2, 4, 8)  # times as large: every learner rank needs a sample


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """Settings with which a run fits."""

    what: str  # how far they go
    work: Workload  # the run with them
    overrides: tuple[str, ...]  # as the command line takes them
    step_s: float  # predicted

    def __str__(self) -> str:
        return f"{self.what} ({self.step_s:.3g} s a step): {' '.join(self.overrides)}"


def propose(work: Workload) -> list[Proposal]:
    """Proposals for a run that does not fit, the least change first; empty if nothing that is known makes it fit."""
    found = []
    if (changed := _fitted(work)) is not None:
        found.append(_proposal("with other settings", work, changed))
    num_nodes, placements = work.cfg.cluster.num_nodes, work.cfg.cluster.placements()
    if any(placements[role].device == "cpu" for role in work.roles):
        return found
    moved = _best(work, num_nodes)
    if moved is not None and (not found or _step_s(moved) < WORTH_MOVING * found[0].step_s):
        found.append(_proposal("with other workers on the same machines", work, moved))
    return found or [*_with_an_adapter(work), *_on_more_nodes(work)]


def in_turns(work: Workload) -> Proposal | None:
    """Settings with which a run fits one GPU where its roles take turns; None where there are none."""
    turned = _with(work, one_gpu_in_turns())
    fitted = _fitted(turned)
    return None if fitted is None else _proposal("in turns", turned, fitted)


def _with_an_adapter(work: Workload) -> list[Proposal]:
    """With an adapter in place of all weights, where there is one GPU for all roles; it learns something else."""
    if not work.cfg.cluster.turns or work.cfg.model.adapter.is_on or work.shape.has_experts:
        return []
    adapted = _with(work, {"model.adapter.kind": AdapterKind.LORA, "weights.teacher_ema": TeacherEma.LEARNER})
    fitted = _fitted(adapted)
    return [] if fitted is None else [_proposal("with an adapter, which is all that is trained", work, fitted)]


def _on_more_nodes(work: Workload) -> list[Proposal]:
    """With as few nodes as possible; with a larger batch where there would be too few samples for the ranks."""
    for times in (1, *LARGER_BATCHES):
        larger = _with(work, {"batch_size": times * work.cfg.batch_size})
        for num_nodes in (work.cfg.cluster.num_nodes + more for more in MORE_NODES):
            if (spread := _best(larger, num_nodes)) is not None:
                return [_proposal(f"with {num_nodes} nodes", work, spread)]
    return []


def _best(work: Workload, num_nodes: int) -> Workload | None:
    """The distribution over that many nodes whose step is the shortest, of equals that with the most room left."""
    fitting = []
    for layout in layouts(work, num_nodes):
        if (changed := _fitted(_with(work, layout))) is not None:
            fitting.append(with_full_cache(changed))
    return min(fitting, key=lambda one: (float(f"{_step_s(one):.2g}"), fullest(one)), default=None)


def with_full_cache(work: Workload) -> Workload:
    """The run with as large a KV cache as its share of a GPU leaves, or as all its sequences need."""
    cluster, cfg = work.cfg.cluster, work.cfg.rollout
    if "rollout" not in work.roles or cluster.rollout.device == "cpu" or cluster.fills_device("rollout"):
        return work
    (memory,) = (memory for memory in role_memory(work) if memory.role == "rollout")
    sequences = min(cfg.max_concurrent, work.samples_per_worker("rollout"))
    needed = sequences * kv_cache_gib_of_one_sequence(work)
    left = cfg.kv_cache_gib + memory.limit_gib - memory.total_gib
    steps = min(math.ceil(needed / CACHE_STEP_GIB), math.floor(left / CACHE_STEP_GIB))
    return _with(work, {"rollout.kv_cache_gib": max(cfg.kv_cache_gib, steps * CACHE_STEP_GIB)})


def _fitted(work: Workload) -> Workload | None:
    """The run with settings that make it fit its workers, no more of them than needed; None if there are none."""
    before = work
    fills = work.cfg.cluster.fills_device("rollout")
    if not fills and _smallest_cache_gib(work) > work.cfg.rollout.kv_cache_gib:
        work = _with(work, {"rollout.kv_cache_gib": _smallest_cache_gib(work)})
    for role in work.roles:
        for settings in _candidates(work, role):
            if _excess(work, role) <= 0:
                break
            changed = _with(work, settings)
            if _excess(changed, role) < _excess(work, role):
                work = changed
        if _excess(work, role) > 0:
            return None
    work = _with_store(work)
    if misfits(work):
        return None
    return _without_the_needless(before, work)


def _without_the_needless(before: Workload, work: Workload) -> Workload:
    """Takes changes back, the most costly first, where the run still fits and its step takes no longer."""
    for key in reversed(_changes(before, work)):
        if _may_be_taken_back(key, before, work):
            kept = _with_store(_with(work, {key: value_of(before.cfg, key)}))
            if not misfits(kept) and _step_s(kept) <= _step_s(work):
                work = kept
    return work


def _may_be_taken_back(key: str, before: Workload, work: Workload) -> bool:
    """True when the settings without this change are no contradiction: bf16 and offload need a ZeRO stage."""
    if key == "learner.zero_stage":
        least = 2 if work.cfg.learner.offload else 1
        return before.cfg.learner.zero_stage >= least or (
            work.cfg.learner.precision is Precision.FLOAT32 and not work.cfg.learner.offload
        )
    if key == "learner.precision":
        return work.cfg.learner.zero_stage > 0 or before.cfg.learner.precision is Precision.FLOAT32
    return key not in LASTING


def _with_store(work: Workload) -> Workload:
    needed = math.ceil(object_store_gib(work))
    return _with(work, {"cluster.object_store_gib": needed}) if needed > work.cfg.cluster.object_store_gib else work


def _excess(work: Workload, role: str) -> float:
    """GiB that the role lacks; on a CPU all roles together, which share their node's memory."""
    memory = {memory.role: memory for memory in role_memory(work)}
    own = memory[role]
    if own.device == "cuda":
        return 0.0 if own.fits_in(own.limit_gib) else own.total_gib - own.limit_gib
    hardware, num_nodes = work.cfg.cluster.hardware, work.cfg.cluster.num_nodes
    needed = sum(each.total_gib * each.num_workers for each in memory.values() if each.device == "cpu")
    return max(0.0, needed - hardware.memory_gib * num_nodes)


def _candidates(work: Workload, role: str) -> Iterator[Settings]:
    """Settings that go together and may save memory; those that cost least come first."""
    cfg = work.cfg
    if role != "learner":
        # What averages the student itself has to receive it in fp32.
        yield {"weights.teacher_ema": TeacherEma.LEARNER, "model.dtype": Precision.BFLOAT16}
        if role == "teacher":
            yield from _halved("teacher.max_tokens_per_forward", cfg.teacher.max_tokens_per_forward)
        elif not cfg.cluster.fills_device("rollout"):
            yield {"rollout.kv_cache_gib": max(cfg.rollout.kv_cache_gib / 2, _smallest_cache_gib(work))}
        return
    yield {"learner.gradient_checkpointing": True}
    if cfg.method.target is Target.TEACHER:
        yield {"teacher.payload": Payload.HIDDEN}
    stage = max(2, cfg.learner.zero_stage)
    yield {"learner.zero_stage": stage}
    yield {"learner.zero_stage": stage, "learner.precision": Precision.BFLOAT16}
    if not cfg.cluster.turns:  # where there is one rank, and no states of ZeRO 3 can be moved
        yield {"learner.zero_stage": 3}
    yield from _halved("learner.max_tokens_per_microbatch", cfg.learner.max_tokens_per_microbatch)
    if cfg.cluster.learner.device == "cuda":
        yield {"learner.offload": True, "learner.zero_stage": stage}
        if not cfg.cluster.turns:
            yield {"learner.offload": True, "learner.zero_stage": 3}
    if (
        cfg.cluster.learner.num_workers == 1 and not cfg.cluster.turns
    ):  # fp32 weights that are their own masters, but slow arithmetic on a GPU
        yield {"learner.precision": Precision.FLOAT32, "learner.zero_stage": 0, "learner.offload": False}


def _smallest_cache_gib(work: Workload) -> float:
    return math.ceil(kv_cache_gib_of_one_sequence(work) / CACHE_STEP_GIB) * CACHE_STEP_GIB


def _halved(key: str, tokens: int) -> Iterator[Settings]:
    while tokens // 2 >= SMALLEST_FORWARD:
        tokens //= 2
        yield {key: tokens}


def value_of(settings: Any, key: str) -> Any:
    """The value under a dotted key."""
    return reduce(getattr, key.split("."), settings)


def with_settings(settings: Any, changes: Mapping[str, Any]) -> Any:
    """The settings with other values under dotted keys, all at once; their checks run again."""
    values: dict[str, Any] = {}
    for name, group in groupby(sorted(changes), key=lambda key: key.partition(".")[0]):
        inner = {key.partition(".")[2]: changes[key] for key in group}
        values[name] = inner[""] if "" in inner else with_settings(getattr(settings, name), inner)
    return replace(settings, **values)


def _with(work: Workload, changes: Settings) -> Workload:
    return replace(work, cfg=with_settings(work.cfg, changes))


# What is not taken back by itself: others hang on it, or the run is another with it.
LASTING = ("weights.teacher_ema", "cluster.object_store_gib", "max_staleness", "cluster.turns", "model.adapter.kind")

KEYS = (  # of everything a proposal may change, the least costly first
    "cluster.object_store_gib",
    "rollout.kv_cache_gib",
    "model.dtype",
    "weights.teacher_ema",
    "teacher.payload",
    "learner.zero_stage",
    "learner.precision",
    "learner.gradient_checkpointing",
    "teacher.max_tokens_per_forward",
    "learner.max_tokens_per_microbatch",
    "learner.offload",
    "model.adapter.kind",
    "max_staleness",
    "cluster.turns",
    "teacher.backend",
    "cluster.rollout.num_workers",
    "cluster.rollout.gpus_per_worker",
    "cluster.teacher.num_workers",
    "cluster.teacher.gpus_per_worker",
    "cluster.learner.num_workers",
    "cluster.learner.gpus_per_worker",
    "cluster.num_nodes",
    "batch_size",
)


def _changes(before: Workload, after: Workload) -> list[str]:
    return [key for key in KEYS if value_of(before.cfg, key) != value_of(after.cfg, key)]


def _proposal(what: str, before: Workload, after: Workload) -> Proposal:
    overrides = tuple(f"{key}={_spelled(value_of(after.cfg, key))}" for key in _changes(before, after))
    return Proposal(what=what, work=after, overrides=overrides, step_s=_step_s(after))


def _step_s(work: Workload) -> float:
    return step_seconds(work, step_traffic(work)).step


def fullest(work: Workload) -> float:
    """The largest part that a role needs of what it may use; an engine with a GPU of its own fills it at any time."""

    def part(memory: RoleMemory) -> float:
        takes_rest = memory.role == "rollout" and work.cfg.cluster.fills_device("rollout")
        return 0.0 if takes_rest else memory.total_gib / memory.limit_gib

    return max(map(part, role_memory(work)))


def _spelled(value: Any) -> str:
    """As the command line takes it."""
    return value.name if hasattr(value, "name") else str(value).lower()
