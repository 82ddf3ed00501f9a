"""mode=evaluate: what a model can do as it is. Only rollout workers are started; nothing is trained."""

import json
from collections.abc import Mapping
from dataclasses import replace

from sdft_ray.cluster.evaluators import make_evaluator, make_harness
from sdft_ray.cluster.rollouts import ROLE, rollout_workers_only
from sdft_ray.cluster.run_folder import EVALUATION_FILE, RunFolder, open_run_folder
from sdft_ray.cluster.run_inputs import RunInputs, read_inputs
from sdft_ray.cluster.session import RaySession, job_metadata
from sdft_ray.cluster.termination import Termination
from sdft_ray.config import NEVER, RunConfig
from sdft_ray.config.saved import plain_settings
from sdft_ray.errors import ConfigError
from sdft_ray.rollout.pool import RolloutPool
from sdft_ray.tracking.console import ConsoleSink
from sdft_ray.tracking.faults import say_faults
from sdft_ray.tracking.metrics import check_declared
from sdft_ray.tracking.summary import git_commit, package_versions


class EvaluationJob:
    """An evaluation of `model.path` and what it has opened so far."""

    def __init__(self, cfg: RunConfig):
        """Reads model and questions and makes the run folder; starts nothing.

        Args:
            cfg: the checked settings.

        Raises:
            ConfigError: there is nothing to ask, or a run to go on with was named.
        """
        if cfg.resume != NEVER:
            raise ConfigError("resume", cfg.resume, "mode=evaluate begins anew every time", "leave it out")
        if not (cfg.evaluation.sets or cfg.evaluation.prior or cfg.harness.tasks):
            problem = "mode=evaluate has nothing to ask"
            raise ConfigError("evaluation.sets", "{}", problem, "name sets, evaluation.prior or harness.tasks")
        # How far the model has moved, and what its teacher could still add, are questions of a training run.
        self._cfg = replace(cfg, evaluation=replace(cfg.evaluation, general="", num_gap_examples=0))
        self.inputs: RunInputs = read_inputs(self._cfg)
        self.folder: RunFolder = open_run_folder(cfg)
        self._settings = plain_settings(cfg)
        self.console = ConsoleSink(num_steps=0)

    async def run(self) -> None:
        """Asks everything, writes evaluation.json and prints a table; leaves no process behind however it ends."""
        metadata = job_metadata(self.folder.path, self._cfg)
        with self.console:
            async with RaySession(self._cfg.cluster, [ROLE], metadata).watched() as session:
                Termination().listen()
                if session.warning:
                    self.console.say(session.warning)
                self.console.say(f"evaluating {self._cfg.model.path} on {self._cfg.cluster.name}")
                for note in self.inputs.notes:
                    self.console.say(note)
                async with rollout_workers_only(
                    self._cfg, self.inputs, str(self.folder.logs), self.console.phase, say_faults(self.console.say)
                ) as rollouts:
                    self.folder.begin(self._settings)
                    metrics = await self._measure(rollouts)
        self._write(metrics)
        self.console.show_evaluation(metrics, str(self.folder.path))

    async def _measure(self, rollouts: RolloutPool) -> dict[str, float]:
        wiring = (self._cfg, self.inputs, self.folder, rollouts, self.console.counting)
        metrics = await make_evaluator(*wiring).evaluate(0)
        metrics |= await make_harness(*wiring).evaluate(0)
        check_declared(metrics)
        return metrics

    def _write(self, metrics: Mapping[str, float]) -> None:
        result = {
            "model": self._cfg.model.path,
            "metrics": dict(metrics),
            "harness_limit": self._cfg.harness.limit,
            "git_commit": git_commit(),
            "packages": package_versions(),
        }
        (self.folder.path / EVALUATION_FILE).write_text(json.dumps(result, indent=2) + "\n")
