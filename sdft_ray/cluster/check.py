"""mode=check_teacher from beginning to end: rollout workers with the model as it is, asked about some of the data."""

import json
from collections.abc import Sequence
from dataclasses import replace

from sdft_ray.cluster.check_inputs import match_of, max_new_tokens_of, read_check_inputs
from sdft_ray.cluster.model_inputs import decoder
from sdft_ray.cluster.rollouts import ROLE, rollout_workers_only
from sdft_ray.cluster.run_folder import CHECK_FILE, RunFolder, open_run_folder
from sdft_ray.cluster.session import RaySession, job_metadata
from sdft_ray.cluster.termination import Termination
from sdft_ray.config import NEVER, RunConfig, TeacherContext
from sdft_ray.config.saved import plain_settings
from sdft_ray.data.reasoning import BehindMark
from sdft_ray.errors import ConfigError
from sdft_ray.evaluation.teacher_check.advice import Current
from sdft_ray.evaluation.teacher_check.measure import Asking, compare_prompts
from sdft_ray.evaluation.teacher_check.next_command import next_command
from sdft_ray.evaluation.teacher_check.report import TeacherReport
from sdft_ray.evaluation.teacher_check.verdict import judge
from sdft_ray.tracking.console import ConsoleSink
from sdft_ray.tracking.faults import say_faults


class TeacherCheck:
    """A check and what it has opened so far."""

    def __init__(self, cfg: RunConfig, overrides: Sequence[str] | None):
        """Reads model and data and makes the run folder; starts nothing.

        Args:
            cfg: the checked settings.
            overrides: of the command, which the command to run next is made from; None proposes none.

        Raises:
            ConfigError, DataError, ModelError: with the key, the value and the remedy.
        """
        _refuse_what_is_not_asked(cfg)
        # Divergences are those of the distributions themselves, whatever the run samples with.
        self._overrides = overrides
        self.cfg = replace(cfg, rollout=replace(cfg.rollout, temperature=1.0))
        self.inputs = read_check_inputs(cfg)
        self.folder: RunFolder = open_run_folder(cfg)
        self._settings = plain_settings(cfg)

    async def run(self) -> None:
        """Asks, prints the verdict and writes check_teacher.json; leaves no process behind however it ends.

        Raises:
            CancelledError: on SIGTERM, which a scheduler sends before it kills.
        """
        cfg, inputs = self.cfg, self.inputs
        console = ConsoleSink(num_steps=0)
        with console:
            async with RaySession(cfg.cluster, [ROLE], job_metadata(self.folder.path, cfg)).watched() as session:
                Termination().listen()
                if session.warning:
                    console.say(session.warning)
                self._introduce(console)
                asking = Asking(
                    match=match_of(cfg),
                    max_new_tokens=max_new_tokens_of(cfg),
                    eos_token_ids=frozenset(inputs.facts.eos_token_ids),
                    decode=decoder(inputs.tokenizer, keep_special=False),
                    answer_start=BehindMark(cfg.answer_mark, decoder(inputs.tokenizer, keep_special=True)),
                )
                tell = say_faults(console.say)
                async with rollout_workers_only(cfg, inputs, str(self.folder.logs), console.phase, tell) as model:
                    self.folder.begin(self._settings)
                    comparison = await compare_prompts(model, inputs.sample, asking, console.phase)
        verdict = judge(comparison, seed=cfg.seed)
        now = Current(template=cfg.teacher.template, max_new_tokens=max_new_tokens_of(cfg))
        command = ""
        if self._overrides is not None:
            command = next_command(comparison, verdict, now, match=match_of(cfg), given=self._overrides)
        report = TeacherReport(
            model=cfg.model.path,
            source=cfg.data.origin,
            seed=cfg.seed,
            comparison=comparison,
            verdict=verdict,
            now=now,
            command=command,
        )
        path = self.folder.path / CHECK_FILE
        path.write_text(json.dumps(report.as_dict(), indent=2, ensure_ascii=False, allow_nan=False), encoding="utf-8")
        console.show(report.show)
        console.say(f"written to {path}")

    def _introduce(self, console: ConsoleSink) -> None:
        asked, available = self.cfg.check.num_examples, self.inputs.sample.num_available
        if asked > available:
            console.say(f"check.num_examples={asked}: the data has {available} examples, all are taken")
        for note in self.inputs.notes:
            console.say(note)
        console.say(f"run folder     {self.folder.path}")


def _refuse_what_is_not_asked(cfg: RunConfig) -> None:
    mode = "mode=check_teacher asks"
    if cfg.teacher.context is TeacherContext.NONE:
        remedy = "set teacher.context=DEMONSTRATION, TEXT or TEXT_AND_DEMONSTRATION"
        raise ConfigError("teacher.context", "NONE", "shows the teacher nothing, so there is nothing to check", remedy)
    if cfg.teacher.path:
        problem = f"names another model than the student, but {mode} model.path under both prompts"
        remedy = f"check it with model.path={cfg.teacher.path} and teacher.path=''"
        raise ConfigError("teacher.path", cfg.teacher.path, problem, remedy)
    if cfg.resume != NEVER:
        problem = f"{mode} the model of model.path as it is"
        raise ConfigError("resume", cfg.resume, problem, "set resume=never, and model.path to an exported model")
