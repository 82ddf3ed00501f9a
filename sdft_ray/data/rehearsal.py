"""Rehearsal: prompts without a demonstration, which every batch holds besides its examples.

Rehearsal against forgetting is old (Robins 1995). What is rehearsed here is the model's own: its teacher is the model
as the run began, under the same plain prompt, so that no data of its earlier training is needed.
"""

from dataclasses import dataclass, replace

from sdft_ray.config import DataConfig
from sdft_ray.config.validation import require
from sdft_ray.data.dataset import tokenize_examples, within_budgets
from sdft_ray.data.prompts import PromptBuilder
from sdft_ray.data.readers import Selection
from sdft_ray.data.rows import RowRules
from sdft_ray.data.sources import load_rows, named
from sdft_ray.data.tokenized import TokenizedRows

PREFIX = "rehearsal:"  # of the ids, since the source may name its rows as the data does: by their lines


@dataclass(frozen=True, kw_only=True, slots=True)
class Rehearsal:
    """The rows of a run's rehearsal, and how many of them a batch holds."""

    source: str
    rows: TokenizedRows
    per_batch: int
    max_new_tokens: int  # of a completion
    notes: tuple[str, ...]  # what the user should know, a sentence each

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt with its completion."""
        return int(self.rows.prompts.lengths.max()) + self.max_new_tokens

    def notes_beside(self, taught: TokenizedRows) -> list[str]:
        """What the user should know of these prompts beside the rows that are taught, a sentence each."""
        own = set(self.rows.prompts)
        if not (shared := own.intersection(taught.prompts)):
            return []
        return [
            f"rehearsal: {len(shared)} of the {len(own)} different prompts of {self.source} are also taught, so "
            "that the same prompt is held to the model as the run began: name other rows by data.rehearsal.source"
        ]

    def check_fit(self, context_length: int) -> None:
        """Refuses completions that a model of this context length could not read behind their prompts.

        Raises:
            ConfigError: with the tokens of the longest.
        """
        require(
            self.longest < context_length,
            "data.rehearsal.max_new_tokens",
            self.max_new_tokens,
            f"with the longest prompt of {self.source} it takes {self.longest} tokens, the model reads "
            f"{context_length - 1}",
            "lower it, or take that prompt out",
        )


def read_rehearsal(
    data: DataConfig, builder: PromptBuilder, *, batch_size: int, max_new_tokens: int
) -> Rehearsal | None:
    """Reads the prompts of `data.rehearsal`, whose teacher prompt is the prompt itself; None where it is off.

    Args:
        data: the rehearsal's settings, and what it shares with the examples: system message, budgets, bad rows.
        builder: of the prompts.
        batch_size: rows of a batch, examples and rehearsal together.
        max_new_tokens: of a completion, where the rehearsal has no number of its own.

    Raises:
        ConfigError, DataError: as `load_rows`, `tokenize_examples` and `within_budgets`.
    """
    settings = data.rehearsal
    if not settings.is_on:
        return None
    rules = RowRules(
        columns=settings.columns, columns_key="data.rehearsal.columns", system=data.system, required=("prompt",)
    )
    with named("data.rehearsal.source"):
        loaded = load_rows(settings.prompts, Selection(split=settings.split), rules, data.on_bad_row)
    prompts = [
        replace(example, example_id=PREFIX + example.example_id, demonstration="") for example in loaded.examples
    ]
    own = replace(data, mix={}, source=settings.prompts)  # for what is said of it
    tokenized = tokenize_examples(prompts, builder, own, has_teacher=False, places=loaded.places)
    dataset = within_budgets(tokenized, own)
    rows = dataset.rows.with_teacher_prompts(dataset.rows.prompts)
    per_batch = settings.rows_of(batch_size)
    note = f"rehearsal: {per_batch} of the {batch_size} rows of a batch are among {len(rows)} prompts of {own.source}"
    if per_batch != settings.share * batch_size:
        note += f" (data.rehearsal.share={settings.share:g}, rounded to {per_batch / batch_size:.3g})"
    return Rehearsal(
        source=own.source,
        rows=rows,
        per_batch=per_batch,
        max_new_tokens=settings.max_new_tokens or max_new_tokens,
        notes=(note, *loaded.notes("", 0), *dataset.notes),
    )
