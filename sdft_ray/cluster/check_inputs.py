"""What mode=check_teacher asks about: model, data, templates and pools, read and checked before anything starts."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from sdft_ray.cluster.model_inputs import find_model, make_builder
from sdft_ray.config import (
    CheckConfig,
    DataConfig,
    DemonstrationSource,
    Match,
    PoolConfig,
    Retriever,
    RunConfig,
    TeacherConfig,
    TeacherContext,
)
from sdft_ray.data.pool import Pool, PoolOfEach, open_pool
from sdft_ray.data.prompts import PromptBuilder
from sdft_ray.data.readers import Place, Selection
from sdft_ray.data.rows import ANSWERS, CONTEXT, RowRules
from sdft_ray.data.sources import Loaded, load_rows
from sdft_ray.data.teacher_template import TEMPLATES, check_template
from sdft_ray.data.tokenized import MixPart
from sdft_ray.errors import ConfigError, DataError
from sdft_ray.evaluation.questions import with_called_answer
from sdft_ray.evaluation.teacher_check.sample import CheckSample, PoolSource, draw_sample
from sdft_ray.examples import Example
from sdft_ray.models.folder import load_tokenizer
from sdft_ray.models.resolve import ModelFacts, check_model


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


class _Source(NamedTuple):
    """One source of the data."""

    name: str  # in data.mix; "" of the only one
    weight: float
    data: DataConfig  # its own settings
    loaded: Loaded


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
    notes += more
    builder.check_system("data.system", cfg.data.system)
    builder.check_mark("evaluation.skip_until", cfg.answer_mark)

    def builders(teacher: TeacherConfig) -> dict[str, PromptBuilder]:
        made = [(name, replace(cfg, teacher=replace(teacher, template=name))) for name in templates]
        return {name: make_builder(own_cfg, tokenizer, facts)[0] for name, own_cfg in made}

    own_builders = builders(own)
    sources = _read_sources(cfg, own_builders.values(), notes)
    pools = _pools(cfg, sources, builders, notes)
    asked = [_with_demonstrations(source, notes) for source in sources]
    examples = [with_called_answer(example, match_of(cfg)) for rows in asked for example, _ in rows]
    if match_of(cfg) is Match.JUDGE:
        examples = [replace(example, answer="") for example in examples]
        notes.append(
            "check.match=JUDGE: no judge is asked, so answers are not scored; set check.match to score by rule"
        )
    sample = draw_sample(
        examples,
        own_builders,
        num_examples=cfg.check.num_examples,
        data=cfg.data,
        context=cfg.teacher.context,
        match=match_of(cfg),
        max_new_tokens=max_new_tokens_of(cfg),
        context_length=facts.context_length,
        seed=cfg.seed,
        places=[place for rows in asked for _, place in rows],
        mix=[MixPart(source.name, source.weight, len(rows)) for source, rows in zip(sources, asked, strict=True)],
        pools=pools,
    )
    for name in pools:
        if num_plain := sum(not probe.pools[name].ids for probe in sample.probes):
            notes.append(f"{num_plain} of the rows asked share no word with the pool: {name} shows nothing with them")
    return CheckInputs(model_path, tokenizer, facts, sample, tuple(notes))


def _read_sources(cfg: RunConfig, builders: Iterable[PromptBuilder], notes: list[str]) -> list[_Source]:
    """The sources of the data as a run reads them: one, or those of the mix, whose names then begin their rows' ids.

    Raises:
        ConfigError, DataError: a source does not exist or has a malformed row.
    """
    data = cfg.data
    required = ("prompt",) if cfg.teacher.shows_pool else ("prompt", "demonstration")
    reads = [*ANSWERS, *([CONTEXT] if any(builder.turns.asks_fields for builder in builders) else [])]
    mixed = {name: (data.of_source(source), source.weight) for name, source in data.mix_sources().items()}
    sources = []
    for name, (own, weight) in (mixed or {"": (data, 1.0)}).items():
        key = f"data.mix.{name}" if name else "data"
        rules = RowRules(columns=own.columns, system=own.system, required=required, reads=reads)
        try:
            loaded = load_rows(own.source, Selection.of(own, own.num_examples), rules, own.on_bad_row)
        except (ConfigError, DataError) as error:
            raise (error.of(key, f"{key}.source") if name else error) from error
        notes += loaded.notes(f"{key}.num_examples", own.num_examples)
        if name:
            named = (replace(example, example_id=f"{name}:{example.example_id}") for example in loaded.examples)
            loaded = replace(loaded, examples=tuple(named))
        sources.append(_Source(name, weight, own, loaded))
    return sources


def _with_demonstrations(source: _Source, notes: list[str]) -> list[tuple[Example, Place]]:
    """The rows that have a demonstration of their own, which others are compared with, and their places.

    Raises:
        DataError: no row has one.
    """
    loaded = source.loaded
    rows = [row for row in zip(loaded.examples, loaded.places, strict=True) if row[0].demonstration.strip()]
    if not rows:
        problem = "no row has a demonstration of its own, which the check compares those of the pool with"
        raise DataError(*loaded.places[0], problem, "give a few dozen rows theirs")
    if num_bare := len(loaded.examples) - len(rows):
        whose = f"{source.name}: " if source.name else ""
        notes.append(f"{whose}{num_bare} rows without a demonstration of their own are not asked")
    return rows


def _pools(
    cfg: RunConfig,
    sources: Sequence[_Source],
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
            pool = _pool(replace(teacher.pool, retriever=retriever), cfg.data, sources)
            pools[retriever.name] = PoolSource(pool, builders(teacher))
    except ConfigError as error:
        if cfg.teacher.shows_pool or cfg.teacher.pool.source:
            raise
        notes.append(f"the pool is left out: {error}")
        return {}
    return pools


def _pool(settings: PoolConfig, data: DataConfig, sources: Sequence[_Source]) -> Pool | PoolOfEach:
    """The pool of the settings, or else every source as the pool of its own rows."""
    fields = ["demonstration"]
    if settings.source:
        return open_pool(settings, data, fields=fields)
    own = [open_pool(settings, source.data, training=source.loaded.examples, fields=fields) for source in sources]
    if len(own) == 1:
        return own[0]
    rows = zip(own, sources, strict=True)
    return PoolOfEach({example.example_id: pool for pool, source in rows for example in source.loaded.examples})


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


def match_of(cfg: RunConfig) -> Match:
    """How answers are matched: as an evaluation does, unless check.match says otherwise."""
    return cfg.evaluation.match if cfg.check.match is None else cfg.check.match


def max_new_tokens_of(cfg: RunConfig) -> int:
    """Tokens of the longest completion that is asked for."""
    return cfg.evaluation.max_new_tokens if cfg.check.max_new_tokens is None else cfg.check.max_new_tokens
