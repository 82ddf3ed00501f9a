"""The training of one stage: the loop with everything that watches it, and why it came to an end."""

import asyncio
from collections.abc import Callable

from sdft_ray.cluster.recovery import watching
from sdft_ray.cluster.stages import Stage
from sdft_ray.cluster.termination import Termination
from sdft_ray.cluster.topology import Roles
from sdft_ray.cluster.tracing import Tracer
from sdft_ray.errors import AlarmError, ClusterError, WeightVersionError, WorkerError
from sdft_ray.loop import LoopConfig, Stopped, train
from sdft_ray.tracking.ray_metrics import RayMetrics
from sdft_ray.tracking.tracker import RunTracker


class StageTraining:
    """Trains stage after stage with the same roles."""

    def __init__(
        self,
        roles: Roles,
        tracker: RunTracker,
        *,
        num_steps: int,
        termination: Termination,
        alarm: Callable[[], str],
        tracer: Tracer,
        gauges: RayMetrics,
        say: Callable[[str], None],
    ):
        """Trains nothing yet.

        Args:
            roles: which train.
            tracker: is told of every step.
            num_steps: of all stages.
            termination: whether SIGTERM has asked for an end.
            alarm: why an alarm asks for an end; "" while none does.
            tracer: traces steps that are to be traced.
            gauges: show what workers answer when they are asked whether they are there.
            say: tells the user behind which step training has stopped.
        """
        self._roles, self._tracker = roles, tracker
        self._num_steps = num_steps
        self._termination, self._alarm = termination, alarm
        self._tracer, self._gauges = tracer, gauges
        self._say = say

    async def run(self, stage: Stage) -> BaseExceptionGroup | None:
        """Trains to the stage's end. Returns what the loop has ended with where workers have failed, else None.

        Raises:
            CancelledError: SIGTERM has asked for an end behind the step.
            AlarmError: an alarm has.
        """
        failures: BaseExceptionGroup | None = None
        try:
            with self._termination.while_training():
                await self._train(stage)
        except* Stopped:
            pass  # why it was, is looked at below: behind its last step a loop ends by itself
        except* (WorkerError, ClusterError, WeightVersionError) as failed:
            failures = failed
        if failures is None:
            self._end_where_asked()
        return failures

    async def _train(self, stage: Stage) -> None:
        roles = self._roles
        cfg = LoopConfig(
            num_steps=stage.last_step,
            first_step=stage.first_step,
            batch_size=stage.cfg.batch_size,
            max_staleness=stage.cfg.max_staleness,
            evaluate_every=stage.cfg.evaluation.every,
            checkpoint_every=stage.cfg.checkpoint_every,
        )
        watched = [group.watch(self._gauges.set_workers) for group in roles.groups.values()]
        traced = self._tracer.around(roles.groups, roles.learner.weight_version, cfg.batch_size)
        async with watching(watched), traced:
            await train(
                cfg,
                examples=stage.inputs.examples,
                completions=roles.completions,
                teacher=roles.teacher,
                learner=roles.trained,
                evaluator=roles.evaluator,
                tracker=self._tracker,
                is_asked_to_stop=lambda: self._termination.is_asked or bool(self._alarm()),
            )

    def _end_where_asked(self) -> None:
        """Ends the run behind a step where SIGTERM or an alarm asks; SIGTERM behind the last step asks for nothing."""
        is_terminated = self._termination.is_asked and self._roles.learner.weight_version < self._num_steps
        if is_terminated or self._alarm():
            self._say_stopped()
        if is_terminated:
            raise asyncio.CancelledError
        if self._alarm():
            raise AlarmError(
                f"{self._alarm()}. tracking.alarms.stop=true ends the run there; mend what it says, and go on with "
                "resume=auto, or from an earlier checkpoint with resume=PATH."
            )

    def _say_stopped(self) -> None:
        learner = self._roles.learner
        version, saved = learner.weight_version, learner.checkpoints.saved_version
        there = (
            "with a checkpoint of it" if saved == version else f"but its checkpoint was not saved, only step {saved}'s"
        )
        self._say(f"stopped        behind step {version}, {there}")
