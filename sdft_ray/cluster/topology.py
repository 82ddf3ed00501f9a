"""The wiring: which actors there are, and who may call whom.

    driver (loop, evaluator)
      |-- rollout workers   <- student weights from the channel
      |-- teacher workers   <- EMA (or student) weights from the channel; their payloads go straight to learner ranks
      `-- learner ranks     -> the channel

A role that the method does not need is not started.
"""

import asyncio
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import ray

from sdft_ray.cluster.evaluators import make_evaluator, make_harness
from sdft_ray.cluster.material import Asked, Material
from sdft_ray.cluster.placement import Reservation, reserve
from sdft_ray.cluster.run_folder import RunFolder
from sdft_ray.cluster.stages import Stages
from sdft_ray.config import NEVER, Channel, CompletionSource, RolePlacement, RunConfig, Target, TeacherBackend
from sdft_ray.evaluate.evaluator import NoEvaluation
from sdft_ray.evaluate.progress import Counting
from sdft_ray.learner.group import LearnerGroup
from sdft_ray.learner.settings import LearnerSettings
from sdft_ray.learner.stages import StagePlan
from sdft_ray.learner.worker import LearnerWorker
from sdft_ray.records import Publication, WorkerStatus
from sdft_ray.roles import Completions, Evaluator, Teacher
from sdft_ray.rollout.given import GivenCompletions
from sdft_ray.rollout.pool import RolloutPool
from sdft_ray.rollout.recorded import RecordedCompletions
from sdft_ray.rollout.together import CompletedTogether
from sdft_ray.rollout.worker import RolloutWorker
from sdft_ray.teacher.pool import TeacherPool
from sdft_ray.teacher.token_target import TokenTarget
from sdft_ray.teacher.transformers_worker import TransformersTeacher
from sdft_ray.teacher.vllm_worker import VllmTeacher
from sdft_ray.weights.channel import DirectChannel, Meeting, WeightChannel
from sdft_ray.workers import Worker, WorkerGroup, close_all

MAX_OPEN_CALLS = 1000  # of an async actor: Ray's default, named because completions in flight are bounded elsewhere

Phase = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Roles:
    """What the loop is given, and what has to be ended."""

    completions: Completions
    teacher: Teacher
    learner: LearnerGroup
    evaluator: Evaluator
    harness: Evaluator  # before and after training only
    rollouts: RolloutPool | None  # who samples and answers; None where nobody is asked
    channel: WeightChannel
    groups: list[WorkerGroup]
    reservations: list[Reservation]

    async def notes(self) -> list[str]:
        """What a person should know of how the workers have started; what all of a role say stands once."""
        said = [note for group in self.groups for notes in await group.on_all(_notes) for note in notes]
        return list(dict.fromkeys(said))

    async def status(self) -> list[WorkerStatus]:
        """The status of every worker of every role."""
        return [status for group in self.groups for status in await group.status()]

    def close(self) -> None:
        """Ends every worker; safe to call after any failure."""
        close_all(self.groups)
        for reservation in self.reservations:
            reservation.release()


def _notes(actor: Any) -> Any:
    return actor.notes.remote()


def needed_roles(cfg: RunConfig) -> list[str]:
    """The roles the method and the evaluation need workers for."""
    asked = cfg.evaluation.sets or cfg.evaluation.prior or cfg.evaluation.general or cfg.harness.tasks
    roles = ["learner"]
    if cfg.method.target is Target.TEACHER:
        roles.insert(0, "teacher")
    if cfg.method.samples or asked:
        roles.insert(0, "rollout")
    return roles


async def start_roles(stages: Stages, folder: RunFolder, phase: Phase, counting: Counting) -> Roles:
    """Starts all workers at once and wires the roles; on failure ends what it started.

    Args:
        stages: of the run.
        folder: where workers and roles write.
        phase: tells the user what is going on.
        counting: the same, and how far it is.
    """
    cfg, material = stages.shared
    logs = str(folder.logs)
    needed = needed_roles(cfg)
    reservations = reserve(cfg.cluster, needed)
    makers: dict[str, Callable[[RunConfig, Material, Reservation, str], list[Any]]] = {
        "rollout": make_rollout_workers,
        "teacher": _teacher_workers,
        "learner": partial(_learner_workers, plan=stages.plan),
    }
    groups = {role: WorkerGroup(role, makers[role](cfg, material, reservations[role], logs), logs) for role in needed}
    learner = LearnerGroup(
        groups["learner"],
        learner=cfg.learner,
        loss=cfg.loss,
        plan=stages.plan,
        sampled=cfg.method.completion is CompletionSource.STUDENT,
        num_report_samples=cfg.tracking.num_samples,
        checkpoints=folder.checkpoints,
        keep_checkpoints=cfg.keep_checkpoints,
    )
    kind = _channel_kind(cfg)
    channel = (DirectChannel if kind is Channel.NCCL else WeightChannel)(learner.publish, cfg.weights.timeout_s)
    roles = _wire(cfg, material, folder, groups, learner, channel, list(reservations.values()), counting)
    with ExitStack() as on_failure:
        on_failure.callback(roles.close)
        async with asyncio.TaskGroup() as tasks:
            for role, group in groups.items():
                tasks.create_task(_wait_until_ready(role, group, learner, phase))
        if isinstance(channel, DirectChannel) and "rollout" in groups:
            channel.announcement = await _meet(groups["learner"], groups["rollout"], cfg.cluster.rollout)
        await roles.teacher.load_weights(learner.weight_version)  # for workers that map: all others hold version 0
        channel.take_metrics()  # of no step
        if isinstance(roles.completions, RecordedCompletions):
            with phase("sampling the teacher's completions"):
                await roles.completions.record(stages.drawn())
        on_failure.pop_all()
    return roles


def _wire(
    cfg: RunConfig,
    material: Material,
    folder: RunFolder,
    groups: dict[str, WorkerGroup],
    learner: LearnerGroup,
    channel: WeightChannel,
    reservations: list[Reservation],
    counting: Counting,
) -> Roles:
    rollouts = RolloutPool(groups["rollout"], channel) if "rollout" in groups else None
    return Roles(
        completions=_completions(cfg, material, folder, rollouts),
        teacher=_teacher(cfg, groups["teacher"], channel) if "teacher" in groups else TokenTarget(),
        learner=learner,
        evaluator=NoEvaluation() if rollouts is None else make_evaluator(cfg, material, folder, rollouts, counting),
        harness=NoEvaluation() if rollouts is None else make_harness(cfg, material, folder, rollouts, counting),
        rollouts=rollouts,
        channel=channel,
        groups=list(groups.values()),
        reservations=reservations,
    )


def _teacher(cfg: RunConfig, group: WorkerGroup, channel: WeightChannel) -> TeacherPool:
    return TeacherPool(group, channel, cfg.teacher.weights, cfg.weights.teacher_ema, maps_weights=_teachers_map(cfg))


def _completions(cfg: RunConfig, material: Material, folder: RunFolder, rollouts: RolloutPool | None) -> Completions:
    if rollouts is None or not cfg.method.samples:
        return GivenCompletions()
    if cfg.method.completion is CompletionSource.STUDENT:
        return CompletedTogether(rollouts) if cfg.cluster.scores_on_sampling_cores(os.cpu_count() or 1) else rollouts
    return RecordedCompletions(rollouts, folder.path, material.decode(keep_special=True), resumes=cfg.resume != NEVER)


async def _wait_until_ready(role: str, group: WorkerGroup, learner: LearnerGroup, phase: Phase) -> None:
    with phase(f"starting {group.size} {role} worker{'s' if group.size > 1 else ''}"):
        if role == "learner":
            await learner.start()
        else:
            await group.on_all(lambda actor: actor.ready.remote())


def _channel_kind(cfg: RunConfig) -> Channel:
    return cfg.weights.choose_channel(num_nodes=sum(node["Alive"] for node in ray.nodes()))


def _teachers_map(cfg: RunConfig) -> bool:
    in_transformers = cfg.teacher.backend is TeacherBackend.TRANSFORMERS
    return in_transformers and cfg.weights.teachers_map(_channel_kind(cfg), cfg.cluster, cfg.max_staleness)


async def _meet(learner: WorkerGroup, rollout: WorkerGroup, placement: RolePlacement) -> Publication:
    """Brings the learner and the engines together for weights.channel=NCCL; tells what the learner will send."""
    size = placement.tensor_parallel_size
    address, port = await learner.on_first(lambda actor: actor.rendezvous.remote())
    meeting = Meeting(address, port, num_ranks=1 + size * rollout.size)
    first_ranks = [1 + size * rank for rank in range(rollout.size)]
    async with asyncio.TaskGroup() as tasks:
        announcements = tasks.create_task(learner.on_all(lambda actor: actor.meet_engines.remote(meeting)))
        tasks.create_task(
            rollout.on_each(lambda actor, first_rank: actor.meet_learner.remote(meeting, first_rank), first_ranks)
        )
    announcement: Publication = announcements.result()[0]
    return announcement


def _actors(kind: type[Worker], reservation: Reservation, options: dict[str, Any], **settings: Any) -> list[Any]:
    """One actor a place, each told its rank."""
    remote = ray.remote(kind)
    return [
        remote.options(**reservation.actor_options(rank), **options).remote(rank=rank, **settings)
        for rank in range(reservation.placement.num_workers)
    ]


def make_rollout_workers(cfg: RunConfig, material: Asked, reservation: Reservation, logs: str) -> list[Any]:
    """The rollout actors in their places; they are not waited for."""
    placement = reservation.placement
    return _actors(
        RolloutWorker,
        reservation,
        {"max_concurrency": MAX_OPEN_CALLS},
        log_dir=logs,
        model_path=material.model_path,
        model=cfg.model,
        rollout=replace(cfg.rollout, gpu_memory_share=cfg.rollout.gpu_memory_share * placement.gpu_share),
        num_tokens=material.facts.num_tokens,
        eos_token_ids=material.facts.eos_token_ids,
        max_model_len=material.max_model_len,
        tensor_parallel_size=placement.tensor_parallel_size,
        shares_device=placement.shares_device,
        channel=_channel_kind(cfg),
        maps_weights=cfg.weights.engines_map(_channel_kind(cfg), cfg.cluster, cfg.max_staleness),
        seed=cfg.seed,
    )


def _teacher_workers(cfg: RunConfig, material: Material, reservation: Reservation, logs: str) -> list[Any]:
    placement = reservation.placement
    shared = {
        "log_dir": logs,
        "model_path": material.teacher_path,
        "model": cfg.model,
        "device": placement.device,
    }
    if cfg.teacher.backend is TeacherBackend.VLLM:
        return _actors(
            VllmTeacher,
            reservation,
            {"max_concurrency": MAX_OPEN_CALLS},
            teacher=replace(cfg.teacher, gpu_memory_share=cfg.teacher.gpu_memory_share * placement.gpu_share),
            max_model_len=material.max_teacher_len,
            tensor_parallel_size=placement.tensor_parallel_size,
            shares_device=placement.shares_device,
            **shared,
        )
    return _actors(
        TransformersTeacher,
        reservation,
        {"max_concurrency": MAX_OPEN_CALLS},
        teacher=cfg.teacher,
        num_tokens=material.facts.num_tokens,
        temperature=cfg.rollout.temperature,
        maps_weights=_teachers_map(cfg),
        guard_rows=material.guard_rows,
        max_len=material.max_teacher_len,
        **shared,
    )


def _learner_workers(
    cfg: RunConfig, material: Material, reservation: Reservation, logs: str, *, plan: StagePlan
) -> list[Any]:
    settings = LearnerSettings(
        model_path=material.model_path,
        model=cfg.model,
        learner=cfg.learner,
        loss=cfg.loss,
        target=cfg.method.target,
        teacher=cfg.teacher,
        teacher_path=material.teacher_path,
        max_staleness=cfg.max_staleness,
        temperature=cfg.rollout.temperature,
        num_tokens=material.facts.num_tokens,
        plan=plan,
        border=cfg.border,
        channel=_channel_kind(cfg),
        guard_rows=material.guard_rows,
        max_len=material.max_model_len,
        seed=cfg.seed,
        device=reservation.placement.device,
    )
    num_ranks = reservation.placement.num_workers
    return _actors(LearnerWorker, reservation, {}, num_ranks=num_ranks, log_dir=logs, settings=settings)
