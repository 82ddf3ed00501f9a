"""One run from beginning to end: read, start, evaluate, train, evaluate, save."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing

from sdft_ray.cluster.exporting import export_student
from sdft_ray.cluster.guards import check_engines
from sdft_ray.cluster.introduction import introduction
from sdft_ray.cluster.learner_recovery import LearnerRecovery
from sdft_ray.cluster.preflight import Line, look, refuse_failed
from sdft_ray.cluster.probes import check_resumable
from sdft_ray.cluster.recovery import watching
from sdft_ray.cluster.resuming import go_on_from, make_saving_plan, what_differs
from sdft_ray.cluster.run_folder import RunFolder, open_run_folder
from sdft_ray.cluster.run_records import RunRecords
from sdft_ray.cluster.session import RaySession, job_metadata
from sdft_ray.cluster.sinks import log_model, other_sinks
from sdft_ray.cluster.stage_training import StageTraining
from sdft_ray.cluster.stages import Stages
from sdft_ray.cluster.status import StatusWriter
from sdft_ray.cluster.termination import Termination
from sdft_ray.cluster.topology import Roles, start_roles
from sdft_ray.cluster.tracing import Tracer
from sdft_ray.config import RunConfig
from sdft_ray.config.saved import plain_settings
from sdft_ray.errors import NonFiniteError, RayLostError
from sdft_ray.evaluation.judge import unscored_note
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
        for line in introduction(self._stages, self.folder, self._differences, dashboard):
            self.console.say(line)

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
        training = StageTraining(
            roles,
            tracker,
            num_steps=self.inputs.num_steps,
            termination=self._termination,
            alarm=lambda: records.alarms.reason_to_stop,
            tracer=self._tracer,
            gauges=self._gauges,
            say=self.console.say,
        )
        for stage in self._stages:
            records.begin_stage(stage.name)
            if roles.learner.weight_version <= stage.last_step:  # evaluated again where a resumed run stands at its end
                while (failures := await training.run(stage)) is not None:
                    await self._learner_recovery.restore(failures, stage, roles)
                    records.go_back_to(roles.learner.weight_version, stage.name)
                await self._evaluate(roles, tracker)
        await export_student(roles.learner, self.folder, self._cfg, self.inputs, self.console.phase, self.console.say)

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
