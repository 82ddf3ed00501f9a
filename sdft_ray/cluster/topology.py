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
from dataclasses import dataclass
from functools import partial
from typing import Any

from sdft_ray.cluster.actors import make_learner_workers, make_rollout_workers, make_teacher_workers
from sdft_ray.cluster.evaluators import make_evaluator, make_harness
from sdft_ray.cluster.placement import Reservation, reserve
from sdft_ray.cluster.run_folder import RunFolder
from sdft_ray.cluster.run_inputs import RunInputs
from sdft_ray.cluster.session import num_alive_nodes
from sdft_ray.cluster.stages import Stages
from sdft_ray.config import NEVER, CompletionSource, RunConfig
from sdft_ray.data.reasoning import BehindMark
from sdft_ray.evaluation.evaluator import NoEvaluation
from sdft_ray.evaluation.progress import Counting
from sdft_ray.learner.group import LearnerGroup
from sdft_ray.learner.saving import SavingPlan
from sdft_ray.records import WorkerStatus
from sdft_ray.roles import Completions, Evaluator, Teacher
from sdft_ray.rollout.completions import (
    CompletedTogether,
    GivenCompletions,
    RecordedCompletions,
    RehearsedCompletions,
)
from sdft_ray.rollout.pool import RolloutPool
from sdft_ray.teacher.pool import TeacherPool
from sdft_ray.teacher.token_target import TokenTarget
from sdft_ray.weights.channel import WeightChannel, ends_of
from sdft_ray.weights.plan import WeightPlan, plan_weights
from sdft_ray.workers import WorkerGroup, close_all

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


async def start_roles(stages: Stages, folder: RunFolder, saving: SavingPlan, phase: Phase, counting: Counting) -> Roles:
    """Starts all workers at once and wires the roles; on failure ends what it started.

    Args:
        stages: of the run.
        folder: where workers and roles write.
        saving: how checkpoints are saved.
        phase: tells the user what is going on.
        counting: the same, and how far it is.
    """
    cfg, inputs = stages.shared
    logs = str(folder.logs)
    needed = cfg.needed_roles()
    reservations = reserve(cfg.cluster, needed)
    weights = plan_weights(cfg, num_alive_nodes())
    makers: dict[str, Callable[[RunConfig, RunInputs, WeightPlan, Reservation, str], list[Any]]] = {
        "rollout": make_rollout_workers,
        "teacher": make_teacher_workers,
        "learner": partial(make_learner_workers, plan=stages.plan),
    }
    groups = {
        role: WorkerGroup(role, makers[role](cfg, inputs, weights, reservations[role], logs), logs) for role in needed
    }
    learner = LearnerGroup(
        groups["learner"],
        learner=cfg.learner,
        loss=cfg.loss,
        plan=stages.plan,
        sampled=cfg.method.completion is CompletionSource.STUDENT,
        num_report_samples=cfg.tracking.num_samples,
        saving=saving,
        answer_start=BehindMark(cfg.loss.skip_until, inputs.decode(keep_special=True)),
    )
    channel = ends_of(weights.student_channel).driver(learner.publish, cfg.weights.timeout_s)
    roles = _wire(cfg, inputs, folder, groups, learner, weights, channel, list(reservations.values()), counting)
    with ExitStack() as on_failure:
        on_failure.callback(roles.close)
        async with asyncio.TaskGroup() as tasks:
            for role, group in groups.items():
                tasks.create_task(_wait_until_ready(role, group, learner, phase))
        if "rollout" in groups:
            size = cfg.cluster.rollout.tensor_parallel_size
            await channel.connect(groups["learner"], groups["rollout"], ranks_per_engine=size)
        await roles.teacher.load_weights(learner.weight_version)  # for workers that map: all others hold version 0
        channel.take_metrics()  # of no step
        await learner.measure_matmuls()
        if isinstance(roles.completions, RecordedCompletions | RehearsedCompletions):
            with phase("sampling completions with the weights the run begins with"):
                await roles.completions.record(stages.drawn())
        on_failure.pop_all()
    return roles


def _wire(
    cfg: RunConfig,
    inputs: RunInputs,
    folder: RunFolder,
    groups: dict[str, WorkerGroup],
    learner: LearnerGroup,
    weights: WeightPlan,
    channel: WeightChannel,
    reservations: list[Reservation],
    counting: Counting,
) -> Roles:
    rollouts = RolloutPool(groups["rollout"], channel) if "rollout" in groups else None
    return Roles(
        completions=_completions(cfg, inputs, folder, rollouts),
        teacher=TeacherPool(groups["teacher"], channel, weights) if "teacher" in groups else TokenTarget(),
        learner=learner,
        evaluator=NoEvaluation() if rollouts is None else make_evaluator(cfg, inputs, folder, rollouts, counting),
        harness=NoEvaluation() if rollouts is None else make_harness(cfg, inputs, folder, rollouts, counting),
        rollouts=rollouts,
        channel=channel,
        groups=list(groups.values()),
        reservations=reservations,
    )


def _completions(cfg: RunConfig, inputs: RunInputs, folder: RunFolder, rollouts: RolloutPool | None) -> Completions:
    if rollouts is None:
        return GivenCompletions()
    recorded = partial(
        RecordedCompletions, rollouts, folder.path, inputs.decode(keep_special=True), resumes=cfg.resume != NEVER
    )
    if cfg.method.completion is CompletionSource.TEACHER:
        return recorded()
    completions: Completions = GivenCompletions()
    if cfg.method.completion is CompletionSource.STUDENT:
        together = cfg.cluster.scores_on_sampling_cores(os.cpu_count() or 1)
        completions = CompletedTogether(rollouts) if together else rollouts
    if not cfg.data.rehearsal.is_on or cfg.method.rehearses_on_policy:
        return completions
    return RehearsedCompletions(completions, recorded())


async def _wait_until_ready(role: str, group: WorkerGroup, learner: LearnerGroup, phase: Phase) -> None:
    with phase(f"starting {group.size} {role} worker{'s' if group.size > 1 else ''}"):
        if role == "learner":
            await learner.start()
        else:
            await group.on_all(lambda actor: actor.ready.remote())
