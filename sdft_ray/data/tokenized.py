"""Examples as token ids, in flat arrays: four bytes a token, where a tuple of Python's numbers takes forty."""

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self, overload

import numpy as np

from sdft_ray.data.readers import Place

PoolHits = tuple[tuple[str, float], ...]  # ids and scores of the pool's rows in a teacher prompt, nearest first


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizedRow:
    """One example as token ids, before the stream gives it an epoch."""

    example_id: str
    prompt_tokens: tuple[int, ...]  # [P]
    teacher_prompt_tokens: tuple[int, ...]  # [P']; empty where the method has no teacher
    demonstration_tokens: tuple[int, ...]  # [T]; raw text under method.completion=TEXT; empty where there is none
    pool_hits: PoolHits = ()


class TokenColumn(Sequence[tuple[int, ...]]):
    """Sequences of token ids, one a row, behind one another in one array."""

    def __init__(self, tokens: np.ndarray, lengths: np.ndarray):
        """Takes both as they are.

        Args:
            tokens: of all rows, [sum of lengths] int32.
            lengths: of each row, [N] int64.
        """
        if int(lengths.sum()) != len(tokens) or (lengths < 0).any():
            raise ValueError(f"lengths of {int(lengths.sum())} tokens in all, where there are {len(tokens)}")
        self.tokens = tokens
        self.lengths = lengths
        self._ends = np.cumsum(lengths)

    @classmethod
    def joined(cls, parts: Sequence["TokenColumn"]) -> "TokenColumn":
        """The sequences of all parts, behind one another."""
        return cls(np.concatenate([part.tokens for part in parts]), np.concatenate([part.lengths for part in parts]))

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, index: int) -> tuple[int, ...]: ...
    @overload
    def __getitem__(self, index: slice) -> "TokenColumn": ...
    def __getitem__(self, index: int | slice) -> "tuple[int, ...] | TokenColumn":
        if isinstance(index, slice):
            return self.select(np.arange(len(self))[index])
        return tuple(self._slice(index).tolist())

    def select(self, indices: np.ndarray) -> "TokenColumn":
        """Some of the rows, in the order of their indices."""
        parts = [self._slice(index) for index in indices.tolist()]
        return TokenColumn(np.concatenate([self.tokens[:0], *parts]), self.lengths[indices])

    def _slice(self, index: int) -> np.ndarray:
        end = int(self._ends[index])
        return self.tokens[end - int(self.lengths[index]) : end]


class TokenizedRows(Sequence[TokenizedRow]):
    """The rows of a data set; a row is made of its tokens where it is asked for."""

    def __init__(
        self,
        example_ids: tuple[str, ...],
        pool_hits: tuple[PoolHits, ...],
        prompts: TokenColumn,
        teacher_prompts: TokenColumn,
        demonstrations: TokenColumn,
    ):
        """Takes columns of the same length."""
        if {len(example_ids)} != {len(prompts), len(teacher_prompts), len(demonstrations), len(pool_hits)}:
            raise ValueError("the columns have different numbers of rows")
        self.example_ids = example_ids
        self.prompts = prompts
        self.teacher_prompts = teacher_prompts
        self.demonstrations = demonstrations
        self.pool_hits = pool_hits

    @classmethod
    def of(cls, rows: Iterable[TokenizedRow]) -> "TokenizedRows":
        """The rows in arrays, unless they are already."""
        if isinstance(rows, TokenizedRows):
            return rows
        writer = RowsWriter()
        for row in rows:
            writer.append(row, Place("", 0))
        return writer.rows()

    @classmethod
    def joined(cls, parts: Sequence["TokenizedRows"]) -> "TokenizedRows":
        """The rows of all parts, behind one another."""
        columns = zip(*(part.columns for part in parts), strict=True)
        return TokenizedRows(
            tuple(name for part in parts for name in part.example_ids),
            tuple(hits for part in parts for hits in part.pool_hits),
            *(TokenColumn.joined(column) for column in columns),
        )

    @property
    def columns(self) -> tuple[TokenColumn, TokenColumn, TokenColumn]:
        """Prompts, teacher prompts and demonstrations."""
        return self.prompts, self.teacher_prompts, self.demonstrations

    def __len__(self) -> int:
        return len(self.example_ids)

    @overload
    def __getitem__(self, index: int) -> TokenizedRow: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> "TokenizedRow | TokenizedRows":
        if isinstance(index, slice):
            return self.select(np.arange(len(self))[index])
        return TokenizedRow(
            example_id=self.example_ids[index],
            prompt_tokens=self.prompts[index],
            teacher_prompt_tokens=self.teacher_prompts[index],
            demonstration_tokens=self.demonstrations[index],
            pool_hits=self.pool_hits[index],
        )

    def digest(self) -> str:
        """64 bits of BLAKE2b over ids and tokens in their order, in hexadecimal digits; the same on any machine.

        What the pool has shown counts by the tokens it is in.
        """
        digest = hashlib.blake2b("\x1f".join(self.example_ids).encode(), digest_size=8)
        for column in self.columns:
            digest.update(column.lengths.astype("<i8", copy=False).data)
            digest.update(column.tokens.astype("<i4", copy=False).data)
        return digest.hexdigest()

    def named(self, prefix: str, *, names_hits: bool) -> "TokenizedRows":
        """The rows with `prefix` before their ids, and before those of their hits where these are of the same rows."""
        pool_hits = self.pool_hits
        if names_hits:
            pool_hits = tuple(tuple((prefix + name, score) for name, score in hits) for hits in pool_hits)
        return TokenizedRows(tuple(prefix + name for name in self.example_ids), pool_hits, *self.columns)

    def with_teacher_prompts(self, teacher_prompts: TokenColumn) -> "TokenizedRows":
        """The rows with other teacher prompts."""
        return TokenizedRows(self.example_ids, self.pool_hits, self.prompts, teacher_prompts, self.demonstrations)

    def select(self, indices: np.ndarray) -> "TokenizedRows":
        """Some of the rows, in the order of their indices."""
        example_ids = tuple(self.example_ids[index] for index in indices.tolist())
        pool_hits = tuple(self.pool_hits[index] for index in indices.tolist())
        return TokenizedRows(example_ids, pool_hits, *(column.select(indices) for column in self.columns))


class MixPart(NamedTuple):
    """What a mix takes of one of its sources."""

    name: str  # in data.mix
    weight: float
    num_rows: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizedDataset:
    """The examples that can be used, and what is to be said of the others."""

    rows: TokenizedRows
    places: tuple[Place, ...]  # where each row stands in its source
    num_skipped: int = 0  # rows that are over their budgets
    mix: tuple[MixPart, ...] = ()  # which rows are of which source, in their order; () for one source
    notes: tuple[str, ...] = ()  # what the user should know of the data, a sentence each


class RowsWriter:
    """Collects rows, and keeps of each no more than its tokens."""

    def __init__(self) -> None:
        self.places: list[Place] = []
        self._example_ids: list[str] = []
        self._pool_hits: list[PoolHits] = []
        self._columns = [(array("i"), array("q")) for _ in range(3)]

    def append(self, row: TokenizedRow, place: Place) -> None:
        """Adds a row behind the others."""
        self.places.append(place)
        self._example_ids.append(row.example_id)
        self._pool_hits.append(row.pool_hits)
        sequences = (row.prompt_tokens, row.teacher_prompt_tokens, row.demonstration_tokens)
        for (tokens, lengths), sequence in zip(self._columns, sequences, strict=True):
            tokens.extend(sequence)
            lengths.append(len(sequence))

    def rows(self) -> TokenizedRows:
        """All rows; none may be added behind."""
        columns = (
            TokenColumn(np.frombuffer(tokens, dtype=np.int32), np.frombuffer(lengths, dtype=np.int64))
            for tokens, lengths in self._columns
        )
        return TokenizedRows(tuple(self._example_ids), tuple(self._pool_hits), *columns)
