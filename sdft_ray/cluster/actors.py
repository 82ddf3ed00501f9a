"""The actors of each role, with the settings each of them is given; `topology.py` wires them."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from sdft_ray.cluster.environment import worker_marks
from sdft_ray.cluster.placement import Reservation
from sdft_ray.cluster.run_inputs import ModelInputs, RunInputs
from sdft_ray.config import AdapterConfig, RunConfig, TeacherBackend
from sdft_ray.learner.schedule import StagePlan
from sdft_ray.learner.settings import LearnerSettings
from sdft_ray.learner.worker import LearnerWorker
from sdft_ray.models.adapter import averaged
from sdft_ray.rollout.worker import RolloutWorker
from sdft_ray.teacher.transformers_worker import TransformersTeacher
from sdft_ray.teacher.vllm_worker import VllmTeacher
from sdft_ray.weights.channel import WeightKind
from sdft_ray.weights.plan import WeightPlan
from sdft_ray.workers.worker import Worker

MAX_OPEN_CALLS = 1000  # of an async actor: Ray's default, named because completions in flight are bounded elsewhere

_NAMED: Counter[str] = Counter()  # actors of this process by name: one that is being killed still has its own

Maker = Callable[[int], Any]  # makes the actor of a rank in its place, and does not wait for it


def _maker(
    kind: type[Worker], reservation: Reservation, options: dict[str, Any], *, log_dir: str, **settings: Any
) -> Maker:
    """Makes an actor that is told its rank, and is named by it: `billing/rollout-0`, `ray list actors` says."""
    remote, folder = ray.remote(kind), Path(log_dir).parent

    def make(rank: int) -> Any:
        of_actor = reservation.actor_options(rank)
        of_actor["runtime_env"]["env_vars"] |= worker_marks(folder, kind.role, rank)
        name = unused_name(f"{folder.name}/{kind.role}-{rank}")
        return remote.options(name=name, **of_actor, **options).remote(rank=rank, log_dir=log_dir, **settings)

    return make


def unused_name(name: str) -> str:
    """`name` for the first actor that asks for it; NAME.2 for the one that replaces it, and so on."""
    _NAMED[name] += 1
    return name if _NAMED[name] == 1 else f"{name}.{_NAMED[name]}"


def rollout_maker(
    cfg: RunConfig, inputs: ModelInputs, weights: WeightPlan, reservation: Reservation, logs: str
) -> Maker:
    """Makes rollout actors."""
    placement = reservation.placement
    return _maker(
        RolloutWorker,
        reservation,
        {"max_concurrency": MAX_OPEN_CALLS},
        log_dir=logs,
        model_path=inputs.model_path,
        model=cfg.model,
        rollout=replace(cfg.rollout, gpu_memory_share=cfg.rollout.gpu_memory_share * cfg.cluster.gpu_share("rollout")),
        num_tokens=inputs.facts.num_tokens,
        eos_token_ids=inputs.facts.eos_token_ids,
        max_model_len=inputs.max_model_len,
        tensor_parallel_size=placement.tensor_parallel_size,
        shares_device=not cfg.cluster.fills_device("rollout"),
        sleeps=cfg.cluster.turns,
        weights=weights,
        seed=cfg.seed,
    )


def teacher_maker(cfg: RunConfig, inputs: RunInputs, weights: WeightPlan, reservation: Reservation, logs: str) -> Maker:
    """Makes teacher actors."""
    placement = reservation.placement
    shared: dict[str, Any] = {
        "log_dir": logs,
        "model_path": inputs.teacher_path,
        "model": replace(cfg.model, adapter=_teacher_adapter(cfg, weights)),
        "device": placement.device,
        "weights": weights,
    }
    if cfg.teacher.backend is TeacherBackend.VLLM:
        return _maker(
            VllmTeacher,
            reservation,
            {"max_concurrency": MAX_OPEN_CALLS},
            teacher=replace(
                cfg.teacher, gpu_memory_share=cfg.teacher.gpu_memory_share * cfg.cluster.gpu_share("teacher")
            ),
            max_model_len=inputs.max_teacher_len,
            tensor_parallel_size=placement.tensor_parallel_size,
            shares_device=not cfg.cluster.fills_device("teacher"),
            sleeps=cfg.cluster.turns,
            **shared,
        )
    return _maker(
        TransformersTeacher,
        reservation,
        {"max_concurrency": MAX_OPEN_CALLS},
        teacher=cfg.teacher,
        num_tokens=inputs.facts.num_tokens,
        temperature=cfg.rollout.temperature,
        guard_rows=inputs.guard_rows,
        max_len=inputs.max_teacher_len,
        **shared,
    )


def _teacher_adapter(cfg: RunConfig, weights: WeightPlan) -> AdapterConfig:
    """The adapter in a teacher's network: none where it is frozen, which is the network without."""
    if weights.teacher_kind is None or not cfg.model.adapter.is_on:
        return AdapterConfig()
    return averaged(cfg.model.adapter) if weights.teacher_kind is WeightKind.EMA else cfg.model.adapter


def learner_maker(
    cfg: RunConfig, inputs: RunInputs, weights: WeightPlan, reservation: Reservation, logs: str, *, plan: StagePlan
) -> Maker:
    """Makes the learner's actors, which then have to meet."""
    settings = LearnerSettings(
        model_path=inputs.model_path,
        model=cfg.model,
        learner=cfg.learner,
        loss=cfg.loss,
        target=cfg.method.target,
        teacher=cfg.teacher,
        teacher_path=inputs.teacher_path,
        max_staleness=cfg.max_staleness,
        temperature=cfg.rollout.temperature,
        num_tokens=inputs.facts.num_tokens,
        plan=plan,
        stage_boundary=cfg.stage_boundary,
        weights=weights,
        guard_rows=inputs.guard_rows,
        max_len=inputs.max_model_len,
        seed=cfg.seed,
        device=reservation.placement.device,
    )
    num_ranks = reservation.placement.num_workers
    return _maker(LearnerWorker, reservation, {}, num_ranks=num_ranks, log_dir=logs, settings=settings)
