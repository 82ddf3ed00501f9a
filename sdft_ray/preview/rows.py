"""What the model will read of some rows, and how all rows keep to their budgets, as records without a form."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sdft_ray.config import RunConfig
from sdft_ray.config.show import Choice, ShowConfig
from sdft_ray.conversation import Message
from sdft_ray.data.prompts import PromptBuilder
from sdft_ray.data.readers import Place
from sdft_ray.data.reasoning import AnswerStart
from sdft_ray.data.tokenized import TokenizedDataset, TokenizedRow, TokenizedRows
from sdft_ray.errors import ConfigError
from sdft_ray.examples import Example
from sdft_ray.preview.spans import Span, SpanDecoder

BEFORE_TAIL = 4  # tokens of a prompt shown before those behind the user's turn
BEFORE_OTHER_TAIL = 24  # where the teacher's prompt ends otherwise: with more, or with less
NUM_NEAREST = 3  # ids that a message names
# Two prompts whose last turns end unlike: what both end with is behind the user's turn.
_ENDINGS = ("Where is it, 7", "Name the town: x")


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """A sequence of tokens as a person sees it."""

    num_tokens: int
    spans: tuple[Span, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tails:
    """The ends of both prompts, where the assistant's turn begins."""

    student: tuple[Span, ...]
    teacher: tuple[Span, ...]
    num_tokens: int  # of the student's prompt behind the user's turn
    are_same: bool  # whether the teacher's prompt ends with as many of the same


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownRow:
    """One row."""

    example_id: str
    place: Place
    prompt: Reading
    teacher_prompt: Reading | None  # None where the method has no teacher
    uncounted: Reading  # the beginning of a demonstration, or of any completion, that carries no loss
    counted: Reading  # the rest; empty, as the other, where there is no demonstration
    tails: Tails | None
    over: tuple[str, ...]  # the settings whose budgets the row breaks
    shown_of_pool: tuple[str, ...] = ()  # ids of the pool's rows in the teacher prompt with their scores, nearest first


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """How long the sequences of all rows are, and how many are over a budget."""

    name: str
    key: str  # the setting
    limit: int
    shortest: int
    median: int
    longest: int
    num_over: int
    meaning: str  # of being over it


@dataclass(frozen=True, kw_only=True, slots=True)
class Preview:
    """Everything that mode=show tells."""

    model: str
    source: str
    method: str
    template: str  # the teacher's; "" where the method has no teacher
    num_rows: int
    rows: tuple[ShownRow, ...]
    budgets: tuple[Budget, ...]
    skipped_by: str  # the settings by which the first tokens of a completion carry no loss
    notes: tuple[str, ...]


def choose_rows(rows: TokenizedRows, show: ShowConfig, seed: int) -> list[int]:
    """The indices of the rows to show.

    Raises:
        ConfigError: show.ids names what is no example.
    """
    if show.ids:
        index_of = {example_id: index for index, example_id in enumerate(rows.example_ids)}
        for example_id in show.ids:
            if example_id not in index_of:
                some = ", ".join(rows.example_ids[:NUM_NEAREST])
                remedy = f"name examples by their id, or by their line: the first are {some}"
                raise ConfigError("show.ids", example_id, "is no example of the data", remedy)
        return [index_of[example_id] for example_id in show.ids]
    number = min(show.num_rows, len(rows))
    if show.choose is Choice.LONGEST:
        lengths = np.maximum(rows.prompts.lengths, rows.teacher_prompts.lengths) + rows.demonstrations.lengths
        longest: list[int] = np.argsort(-lengths, kind="stable")[:number].tolist()
        return longest
    if show.choose is Choice.RANDOM:
        return sorted(random.Random(seed).sample(range(len(rows)), number))
    return list(range(number))


class RowReader:
    """Makes of rows what a person sees."""

    def __init__(self, cfg: RunConfig, builder: PromptBuilder, decoder: SpanDecoder, answer_start: AnswerStart):
        """Learns how prompts end; `answer_start` says where the loss of a completion may begin."""
        self._cfg = cfg
        self._answer_start = answer_start
        self._decoder = decoder
        prompts = ((Message(role="user", content=text),) for text in _ENDINGS)
        first, second = (builder.student(Example(example_id="", prompt=prompt, demonstration="")) for prompt in prompts)
        self._tail_length = _common_end(first, second)

    def read(self, row: TokenizedRow, place: Place) -> ShownRow:
        """One row."""
        uncounted, counted = self._split(row.demonstration_tokens)
        return ShownRow(
            example_id=row.example_id,
            place=place,
            prompt=self._reading(row.prompt_tokens),
            teacher_prompt=self._reading(row.teacher_prompt_tokens) if row.teacher_prompt_tokens else None,
            uncounted=self._reading(uncounted),
            counted=self._reading(counted),
            tails=self._tails(row) if row.teacher_prompt_tokens else None,
            over=tuple(over_budgets(row, self._cfg)),
            shown_of_pool=tuple(f"{name} (score {score:.4g})" for name, score in row.pool_hits),
        )

    def _split(self, completion: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The beginning of a completion that carries no loss, and the rest, its end token included."""
        start = self._answer_start(completion)
        first = len(completion) if start is None else max(start, self._cfg.loss.skip_first_tokens)
        return completion[:first], completion[first:]

    def _reading(self, tokens: Sequence[int]) -> Reading:
        return Reading(num_tokens=len(tokens), spans=self._decoder.spans(tokens))

    def _tails(self, row: TokenizedRow) -> Tails:
        length = self._tail_length
        are_same = _common_end(row.prompt_tokens, row.teacher_prompt_tokens) >= length
        shown = length + (BEFORE_TAIL if are_same else BEFORE_OTHER_TAIL)
        return Tails(
            student=self._decoder.spans(row.prompt_tokens[-shown:]),
            teacher=self._decoder.spans(row.teacher_prompt_tokens[-shown:]),
            num_tokens=length,
            are_same=are_same,
        )


def over_budgets(row: TokenizedRow, cfg: RunConfig) -> list[str]:
    """The settings whose budgets a row breaks."""
    lengths = {
        "data.max_prompt_tokens": (len(row.prompt_tokens), cfg.data.max_prompt_tokens),
        "data.max_teacher_prompt_tokens": (len(row.teacher_prompt_tokens), cfg.data.max_teacher_prompt_tokens),
    }
    return [key for key, (length, limit) in lengths.items() if length > limit]


def measure_budgets(dataset: TokenizedDataset, cfg: RunConfig, context_length: int) -> tuple[Budget, ...]:
    """The budgets that the rows are held against, each over all rows."""
    rows, data = dataset.rows, cfg.data
    prompts, teacher_prompts, demonstrations = (column.lengths for column in rows.columns)
    lost = f"data.too_long={data.too_long.name}: " + (
        "these are left out" if data.too_long.name == "SKIP" else "the run ends before it starts"
    )
    budgets = [_budget("prompt", "data.max_prompt_tokens", data.max_prompt_tokens, prompts, lost)]
    if cfg.method.has_teacher:
        limit = data.max_teacher_prompt_tokens
        budgets.append(_budget("teacher prompt", "data.max_teacher_prompt_tokens", limit, teacher_prompts, lost))
    completions = demonstrations
    if cfg.method.samples:
        limit = cfg.rollout.max_new_tokens
        meaning = "completions as long as these demonstrations would be cut"
        budgets.append(_budget("demonstration", "rollout.max_new_tokens", limit, demonstrations, meaning))
        completions = np.full_like(demonstrations, limit)
    together = np.maximum(prompts, teacher_prompts) + completions
    meaning = "the model cannot read these with their completion"
    return (*budgets, _budget("prompt with completion", "the model's context", context_length, together, meaning))


def _budget(name: str, key: str, limit: int, lengths: np.ndarray, meaning: str) -> Budget:
    return Budget(
        name=name,
        key=key,
        limit=limit,
        shortest=int(lengths.min()),
        median=int(np.median(lengths)),
        longest=int(lengths.max()),
        num_over=int((lengths > limit).sum()),
        meaning=meaning,
    )


def _common_end(first: Sequence[int], second: Sequence[int]) -> int:
    """Tokens that both end with."""
    number = 0
    for one, other in zip(reversed(first), reversed(second), strict=False):
        if one != other:
            break
        number += 1
    return number
