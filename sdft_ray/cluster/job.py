"""One run from beginning to end: read, start, evaluate, train, evaluate, save."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing

from sdft_ray.cluster.exporting import export_student
from sdft_ray.cluster.guards import check_engines
from sdft_ray.cluster.learner_recovery import LearnerRecovery
from sdft_ray.cluster.preflight import Line, look, refuse_failed
from sdft_ray.cluster.probes import check_resumable
from sdft_ray.cluster.recovery import watching
from sdft_ray.cluster.resuming import go_on_from, make_saving_plan, what_differs
from sdft_ray.cluster.run_folder import RunFolder, open_run_folder
from sdft_ray.cluster.run_records import RunRecords
from sdft_ray.cluster.session import RaySession, job_metadata
from sdft_ray.cluster.sinks import log_model, other_sinks
from sdft_ray.cluster.stages import Stage, Stages
from sdft_ray.cluster.status import StatusWriter
from sdft_ray.cluster.termination import Termination
from sdft_ray.cluster.topology import Roles, start_roles
from sdft_ray.cluster.tracing import Tracer
from sdft_ray.config import RunConfig, Target
from sdft_ray.config.saved import plain_settings
from sdft_ray.errors import AlarmError, ClusterError, NonFiniteError, RayLostError, WeightVersionError, WorkerError
from sdft_ray.evaluation.judge import unscored_note
from sdft_ray.learner.group import LearnerGroup
from sdft_ray.loop import LoopConfig, Stopped, train
from sdft_ray.outcome import first_cause
from sdft_ray.records import WorkerStatus
from sdft_ray.report.model_card import write_model_card
from sdft_ray.tensors import release_freed_memory
from sdft_ray.tracking.console import ConsoleSink
from sdft_ray.tracking.faults import FaultLog
from sdft_ray.tracking.metrics import is_evaluation
from sdft_ray.tracking.ray_metrics import RayMetrics
from sdft_ray.tracking.summary import Summary, write_summary
from sdft_ray.tracking.tracker import RunTracker


class Job:
    """A run and what it has opened so far."""

    def __init__(self, configs: Sequence[tuple[str, RunConfig]]):
        """Reads model and data and makes the run folder; starts nothing.

        Args:
            configs: name and checked settings of every stage; "" is the name of the only one of a run without stages.
        """
        self._started = time.monotonic()
        self._settings = plain_settings(configs[0][1])  # for config.yaml
        self._stages = Stages(configs)
        self._cfg, self.inputs = self._stages.shared
        self.folder: RunFolder = open_run_folder(self._cfg)
        with ExitStack() as on_failure:
            on_failure.push(self.folder)
            check_resumable(self.inputs.probes, self.folder)
            self.console = ConsoleSink(self.inputs.num_steps)
            self._saving = make_saving_plan(self._stages, self.folder, self.console.say)
            go_on_from(self.folder, self._stages, self._saving)
            self._differences = what_differs(self.folder, self._cfg, self._settings)
            on_failure.pop_all()
        self._setup_s, self._said_unscored = 0.0, False
        self._alarm: Callable[[], str] = lambda: ""  # what ends the run behind its step
        self._faults = FaultLog(self.console.say)
        self._learner_recovery = LearnerRecovery(self._cfg, self.folder, self.console, self._faults.tell)
        self._gauges = RayMetrics(self.folder.path.name)
        self._tracer = Tracer(self._cfg.tracking.trace_steps, self.folder.path, self.console)
        self._status = StatusWriter(self.folder, self._stages, self.console.going_on)
        can_go_on = self._cfg.checkpoint_every > 0
        self._termination = Termination(self._cfg.faults.grace_s if can_go_on else 0.0, self.console.say)

    async def run(self) -> None:
        """Trains, and leaves no process behind however it ends.

        Raises:
            CancelledError: on SIGTERM, which a scheduler sends before it kills.
        """
        metadata = job_metadata(self.folder.path, self._cfg, [stage.name for stage in self._stages])
        in_ray = RaySession(self._cfg.cluster, self._cfg.needed_roles(), metadata)
        with self.console, in_ray as session, self._status:
            self._termination.listen()
            self._introduce(session.dashboard)
            if session.warning:
                self.console.say(session.warning)
            if self._cfg.preflight:
                self._look_first(lambda line: bool(line.problem))
            phase, counting, tell = self.console.phase, self.console.counting, self._faults.tell
            async with watching([session.watch()]):
                roles = await start_roles(self._stages, self.folder, self._saving, phase, counting, tell)
            try:
                release_freed_memory()  # what reading model and data took
                async with watching([session.watch(), *(each.watch() for each in roles.elasticity)]):
                    summary, statuses = await self._run(roles)
            except* RayLostError:
                if session.has_workers:
                    await self._learner_recovery.save_in_time(self._stages.at(roles.learner.weight_version), roles)
                raise
            finally:
                roles.close()
                self._faults.close()
            wall_s = time.monotonic() - self._started
            result = summary.build(wall_s=wall_s, setup_s=self._setup_s, statuses=statuses)
            result["best_checkpoint"] = self._saving.best.summary(self.folder.checkpoints)
            stages = [(stage.name, stage.cfg) for stage in self._stages]
            write_model_card(self.folder.model, stages, self.inputs.num_steps, result)
            write_summary(self.folder.path, result)
            if (best := result["best_checkpoint"]) is not None:
                self.console.say(f"best           {best['folder']}: {best['metric']} {best['value']:.4g}")
            self.console.show_summary(result, str(self.folder.path))

    def _look_first(self, is_shown: Callable[[Line], bool]) -> list[Line]:
        """What can be looked at before workers start, printed where `is_shown`; refuses what is wrong."""
        lines = look(self._stages, self.folder.path)
        for line in filter(is_shown, lines):
            self.console.say(str(line))
        refuse_failed(lines)
        return lines

    async def _run(self, roles: Roles) -> tuple[Summary, list[WorkerStatus]]:
        """From the checks of the roles to the export; once they have passed the folder is this run's."""
        for note in await roles.notes():
            self.console.say(f"checked        {note}")
        await roles.record_completions(self._stages, self.console.phase, self.console.say)
        await self._resume(roles)
        await self._check_engines(roles)
        roles.forget_metrics()
        self.folder.begin(self._settings)
        self._status.begin(roles)
        decode, resumed_step = self.inputs.decode(keep_special=True), self.folder.resumed_step
        alarms, best = self._cfg.tracking.alarms, self._saving.best
        records = RunRecords(self.folder.path, decode, resumed_step, alarms=alarms, best=best, console=self.console)
        self._alarm = lambda: records.alarms.reason_to_stop
        others = other_sinks(self._stages, self._settings, self.folder, decode, self.console.say)
        with closing(records), RunTracker([*records.sinks, self._gauges, *others]) as tracker:
            self._faults.open(
                self.folder.path, lambda: roles.learner.weight_version, resumes=self.folder.resumed is not None
            )
            tracker.add_source(roles.channel.take_metrics)
            tracker.add_source(roles.learner.checkpoints.take_metrics)
            tracker.add_source(self._faults.take_metrics)
            tracker.add_source(lambda: self._bounds(roles.learner.weight_version))
            if roles.turns is not None:
                tracker.add_source(roles.turns.take_metrics)
            tracker.add_watcher(records.alarms.watch)
            tracker.add_watcher(self._tracer.watch)
            tracker.start_clock(records.lines.elapsed_s)
            try:
                await self._train(roles, tracker, records)
                log_model(others, self.folder.model)
            except* NonFiniteError as errors:
                error = first_cause(errors)
                assert isinstance(error, NonFiniteError)
                raise error.adding(records.lines.write_bad_samples(error)) from error
            return records.summary, await roles.status()

    def _bounds(self, version: int) -> dict[str, float]:
        """What alerts hold a step against."""
        bound, steps_left = self._cfg.max_staleness, self.inputs.num_steps - version
        return {"loop/staleness_bound": float(bound), "loop/steps_left": float(steps_left)}

    def _introduce(self, dashboard: str) -> None:
        cfg, inputs = self._cfg, self.inputs
        target = f"target {cfg.method.target.name}"
        if cfg.method.target is Target.TEACHER:
            target = f"{cfg.loss.divergence.name} to a teacher with {cfg.teacher.weights.name} weights"
        self.console.say(
            f"{cfg.method.name}: {inputs.num_steps} steps of {cfg.batch_size} samples, {cfg.model.path} on "
            f"{cfg.cluster.name}, {target}"
        )
        if cfg.cluster.num_gpus:
            self.console.say(
                f"precision      {cfg.model.dtype.name} in rollout and teacher workers, {cfg.learner.precision.name} "
                "in the learner, whose masters are FLOAT32"
            )
        for stage in self._stages:
            if stage.name:
                self.console.say(f"stage          {stage.name}: steps {stage.first_step + 1} to {stage.last_step}")
        if cfg.note:
            self.console.say(cfg.note)
        for note in inputs.notes:
            self.console.say(note)
        for damage in self.folder.damages:
            self.console.say(f"damaged        {damage}; its checkpoint is passed over")
        for difference in self._differences:
            self.console.say(f"resumed with   {difference}")
        self.console.say(f"run folder     {self.folder.path}")
        if self.folder.begins_again:
            self.console.say("no checkpoint  beginning again at step 0; what was written before moves to earlier/")
        if dashboard:
            self.console.say(f"Ray dashboard  {dashboard}  (its token: ray get-auth-token)")

    async def _resume(self, roles: Roles) -> None:
        if self.folder.resumed is None:
            return
        await roles.learner.resume(self.folder.resumed)
        version = roles.learner.weight_version
        await asyncio.gather(roles.completions.load_weights(version), roles.teacher.load_weights(version))
        self.console.say(f"resumed        {self.folder.resumed}")

    async def _check_engines(self, roles: Roles) -> None:
        if roles.rollouts is None:
            return
        with self.console.phase("comparing the rollout engines with the learner"):
            await check_engines(
                roles.rollouts,
                roles.learner,
                self.inputs.guard_rows,
                cfg=self._cfg,
                max_model_len=self.inputs.max_model_len,
                say=self.console.say,
            )

    async def _train(self, roles: Roles, tracker: RunTracker, records: RunRecords) -> None:
        if roles.learner.weight_version == 0:
            await self._evaluate(roles, tracker)
        self._setup_s = time.monotonic() - self._started
        for stage in self._stages:
            records.begin_stage(stage.name)
            if roles.learner.weight_version <= stage.last_step:  # evaluated again where a resumed run stands at its end
                while (failures := await self._train_stage(stage, roles, tracker)) is not None:
                    await self._learner_recovery.restore(failures, stage, roles)
                    records.go_back_to(roles.learner.weight_version, stage.name)
                await self._evaluate(roles, tracker)
        await export_student(roles.learner, self.folder, self._cfg, self.inputs, self.console.phase, self.console.say)

    async def _train_stage(self, stage: Stage, roles: Roles, tracker: RunTracker) -> BaseExceptionGroup | None:
        """Runs the loop; returns what it has ended with where workers have failed, None at the stage's end."""
        failures: BaseExceptionGroup | None = None
        cfg = LoopConfig(
            num_steps=stage.last_step,
            first_step=stage.first_step,
            batch_size=stage.cfg.batch_size,
            max_staleness=stage.cfg.max_staleness,
            evaluate_every=stage.cfg.evaluation.every,
            checkpoint_every=stage.cfg.checkpoint_every,
        )
        try:
            with self._termination.while_training():
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
                        tracker=tracker,
                        is_asked_to_stop=lambda: self._termination.is_asked or bool(self._alarm()),
                    )
        except* Stopped:
            pass  # why it was, is looked at below: behind its last step a loop ends by itself
        except* (WorkerError, ClusterError, WeightVersionError) as failed:
            failures = failed
        if failures is None:
            self._end_where_asked(roles.learner)
        return failures

    def _end_where_asked(self, learner: LearnerGroup) -> None:
        """Ends the run behind a step where SIGTERM or an alarm asks; SIGTERM behind the last step asks for nothing."""
        is_terminated = self._termination.is_asked and learner.weight_version < self.inputs.num_steps
        if is_terminated or self._alarm():
            self._say_stopped(learner)
        if is_terminated:
            raise asyncio.CancelledError
        if self._alarm():
            raise AlarmError(
                f"{self._alarm()}. tracking.alarms.stop=true ends the run there; mend what it says, and go on with "
                "resume=auto, or from an earlier checkpoint with resume=PATH."
            )

    def _say_stopped(self, learner: LearnerGroup) -> None:
        version, saved = learner.weight_version, learner.checkpoints.saved_version
        there = (
            "with a checkpoint of it" if saved == version else f"but its checkpoint was not saved, only step {saved}'s"
        )
        self.console.say(f"stopped        behind step {version}, {there}")

    async def _evaluate(self, roles: Roles, tracker: RunTracker) -> None:
        version = roles.learner.weight_version
        if version == self.folder.resumed_step and self._is_evaluated():
            return
        metrics = await roles.evaluator.evaluate(version)
        metrics |= await roles.harness.evaluate(version) if self._cfg.harness.tasks else {}
        if (note := unscored_note(metrics)) and not self._said_unscored:
            self._said_unscored = True
            self.console.say(note)
        if metrics:
            tracker.log_evaluation(version, metrics)

    def _is_evaluated(self) -> bool:
        """True when the run has measured all of the resumed weights before it was stopped, the harness included."""
        evaluated = self.folder.evaluated()
        has_harness = any(key.startswith("harness/") for key in evaluated)
        return is_evaluation(evaluated) and (has_harness or not self._cfg.harness.tasks)
