"""Everything a run reads before it starts a process: model facts, tokenised examples, evaluation questions.

Done first, so that a wrong path or a malformed row fails within seconds and starts nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from sdft_ray.cluster.model_inputs import decoder, find_model, find_teacher, make_builder
from sdft_ray.cluster.probes import ProbeInputs, read_probes
from sdft_ray.cluster.sequence_lengths import check_counted, longest_sequence, longest_teacher_sequence, uncounted_notes
from sdft_ray.config import Match, RunConfig
from sdft_ray.data.mix import read_examples
from sdft_ray.data.prompts import PromptBuilder
from sdft_ray.data.reasoning import BehindMark
from sdft_ray.data.rehearsal import read_rehearsal
from sdft_ray.data.stream import ExampleStream
from sdft_ray.data.tokenized import TokenizedRow, TokenizedRows
from sdft_ray.evaluation.harness.sources import check_harness
from sdft_ray.evaluation.judge import api_key
from sdft_ray.evaluation.questions import Question, QuestionSet, read_questions
from sdft_ray.examples import GuardRow
from sdft_ray.models.folder import load_tokenizer
from sdft_ray.models.resolve import ModelFacts, check_agreement, check_model

NUM_GUARD_ROWS = 2


class ModelInputs(Protocol):
    """What rollout workers need of a run's or a check's inputs."""

    @property
    def model_path(self) -> str:
        """Local model folder."""
        ...

    @property
    def facts(self) -> ModelFacts:
        """Its vocabulary and end tokens."""
        ...

    @property
    def max_model_len(self) -> int:
        """The longest sequence, plus one."""
        ...


@dataclass(frozen=True, slots=True)
class RunInputs:
    """What a run is made from."""

    model_path: str
    teacher_path: str  # where the teacher's weights begin
    tokenizer: Any
    facts: ModelFacts
    examples: ExampleStream
    notes: tuple[str, ...]  # what the user should know of model and data, a sentence each
    num_steps: int
    evaluation_sets: dict[str, list[Question]]
    prior: list[Question]
    probes: ProbeInputs
    guard_rows: tuple[GuardRow, ...]  # what the guards of the start compute on
    max_model_len: int  # the longest prompt with its completion that a rollout worker will see, plus one
    max_teacher_len: int  # the longest teacher prompt with its completion

    def decode(self, *, keep_special: bool) -> Callable[[tuple[int, ...]], str]:
        """Token ids to text."""
        return decoder(self.tokenizer, keep_special=keep_special)


def read_inputs(cfg: RunConfig) -> RunInputs:
    """Reads and checks model and data.

    Raises:
        ConfigError, DataError, ModelError: with the key, the value and the remedy.
    """
    check_harness(cfg.harness)
    model_path = find_model(cfg)
    tokenizer = load_tokenizer(model_path, cfg.model.chat_template)
    facts = check_model(model_path, tokenizer)
    teacher_path = model_path
    if cfg.teacher.path:
        teacher_path = find_teacher(cfg)
        check_agreement(model_path, teacher_path, cfg.model.chat_template)
    data = cfg.data
    builder, facts, notes = make_builder(cfg, tokenizer, facts)
    for key, mark in (("loss.skip_until", cfg.loss.skip_until), ("evaluation.skip_until", cfg.answer_mark)):
        builder.check_mark(key, mark)
    dataset = read_examples(data, cfg.method, builder)
    answer_start = BehindMark(cfg.loss.skip_until, decoder(tokenizer, keep_special=True))
    check_counted(cfg, dataset, answer_start)
    notes += [*dataset.notes, *uncounted_notes(cfg, dataset, answer_start)]
    rehearsal = read_rehearsal(data, builder, batch_size=cfg.batch_size, max_new_tokens=cfg.rollout.max_new_tokens)
    if rehearsal:
        rehearsal.check_fit(facts.context_length)
        notes += rehearsal.notes_beside(dataset.rows)
    examples = ExampleStream(
        dataset.rows,
        batch_size=cfg.batch_size,
        seed=cfg.seed,
        max_new_tokens=cfg.rollout.max_new_tokens,
        shuffle=data.shuffle,
        mix=dataset.mix,
        rehearsal=rehearsal,
    )
    prior, sets = _read_sets(cfg, builder)
    settings = cfg.evaluation.named_sets()
    asked = [(cfg.evaluation.prior_set(), prior.questions), *((settings[name], sets[name].questions) for name in sets)]
    probes = read_probes(cfg, builder, dataset.rows, facts.context_length)
    return RunInputs(
        model_path=model_path,
        teacher_path=teacher_path,
        tokenizer=tokenizer,
        facts=facts,
        examples=examples,
        notes=(*notes, *examples.notes, *(note for of_set in (prior, *sets.values()) for note in of_set.notes)),
        num_steps=cfg.num_steps or cfg.num_epochs * examples.steps_per_epoch,
        evaluation_sets={name: of_set.questions for name, of_set in sets.items()},
        prior=prior.questions,
        probes=probes,
        guard_rows=choose_guard_rows(dataset.rows),
        max_model_len=max(
            longest_sequence(cfg, facts, dataset, asked), probes.max_model_len, examples.longest_rehearsal
        ),
        max_teacher_len=max(longest_teacher_sequence(cfg, dataset), examples.longest_rehearsal),
    )


def _read_sets(cfg: RunConfig, builder: PromptBuilder) -> tuple[QuestionSet, dict[str, QuestionSet]]:
    """The prior, empty where none is asked, and the sets by name.

    Raises:
        ConfigError, DataError: as `read_questions`, or a judge has no key.
    """
    if any(of_set.match is Match.JUDGE for of_set in cfg.evaluation.named_sets().values()):
        api_key(cfg.evaluation.judge)  # a missing key should not wait for the first evaluation
    return read_sets(cfg, builder)


def read_sets(cfg: RunConfig, builder: PromptBuilder) -> tuple[QuestionSet, dict[str, QuestionSet]]:
    """The prior and the sets, for who asks no judge: a plan. Raises as `read_questions`."""
    evaluation, settings = cfg.evaluation, cfg.evaluation.named_sets()
    sets = {
        name: read_questions(f"evaluation.sets.{name}", of_set, cfg.data, builder) for name, of_set in settings.items()
    }
    if not evaluation.prior:
        return QuestionSet([], []), sets
    return read_questions("evaluation.prior", evaluation.prior_set(), cfg.data, builder), sets


def choose_guard_rows(rows: TokenizedRows) -> tuple[GuardRow, ...]:
    """Rows of middling length: long rows would make a start slow, and short ones may hide what they share."""
    by_length = np.argsort(rows.prompts.lengths + rows.demonstrations.lengths, kind="stable").tolist()
    first = max(0, (len(by_length) - NUM_GUARD_ROWS) // 2)
    return tuple(_guard_row(rows[index]) for index in by_length[first : first + NUM_GUARD_ROWS])


def _guard_row(row: TokenizedRow) -> GuardRow:
    """The row; without a demonstration the prompt's own last token is what is scored."""
    if row.demonstration_tokens:
        return GuardRow(prompt_tokens=row.prompt_tokens, completion_tokens=row.demonstration_tokens)
    return GuardRow(prompt_tokens=row.prompt_tokens[:-1], completion_tokens=row.prompt_tokens[-1:])
