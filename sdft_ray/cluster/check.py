"""mode=check_teacher from beginning to end: rollout workers with the model as it is, asked about some of the data."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sdft_ray.cluster.model_inputs import decoder, find_model, make_builder
from sdft_ray.cluster.rollouts import ROLE, rollout_workers_only
from sdft_ray.cluster.run_folder import CHECK_FILE, RunFolder, open_run_folder
from sdft_ray.cluster.session import RaySession
from sdft_ray.cluster.termination import Termination
from sdft_ray.config import (
    NEVER,
    CheckConfig,
    DemonstrationSource,
    Match,
    Retriever,
    RunConfig,
    TeacherConfig,
    TeacherContext,
)
from sdft_ray.config.saved import plain_settings
from sdft_ray.data.pool import open_pool
from sdft_ray.data.prompts import PromptBuilder
from sdft_ray.data.readers import Place, Selection
from sdft_ray.data.reasoning import BehindMark
from sdft_ray.data.rows import RowRules
from sdft_ray.data.sources import Loaded, load_rows
from sdft_ray.data.teacher_template import TEMPLATES, check_template
from sdft_ray.errors import ConfigError, DataError
from sdft_ray.evaluation.teacher_check.advice import Current
from sdft_ray.evaluation.teacher_check.measure import Asking, compare_prompts
from sdft_ray.evaluation.teacher_check.next_command import next_command
from sdft_ray.evaluation.teacher_check.report import TeacherReport
from sdft_ray.evaluation.teacher_check.sample import CheckSample, PoolSource, draw_sample
from sdft_ray.evaluation.teacher_check.verdict import judge
from sdft_ray.examples import Example
from sdft_ray.models.folder import load_tokenizer
from sdft_ray.models.resolve import ModelFacts, check_model
from sdft_ray.tracking.console import ConsoleSink
from sdft_ray.tracking.faults import say_faults


@dataclass(frozen=True, slots=True)
class CheckInputs:
    """What a check is made from."""

    model_path: str
    tokenizer: Any
    facts: ModelFacts
    sample: CheckSample
    notes: tuple[str, ...]  # what the user should know before the model is asked

    @property
    def max_model_len(self) -> int:
        """The longest sequence that a rollout worker will see, plus one."""
        return self.sample.max_model_len


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
        with console, RaySession(cfg.cluster, [ROLE]) as session:
            Termination().listen()
            if session.warning:
                console.say(session.warning)
            self._introduce(console)
            asking = Asking(
                match=_match(cfg),
                max_new_tokens=_max_new_tokens(cfg),
                eos_token_ids=frozenset(inputs.facts.eos_token_ids),
                decode=decoder(inputs.tokenizer, keep_special=False),
                answer_start=BehindMark(cfg.answer_mark, decoder(inputs.tokenizer, keep_special=True)),
            )
            tell = say_faults(console.say)
            async with rollout_workers_only(cfg, inputs, str(self.folder.logs), console.phase, tell) as model:
                self.folder.begin(self._settings)
                comparison = await compare_prompts(model, inputs.sample, asking, console.phase)
        verdict = judge(comparison, seed=cfg.seed)
        now = Current(template=cfg.teacher.template, max_new_tokens=_max_new_tokens(cfg))
        command = ""
        if self._overrides is not None:
            command = next_command(comparison, verdict, now, match=_match(cfg), given=self._overrides)
        report = TeacherReport(
            model=cfg.model.path,
            source=cfg.data.source,
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


def read_check_inputs(cfg: RunConfig) -> CheckInputs:
    """Reads and checks model, data and templates.

    Raises:
        ConfigError, DataError, ModelError: with the key, the value and the remedy.
    """
    own = replace(cfg.teacher, demonstrations=DemonstrationSource.OWN)  # the pool's are compared with these
    templates, left_out = templates_to_check(cfg.check, own)
    notes = [f"a built-in template is left out: {reason}" for reason in left_out]
    model_path = find_model(cfg)
    tokenizer = load_tokenizer(model_path, cfg.model.chat_template)
    builder, facts, more = make_builder(cfg, tokenizer, check_model(model_path, tokenizer))
    data = cfg.data
    builder.check_system("data.system", data.system)
    builder.check_mark("evaluation.skip_until", cfg.answer_mark)
    required = ("prompt",) if cfg.teacher.shows_pool else ("prompt", "demonstration")
    rules = RowRules(columns=data.columns, system=data.system, required=required)
    loaded = load_rows(data.source, Selection.of(data, data.num_examples), rules, data.on_bad_row)
    notes += [*more, *loaded.notes("data.num_examples", data.num_examples)]

    def builders(teacher: TeacherConfig) -> dict[str, PromptBuilder]:
        made = [(name, replace(cfg, teacher=replace(teacher, template=name))) for name in templates]
        return {name: make_builder(own_cfg, tokenizer, facts)[0] for name, own_cfg in made}

    pools = _pools(cfg, loaded.examples, builders, notes)
    examples, places = _with_demonstrations(loaded, notes)
    if _match(cfg) is Match.JUDGE:
        examples = [replace(example, answer="") for example in examples]
        notes.append(
            "check.match=JUDGE: no judge is asked, so answers are not scored; set check.match to score by rule"
        )
    sample = draw_sample(
        examples,
        builders(own),
        num_examples=cfg.check.num_examples,
        data=data,
        context=cfg.teacher.context,
        match=_match(cfg),
        max_new_tokens=_max_new_tokens(cfg),
        context_length=facts.context_length,
        seed=cfg.seed,
        places=places,
        pools=pools,
    )
    return CheckInputs(model_path, tokenizer, facts, sample, tuple(notes))


def _with_demonstrations(loaded: Loaded, notes: list[str]) -> tuple[list[Example], list[Place]]:
    """The rows that have a demonstration of their own, which others are compared with, and their places.

    Raises:
        DataError: no row has one.
    """
    rows = [row for row in zip(loaded.examples, loaded.places, strict=True) if row[0].demonstration.strip()]
    if not rows:
        problem = "no row has a demonstration of its own, which the check compares those of the pool with"
        raise DataError(*loaded.places[0], problem, "give a few dozen rows theirs")
    if num_bare := len(loaded.examples) - len(rows):
        notes.append(f"{num_bare} rows without a demonstration of their own are not asked")
    return [example for example, _ in rows], [place for _, place in rows]


def _pools(
    cfg: RunConfig,
    examples: Sequence[Example],
    builders: Callable[[TeacherConfig], Mapping[str, PromptBuilder]],
    notes: list[str],
) -> dict[str, PoolSource]:
    """The pool under every retriever; none where the teacher is shown no demonstration.

    Raises:
        ConfigError, DataError: the pool that a run would ask cannot be used; another one is left out with a note.
    """
    if cfg.teacher.context not in (TeacherContext.DEMONSTRATION, TeacherContext.TEXT_AND_DEMONSTRATION):
        return {}
    teacher = replace(cfg.teacher, demonstrations=DemonstrationSource.POOL)
    pools = {}
    try:
        for retriever in Retriever:
            settings = replace(teacher.pool, retriever=retriever)
            pool = open_pool(settings, cfg.data, training=examples, fields=["demonstration"])
            pools[retriever.name] = PoolSource(pool, builders(teacher))
    except ConfigError as error:
        if cfg.teacher.shows_pool or cfg.teacher.pool.source:
            raise
        notes.append(f"the pool is left out: {error}")
        return {}
    return pools


def templates_to_check(check: CheckConfig, teacher: TeacherConfig) -> tuple[list[str], tuple[str, ...]]:
    """The templates to compare, and why built-in ones that nobody asked for are left out.

    Raises:
        ConfigError: a template that was asked for cannot be used.
    """
    if check.templates:
        for template in check.templates:
            check_template(replace(teacher, template=template), "check.templates")
        return list(dict.fromkeys(check.templates)), ()
    check_template(teacher, "teacher.template")
    chosen, left_out = [], []
    for template in dict.fromkeys([teacher.template, *TEMPLATES]):
        try:
            check_template(replace(teacher, template=template), "teacher.template")
        except ConfigError as error:  # not teacher.template itself: that was checked above
            left_out.append(str(error))
        else:
            chosen.append(template)
    return chosen, tuple(left_out)


def _match(cfg: RunConfig) -> Match:
    return cfg.evaluation.match if cfg.check.match is None else cfg.check.match


def _max_new_tokens(cfg: RunConfig) -> int:
    return cfg.evaluation.max_new_tokens if cfg.check.max_new_tokens is None else cfg.check.max_new_tokens


def _refuse_what_is_not_asked(cfg: RunConfig) -> None:
    mode = "mode=check_teacher asks"
    if cfg.teacher.context is TeacherContext.NONE:
        remedy = "set teacher.context=DEMONSTRATION, TEXT or TEXT_AND_DEMONSTRATION"
        raise ConfigError("teacher.context", "NONE", "shows the teacher nothing, so there is nothing to check", remedy)
    if cfg.data.mix:
        remedy = "check them one after the other: data=jsonl data.source=FILE"
        raise ConfigError("data.mix", ", ".join(cfg.data.mix), f"{mode} about one source", remedy)
    if cfg.teacher.path:
        problem = f"names another model than the student, but {mode} model.path under both prompts"
        remedy = f"check it with model.path={cfg.teacher.path} and teacher.path=''"
        raise ConfigError("teacher.path", cfg.teacher.path, problem, remedy)
    if cfg.resume != NEVER:
        problem = f"{mode} the model of model.path as it is"
        raise ConfigError("resume", cfg.resume, problem, "set resume=never, and model.path to an exported model")
