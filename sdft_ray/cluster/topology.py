"""The wiring: which actors there are, and who may call whom.

    driver (loop, evaluator)
      |-- rollout workers   <- student weights from the channel
      |-- teacher workers   <- EMA (or student) weights from the channel; their payloads go straight to learner ranks
      `-- learner ranks     -> the channel

A role that the method does not need is not started.
"""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from sdft_ray.cluster.actors import Maker, learner_maker, rollout_maker, teacher_maker
from sdft_ray.cluster.elasticity import Elasticity
from sdft_ray.cluster.evaluators import make_evaluator, make_harness
from sdft_ray.cluster.in_turns import CompletionsInTurns, EvaluatorInTurns, LearnerInTurns, WakeCheck
from sdft_ray.cluster.placement import ElasticReservation, Reservation, end_workers, reserve
from sdft_ray.cluster.recovery import Tell, replace_lost, score_lost_again, start_each, start_workers
from sdft_ray.cluster.run_folder import RunFolder
from sdft_ray.cluster.run_inputs import RunInputs
from sdft_ray.cluster.session import num_alive_nodes
from sdft_ray.cluster.stages import Stages
from sdft_ray.cluster.turns import Turns
from sdft_ray.config import NEVER, CompletionSource, FaultsConfig, RunConfig
from sdft_ray.data.reasoning import BehindMark
from sdft_ray.evaluation.evaluator import NoEvaluation
from sdft_ray.evaluation.progress import Counting
from sdft_ray.learner.group import LearnerGroup
from sdft_ray.learner.saving import SavingPlan
from sdft_ray.records import WorkerStatus
from sdft_ray.roles import Completions, Evaluator, Learner, Teacher
from sdft_ray.rollout.completions import (
    CompletedTogether,
    GivenCompletions,
    RecordedCompletions,
    RehearsedCompletions,
)
from sdft_ray.rollout.ordered_pool import make_pool
from sdft_ray.rollout.pool import RolloutPool
from sdft_ray.teacher.pool import TeacherPool
from sdft_ray.teacher.token_target import TokenTarget
from sdft_ray.weights.channel import WeightChannel, ends_of
from sdft_ray.weights.plan import WeightPlan, plan_weights
from sdft_ray.workers.deadlines import Work
from sdft_ray.workers.group import WorkerGroup
from sdft_ray.workers.recovery import RestartBudget

STARVED = 10.0  # times as long a process of the lowest priority may take; the scheduler gives it a sixtieth of a core
NOTES = Work("notes", in_turn=False)
Phase = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Roles:
    """What the loop is given, and what has to be ended."""

    completions: Completions
    teacher: Teacher
    learner: LearnerGroup
    trained: Learner  # what the loop asks to learn: the learner itself, or in its turn
    evaluator: Evaluator
    harness: Evaluator  # before and after training only
    rollouts: RolloutPool | None  # who samples and answers; None where nobody is asked
    channel: WeightChannel
    groups: dict[str, WorkerGroup]  # by role
    makers: dict[str, Maker]
    reservations: dict[str, Reservation]  # by role
    turns: Turns | None  # where all roles share one device

    @property
    def elasticity(self) -> list[Elasticity]:
        """What has workers come and go with their nodes, of the roles where they may."""
        elastic = {role: places for role, places in self.reservations.items() if isinstance(places, ElasticReservation)}
        return [Elasticity(self.groups[role].members, places) for role, places in elastic.items()]

    async def notes(self) -> list[str]:
        """What a person should know of how the workers have started; what all of a role say stands once."""
        groups = self.groups.values()
        said = [note for group in groups for notes in await group.on_all(_notes, NOTES) for note in notes]
        return list(dict.fromkeys(said))

    async def record_completions(self, stages: Stages, phase: Phase, say: Callable[[str], None]) -> None:
        """Has completions that the run's first weights write sampled, before others are loaded."""
        if isinstance(self.completions, RecordedCompletions | RehearsedCompletions):
            with phase("sampling completions with the weights the run begins with"):
                await self.completions.record(stages.drawn(), say)

    async def status(self) -> list[WorkerStatus]:
        """The status of every worker of every role."""
        return [status for group in self.groups.values() for status in await group.status()]

    def forget_metrics(self) -> None:
        """Forgets what belongs to no step: the start's weights and turns."""
        self.channel.take_metrics()
        if self.turns is not None:
            self.turns.take_metrics()

    def close(self) -> None:
        """Ends every worker; safe to call after any failure."""
        end_workers(list(self.groups.values()), self.reservations.values())


def _notes(actor: Any) -> Any:
    return actor.notes.remote()


async def start_roles(
    stages: Stages, folder: RunFolder, saving: SavingPlan, phase: Phase, counting: Counting, tell: Tell
) -> Roles:
    """Starts all workers at once and wires the roles; on failure ends what it started.

    Args:
        stages: of the run.
        folder: where workers and roles write.
        saving: how checkpoints are saved.
        phase: tells the user what is going on.
        counting: the same, and how far it is.
        tell: is told of workers that are lost once all have started.
    """
    cfg, inputs = stages.shared
    logs = str(folder.logs)
    needed = cfg.needed_roles()
    reservations = reserve(cfg.cluster, needed)
    weights = plan_weights(cfg, num_alive_nodes())
    makers = _makers(stages, weights, reservations, logs)
    turns = Turns() if cfg.cluster.turns else None
    groups = {
        role: WorkerGroup(
            role,
            [make(rank) for rank in range(reservations[role].placement.num_workers)],
            logs,
            faults=_faults_of(role, cfg),
            turn=nullcontext if turns is None else turns.turn_of(role),
        )
        for role, make in makers.items()
    }
    if turns is not None:
        turns.begin(groups)
    learner = LearnerGroup(
        groups["learner"],
        learner=cfg.learner,
        loss=cfg.loss,
        plan=stages.plan,
        sampled=cfg.method.completion is CompletionSource.STUDENT,
        num_report_samples=cfg.tracking.num_samples,
        saving=saving,
        answer_start=BehindMark(mark, inputs.decode(keep_special=True)) if (mark := cfg.loss.skip_until) else None,
    )
    channel = ends_of(weights.student_channel).driver(learner.publish, cfg.weights.timeout_s)
    roles = _wire(cfg, inputs, folder, groups, makers, learner, weights, channel, reservations, counting, turns)
    with ExitStack() as on_failure:
        on_failure.callback(roles.close)
        await start_each(
            {role: partial(_start, role, group, learner, phase) for role, group in groups.items()},
            one_by_one=turns is not None,
        )
        if "rollout" in groups:
            size = cfg.cluster.rollout.tensor_parallel_size
            await channel.connect(groups["learner"], groups["rollout"], ranks_per_engine=size)
        await roles.teacher.load_weights(learner.weight_version)  # for workers that map: all others hold version 0
        channel.take_metrics()  # of no step
        await learner.measure_matmuls()
        _replace_lost(cfg, roles, weights, tell)
        on_failure.pop_all()
    return roles


def _makers(stages: Stages, weights: WeightPlan, reservations: dict[str, Reservation], logs: str) -> dict[str, Maker]:
    """What makes the actors of each role that has a place."""
    cfg, inputs = stages.shared
    makers: dict[str, Callable[[Reservation], Maker]] = {
        "rollout": lambda places: rollout_maker(cfg, inputs, weights, places, logs),
        "teacher": lambda places: teacher_maker(cfg, inputs, weights, places, logs),
        "learner": lambda places: learner_maker(cfg, inputs, weights, places, logs, plan=stages.plan),
    }
    return {role: makers[role](places) for role, places in reservations.items()}


def _faults_of(role: str, cfg: RunConfig) -> FaultsConfig:
    """The deadlines of a role: teachers on a CPU run at the lowest priority, beside sampling in asynchronous runs."""
    if role == "teacher" and cfg.cluster.teacher.device == "cpu" and cfg.max_staleness:
        return replace(cfg.faults, hang_s=STARVED * cfg.faults.hang_s)
    return cfg.faults


def _replace_lost(cfg: RunConfig, roles: Roles, weights: WeightPlan, tell: Tell) -> None:
    """Has lost rollout and teacher workers replaced, if their weights are pulled: see `recovery.py`."""
    budget = RestartBudget(cfg.faults.max_restarts)
    pools = {"rollout": roles.rollouts, "teacher": roles.teacher}
    for role, pool in pools.items():
        is_pushed = role == "rollout" and weights.student_channel.reach.gpu_to_gpu
        if isinstance(pool, RolloutPool | TeacherPool) and not is_pushed:
            learner = roles.learner
            unchanged = roles.trained if isinstance(roles.trained, LearnerInTurns) else learner.unchanged
            places, free = roles.reservations[role], None
            if isinstance(places, ElasticReservation):
                places.ask_for_most()
                free = places.renew
            group, make = roles.groups[role], roles.makers[role]
            replace_lost(group, make, pool, unchanged, learner.publishable, budget, tell, free)
    # In turns all payloads lie on the driver's own node, whose loss nothing survives.
    if isinstance(roles.teacher, TeacherPool) and roles.turns is None:
        score_lost_again(roles.learner, roles.teacher, roles.groups["teacher"], tell)


def _wire(
    cfg: RunConfig,
    inputs: RunInputs,
    folder: RunFolder,
    groups: dict[str, WorkerGroup],
    makers: dict[str, Maker],
    learner: LearnerGroup,
    weights: WeightPlan,
    channel: WeightChannel,
    reservations: dict[str, Reservation],
    counting: Counting,
    turns: Turns | None,
) -> Roles:
    rollouts = make_pool(groups["rollout"], channel, ordered=cfg.deterministic) if "rollout" in groups else None
    evaluator: Evaluator = NoEvaluation()
    harness: Evaluator = NoEvaluation()
    sampler: Completions = GivenCompletions()
    check: WakeCheck | None = None
    if rollouts is not None:
        evaluator = make_evaluator(cfg, inputs, folder, rollouts, counting)
        harness = make_harness(cfg, inputs, folder, rollouts, counting)
        sampler = rollouts
        if turns is not None:
            row, max_len = inputs.guard_rows[0], inputs.max_model_len
            check = WakeCheck(turns, rollouts, learner, row, cfg=cfg, max_model_len=max_len)
            evaluator, harness = EvaluatorInTurns(evaluator, check), EvaluatorInTurns(harness, check)
            sampler = CompletionsInTurns(rollouts, check)
    return Roles(
        completions=_completions(cfg, inputs, folder, sampler),
        teacher=TeacherPool(groups["teacher"], channel, weights) if "teacher" in groups else TokenTarget(),
        learner=learner,
        trained=learner if turns is None else LearnerInTurns(learner, turns, check),
        evaluator=evaluator,
        harness=harness,
        rollouts=rollouts,
        channel=channel,
        groups=groups,
        makers=makers,
        reservations=reservations,
        turns=turns,
    )


def _completions(cfg: RunConfig, inputs: RunInputs, folder: RunFolder, sampler: Completions) -> Completions:
    """Whose completions are trained on; `sampler` is the rollout workers, or `GivenCompletions` without any."""
    if isinstance(sampler, GivenCompletions):
        return sampler
    recorded = partial(
        RecordedCompletions,
        sampler,
        folder.path,
        inputs.decode(keep_special=True),
        resumes=cfg.resume != NEVER,
        together=cfg.deterministic,
    )
    if cfg.method.completion is CompletionSource.TEACHER:
        return recorded()
    completions: Completions = GivenCompletions()
    if cfg.method.completion is CompletionSource.STUDENT:
        together = cfg.cluster.scores_on_sampling_cores(os.cpu_count() or 1)
        completions = CompletedTogether(sampler) if together else sampler
    if not cfg.data.rehearsal.is_on or cfg.method.rehearses_on_policy:
        return completions
    return RehearsedCompletions(completions, recorded())


async def _start(role: str, group: WorkerGroup, learner: LearnerGroup, phase: Phase) -> None:
    with phase(f"starting {group.size} {role} worker{'s' if group.size > 1 else ''}"):
        if role == "learner":
            await learner.start()
        else:
            await start_workers(group)
