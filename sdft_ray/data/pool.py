"""The pool: rows whose demonstrations are shown with the prompts of other rows.

What a row is shown depends on the pool, the settings and the row alone: neither on the order of the rows nor on what
was shown before. It is chosen once, before training, and is the same in every epoch.
"""

import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import islice

from sdft_ray.config import DataConfig, PoolConfig
from sdft_ray.data.readers import Selection
from sdft_ray.data.retrieval import MAKERS, Query
from sdft_ray.data.rows import RowRules
from sdft_ray.data.sources import Loaded, load_rows, named
from sdft_ray.errors import ConfigError
from sdft_ray.examples import Example

PromptKey = tuple[tuple[str, str], ...]


class Pool:
    """The rows of a pool, one for each prompt."""

    def __init__(self, examples: Sequence[Example], settings: PoolConfig, *, source: str, fields: Collection[str]):
        """Indexes the rows that have something to show. Of those with the same prompt the first stands for all.

        Args:
            examples: the pool's rows.
            settings: retriever, number and seed.
            source: what a message calls the pool.
            fields: `demonstration`, `text` or both: a row that fills none of them is none of the pool's.

        Raises:
            ConfigError: there are fewer rows than one prompt is to be shown.
        """
        self._settings = settings
        self._places: dict[PromptKey, int] = {}
        self._examples: list[Example] = []
        for example in examples:
            key = _key(example)
            if key not in self._places and any(getattr(example, field).strip() for field in fields):
                self._places[key] = len(self._examples)
                self._examples.append(example)
        if len(self._examples) < settings.num + settings.exclude_own:
            problem = f"{source} has {len(self._examples)} rows of different prompts with a {' or '.join(fields)}"
            problem += ", one of which may be the row's own" if settings.exclude_own else ""
            more = f"set teacher.pool.source to more rows with a {' or '.join(fields)}"
            remedy = f"lower it, or {more}" if len(self._examples) > 1 and settings.num > 1 else more
            raise ConfigError("teacher.pool.num", settings.num, problem, remedy)
        self._search = MAKERS[settings.retriever](list(map(_text, self._examples)), settings.seed)
        self._note = (
            f"pool           {len(self._examples)} rows of {source}, of which a prompt is shown {settings.num} by "
            f"{settings.retriever.name}"
        )

    def fill(self, examples: Sequence[Example]) -> tuple[Example, ...]:
        """The examples with their hits, nearest first: `num`, or fewer where the retriever finds no more.

        Under exclude_own none of them has the example's prompt.
        """
        num = self._settings.num
        queries = [Query(example.example_id, _text(example)) for example in examples]
        filled = []
        found = self._search.search(queries, num + self._settings.exclude_own)
        for example, hits in zip(examples, found, strict=True):
            own = self._places.get(_key(example)) if self._settings.exclude_own else None
            others = islice((hit for hit in hits if hit.place != own), num)
            filled.append(replace(example, pool_hits=tuple((self._examples[hit.place], hit.score) for hit in others)))
        return tuple(filled)

    def notes(self, filled: Sequence[Example]) -> list[str]:
        """What the user should know of the pool and of the examples that it has filled, a sentence each."""
        counts = [len(example.pool_hits) for example in filled]
        if not (num_fewer := sum(count < self._settings.num for count in counts)):
            return [self._note]
        none = f"; {num_none} of them none at all" if (num_none := counts.count(0)) else ""
        return [
            self._note,
            f"pool           {num_fewer} of {len(counts)} prompts are shown fewer rows, since no others share a word "
            f"with them{none}",
        ]


class PoolOfEach:
    """A pool for every source of a mix: an example is shown rows of its own source."""

    def __init__(self, pool_of: Mapping[str, Pool]):
        """`pool_of` gives the pool of every example's id."""
        self._pool_of = pool_of

    def fill(self, examples: Sequence[Example]) -> tuple[Example, ...]:
        """As `Pool.fill`; one search an example, which is for samples and not for whole data sets."""
        return tuple(self._pool_of[example.example_id].fill([example])[0] for example in examples)


def open_pool(
    settings: PoolConfig, data: DataConfig, *, training: Sequence[Example] = (), fields: Collection[str]
) -> Pool:
    """The pool of the settings.

    Args:
        settings: its source and how it is asked.
        data: the training data, whose columns and split hold for the pool as well.
        training: its rows, where they have been read.
        fields: as for `Pool`.

    Raises:
        ConfigError, DataError: the source does not exist, has a malformed row, or too few rows; or none is named beside
            a mix.
    """
    source = settings.source or data.source
    if not source and not training:
        problem = "stands for the training data, of which data.mix has several sources"
        raise ConfigError("teacher.pool.source", settings.source, problem, "name one source")
    if settings.source or not training:
        training = _read(settings, data).examples
    return Pool(training, settings, source=source, fields=fields)


def _read(settings: PoolConfig, data: DataConfig) -> Loaded:
    selection = Selection(split=data.split) if settings.source else Selection.of(data, data.num_examples)
    # data.system is left out: a pool's prompts are shown without it, and may have a system message of their own.
    rules = RowRules(columns=data.columns, system="", required=(), shared_columns=True)
    with named("teacher.pool.source" if settings.source else "data.source"):
        return load_rows(settings.source or data.source, selection, rules, data.on_bad_row)


def _key(example: Example) -> PromptKey:
    """What two rows with the same prompt share: tools and turns, however they are written, without instructions.

    A row without a prompt goes by its text.
    """
    turns = tuple((turn.role, _plain(turn.text)) for turn in example.conversation)
    return (("tools", example.tools), *turns) if turns else (("text", _plain(example.text)),)


def _plain(text: str) -> str:
    """A text without letter case, spaces and punctuation; in front of a digit they part or sign a number, and stay."""
    text = " ".join(unicodedata.normalize("NFC", text).casefold().split())
    return _passed_over().sub("", text) or text


@cache
def _passed_over() -> re.Pattern[str]:
    """Made with the first pool: it looks at every character, and most processes have no pool."""
    punctuation = "".join(filter(lambda letter: unicodedata.category(letter)[0] == "P", map(chr, range(0x10000))))
    return re.compile(rf"[{re.escape(punctuation)}](?! ?\d)|(?<!\d) | (?!\d)")


def _text(example: Example) -> str:
    """What is searched by and searched in: the prompt without instructions, or the text of a row that has none."""
    return "\n".join(turn.text for turn in example.conversation) or example.text
