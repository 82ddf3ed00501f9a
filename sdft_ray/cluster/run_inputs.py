"""Everything a run reads before it starts a process: model facts, tokenised examples, evaluation questions.

Done first, so that a wrong path or a malformed row fails within seconds and starts nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sdft_ray.cluster.probes import ProbeInputs, read_probes
from sdft_ray.config import CompletionSource, EvaluationSetConfig, Match, Mode, RunConfig, TeacherBackend
from sdft_ray.data.dataset import TokenizedDataset, TokenizedRow
from sdft_ray.data.mix import read_examples
from sdft_ray.data.prompts import PromptBuilder
from sdft_ray.data.rehearsal import read_rehearsal
from sdft_ray.data.stream import ExampleStream
from sdft_ray.errors import ConfigError
from sdft_ray.evaluation.harness.sources import check_harness
from sdft_ray.evaluation.judge import api_key
from sdft_ray.evaluation.questions import Question, read_questions
from sdft_ray.models.folder import load_tokenizer
from sdft_ray.models.folder_check import check_attention, check_folder, check_values
from sdft_ray.models.resolve import ModelFacts, check_agreement, check_model, resolve_model, with_stop_token
from sdft_ray.records import GuardRow

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


def decoder(tokenizer: Any, *, keep_special: bool) -> Callable[[tuple[int, ...]], str]:
    """Token ids to text, as the tokenizer writes them."""

    def to_text(tokens: tuple[int, ...]) -> str:
        text: str = tokenizer.decode(list(tokens), skip_special_tokens=not keep_special)
        return text

    return to_text


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
        teacher_path = _find_teacher(cfg)
        check_agreement(model_path, teacher_path, cfg.model.chat_template)
    data = cfg.data
    builder, facts, notes = make_builder(cfg, tokenizer, facts)
    dataset = read_examples(data, cfg.method, builder)
    _check_counted(cfg, dataset)
    rehearsal = read_rehearsal(data, builder, batch_size=cfg.batch_size, max_new_tokens=cfg.rollout.max_new_tokens)
    if rehearsal:
        rehearsal.check_fit(facts.context_length)
    examples = ExampleStream(
        dataset.rows,
        batch_size=cfg.batch_size,
        seed=cfg.seed,
        max_new_tokens=cfg.rollout.max_new_tokens,
        shuffle=data.shuffle,
        mix=dataset.mix,
        rehearsal=rehearsal,
    )
    settings = cfg.evaluation.named_sets()
    if any(of_set.match is Match.JUDGE for of_set in settings.values()):
        api_key(cfg.evaluation.judge)  # a missing key should not wait for the first evaluation
    sets = {name: read_questions(f"evaluation.sets.{name}", of_set, data, builder) for name, of_set in settings.items()}
    evaluation_sets = {name: of_set.questions for name, of_set in sets.items()}
    about_prior = cfg.evaluation.prior_set()
    prior = read_questions("evaluation.prior", about_prior, data, builder).questions if cfg.evaluation.prior else []
    asked = [(about_prior, prior), *((settings[name], questions) for name, questions in evaluation_sets.items())]
    probes = read_probes(cfg, builder, dataset.rows, facts.context_length)
    return RunInputs(
        model_path=model_path,
        teacher_path=teacher_path,
        tokenizer=tokenizer,
        facts=facts,
        examples=examples,
        notes=(*notes, *dataset.notes, *examples.notes, *(note for of_set in sets.values() for note in of_set.notes)),
        num_steps=cfg.num_steps or cfg.num_epochs * examples.steps_per_epoch,
        evaluation_sets=evaluation_sets,
        prior=prior,
        probes=probes,
        guard_rows=choose_guard_rows(dataset.rows),
        max_model_len=max(_longest(cfg, facts, dataset, asked), probes.max_model_len, examples.longest_rehearsal),
        max_teacher_len=max(_longest_teacher(cfg, dataset), examples.longest_rehearsal),
    )


def find_model(cfg: RunConfig) -> str:
    """The folder of `model.path`, whose weights are those of the network that it describes.

    Raises:
        ConfigError, ModelError: with the key, the value and the remedy.
    """
    folder = resolve_model(cfg.model.path)
    check_folder("model.path", cfg.model.path, folder)
    check_attention(folder, cfg.model.attention, on_gpu=cfg.cluster.num_gpus > 0)
    if cfg.mode is not Mode.train:  # no learner loads it
        check_values("model.path", cfg.model.path, folder)
    return folder


def _find_teacher(cfg: RunConfig) -> str:
    """The folder of `teacher.path`. Raises as `find_model`."""
    folder = resolve_model(cfg.teacher.path, "teacher.path")
    check_folder("teacher.path", cfg.teacher.path, folder)
    if cfg.teacher.backend is TeacherBackend.VLLM:
        check_values("teacher.path", cfg.teacher.path, folder)
    else:
        check_attention(folder, cfg.model.attention, on_gpu=cfg.cluster.num_gpus > 0)
    return folder


def make_builder(cfg: RunConfig, tokenizer: Any, facts: ModelFacts) -> tuple[PromptBuilder, ModelFacts, list[str]]:
    """The builder of prompts, the facts with its end of turn among the stop tokens, and what to say of both.

    Raises:
        ConfigError, ModelError: tokenizer, chat template and teacher template do not fit together.
    """
    builder = PromptBuilder(
        tokenizer, cfg.teacher, special_tokens=cfg.data.special_tokens, stop_tokens=facts.eos_token_ids
    )
    notes = list(builder.notes)
    stopping = with_stop_token(facts, builder.end_of_turn, tokenizer)
    if stopping != facts:
        token, usual = tokenizer.decode([builder.end_of_turn]), tokenizer.decode(list(facts.eos_token_ids))
        notes.append(f"sampling stops at {token!r}, with which the chat template ends a turn, besides {usual!r}")
    return builder, stopping, notes


def choose_guard_rows(rows: Sequence[TokenizedRow]) -> tuple[GuardRow, ...]:
    """Rows of middling length: long rows would make a start slow, and short ones may hide what they share."""
    by_length = sorted(rows, key=lambda row: len(row.prompt_tokens) + len(row.demonstration_tokens))
    first = max(0, (len(by_length) - NUM_GUARD_ROWS) // 2)
    return tuple(_guard_row(row) for row in by_length[first : first + NUM_GUARD_ROWS])


def _guard_row(row: TokenizedRow) -> GuardRow:
    """The row; without a demonstration the prompt's own last token is what is scored."""
    if row.demonstration_tokens:
        return GuardRow(prompt_tokens=row.prompt_tokens, completion_tokens=row.demonstration_tokens)
    return GuardRow(prompt_tokens=row.prompt_tokens[:-1], completion_tokens=row.prompt_tokens[-1:])


def _longest(
    cfg: RunConfig,
    facts: ModelFacts,
    dataset: TokenizedDataset,
    asked: Sequence[tuple[EvaluationSetConfig, Sequence[Question]]],
) -> int:
    """Tokens the rollout workers need room for; refuses what the model cannot read."""
    student = max(len(row.prompt_tokens) for row in dataset.rows) + _longest_completion(cfg, dataset)
    needed = max(student, _longest_teacher(cfg, dataset))
    if needed > facts.context_length:
        raise ConfigError(
            "rollout.max_new_tokens",
            cfg.rollout.max_new_tokens,
            f"the longest prompt and completion take {needed} tokens, {cfg.model.path} reads {facts.context_length}",
            "lower it, lower data.max_teacher_prompt_tokens with data.too_long=SKIP, or take another model",
        )
    longest = needed if cfg.method.completion is CompletionSource.TEACHER else student
    for settings, questions in asked:
        for question in questions:
            num_tokens = len(question.prompt_tokens) + max(settings.max_new_tokens, len(question.answer_tokens))
            if num_tokens >= facts.context_length:
                raise ConfigError(
                    "evaluation.max_new_tokens",
                    settings.max_new_tokens,
                    f"evaluation example {question.example_id!r} of {settings.source} takes {num_tokens} tokens with "
                    f"its answer, {cfg.model.path} reads {facts.context_length - 1}",
                    "lower it (or the set's own), or take the example out of its set",
                )
            longest = max(longest, num_tokens)
    if cfg.harness.tasks:
        longest = max(longest, cfg.harness.max_tokens)  # a model that reads less is asked less
    return min(longest + 1, facts.context_length)


def _check_counted(cfg: RunConfig, dataset: TokenizedDataset) -> None:
    """Refuses a run in which no token of any completion could carry loss."""
    longest = _longest_completion(cfg, dataset)
    if cfg.loss.skip_first_tokens >= longest:
        raise ConfigError(
            "loss.skip_first_tokens",
            cfg.loss.skip_first_tokens,
            f"leaves nothing to train on: the longest completion has {longest} tokens",
            f"set it below {longest}; 0 counts every token",
        )


def _longest_completion(cfg: RunConfig, dataset: TokenizedDataset) -> int:
    if cfg.method.samples:
        return cfg.rollout.max_new_tokens
    return max(len(row.demonstration_tokens) for row in dataset.rows)


def _longest_teacher(cfg: RunConfig, dataset: TokenizedDataset) -> int:
    return max(len(row.teacher_prompt_tokens) for row in dataset.rows) + _longest_completion(cfg, dataset)
