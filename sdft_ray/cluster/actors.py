"""The actors of each role, with the settings each of them is given; `topology.py` wires them."""

from dataclasses import replace
from typing import Any

import ray

from sdft_ray.cluster.placement import Reservation
from sdft_ray.cluster.run_inputs import ModelInputs, RunInputs
from sdft_ray.config import RunConfig, TeacherBackend
from sdft_ray.learner.schedule import StagePlan
from sdft_ray.learner.settings import LearnerSettings
from sdft_ray.learner.worker import LearnerWorker
from sdft_ray.rollout.worker import RolloutWorker
from sdft_ray.teacher.transformers_worker import TransformersTeacher
from sdft_ray.teacher.vllm_worker import VllmTeacher
from sdft_ray.weights.plan import WeightPlan
from sdft_ray.workers import Worker

MAX_OPEN_CALLS = 1000  # of an async actor: Ray's default, named because completions in flight are bounded elsewhere


def _actors(kind: type[Worker], reservation: Reservation, options: dict[str, Any], **settings: Any) -> list[Any]:
    """One actor a place, each told its rank."""
    remote = ray.remote(kind)
    return [
        remote.options(**reservation.actor_options(rank), **options).remote(rank=rank, **settings)
        for rank in range(reservation.placement.num_workers)
    ]


def make_rollout_workers(
    cfg: RunConfig, inputs: ModelInputs, weights: WeightPlan, reservation: Reservation, logs: str
) -> list[Any]:
    """The rollout actors in their places; they are not waited for."""
    placement = reservation.placement
    return _actors(
        RolloutWorker,
        reservation,
        {"max_concurrency": MAX_OPEN_CALLS},
        log_dir=logs,
        model_path=inputs.model_path,
        model=cfg.model,
        rollout=replace(cfg.rollout, gpu_memory_share=cfg.rollout.gpu_memory_share * placement.gpu_share),
        num_tokens=inputs.facts.num_tokens,
        eos_token_ids=inputs.facts.eos_token_ids,
        max_model_len=inputs.max_model_len,
        tensor_parallel_size=placement.tensor_parallel_size,
        shares_device=placement.shares_device,
        weights=weights,
        seed=cfg.seed,
    )


def make_teacher_workers(
    cfg: RunConfig, inputs: RunInputs, weights: WeightPlan, reservation: Reservation, logs: str
) -> list[Any]:
    """The teacher actors in their places; they are not waited for."""
    placement = reservation.placement
    shared = {
        "log_dir": logs,
        "model_path": inputs.teacher_path,
        "model": cfg.model,
        "device": placement.device,
        "weights": weights,
    }
    if cfg.teacher.backend is TeacherBackend.VLLM:
        return _actors(
            VllmTeacher,
            reservation,
            {"max_concurrency": MAX_OPEN_CALLS},
            teacher=replace(cfg.teacher, gpu_memory_share=cfg.teacher.gpu_memory_share * placement.gpu_share),
            max_model_len=inputs.max_teacher_len,
            tensor_parallel_size=placement.tensor_parallel_size,
            shares_device=placement.shares_device,
            **shared,
        )
    return _actors(
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


def make_learner_workers(
    cfg: RunConfig, inputs: RunInputs, weights: WeightPlan, reservation: Reservation, logs: str, *, plan: StagePlan
) -> list[Any]:
    """The learner's actors in their places, which have not met yet."""
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
    return _actors(LearnerWorker, reservation, {}, num_ranks=num_ranks, log_dir=logs, settings=settings)
