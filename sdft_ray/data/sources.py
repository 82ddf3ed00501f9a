"""A source as examples: which of its rows are taken, and which are left out."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sdft_ray.config import OnBadRow
from sdft_ray.data.files import kind_of
from sdft_ray.data.readers import BUILTIN, Place, Selection, open_rows
from sdft_ray.data.row_examples import read_example
from sdft_ray.data.rows import CONTEXT, KEYS, LOST, MESSAGES, Row, RowRules
from sdft_ray.data.sharegpt import CONVERSATIONS
from sdft_ray.data.values import quoted
from sdft_ray.errors import SOURCE_KEY, ConfigError, DataError, ModelError, SdftError
from sdft_ray.examples import Example

NUM_SHOWN = 3  # bad rows whose errors a note shows
NUM_COLUMNS = 12  # names of columns that a message lists


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """The examples of a source, and the rows that were left out."""

    source: str  # without its split
    examples: tuple[Example, ...]
    places: tuple[Place, ...]  # of each example
    refused: tuple[DataError, ...]  # one for every row left out, under on_bad_row=SKIP
    num_rows: int  # rows that were read
    unread: tuple[str, ...] = ()  # columns of the rows that no setting names

    def notes(self, key: str, num_asked: int) -> list[str]:
        """What the user should know of these rows, a sentence each.

        Args:
            key: the setting that says how many rows to read.
            num_asked: its value; 0 asks for all.
        """
        notes = refused_notes(self.source, self.refused)
        if num_asked > self.num_rows:
            notes.append(f"{key}={num_asked}: {self.source} has {self.num_rows} rows, all are taken")
        if self.unread:
            names = ", ".join(self.unread[:NUM_COLUMNS]) + (", ..." if len(self.unread) > NUM_COLUMNS else "")
            notes.append(f"{self.source}: of its rows these columns are not read: {names}")
        first_places: dict[Example, Place] = {}
        repeated = []
        for place, example in zip(self.places, self.examples, strict=True):
            first = first_places.setdefault(replace(example, example_id=""), place)
            if first != place:
                repeated.append((place, first))
        if repeated:
            place, first = repeated[0]
            files = [f" of {each.source}" if self.source != each.source else "" for each in repeated[0]]
            of_first = f"first: {place.words}{files[0]} is {first.words}{files[1]}"
            notes.append(f"{self.source}: {len(repeated)} rows repeat an earlier one ({of_first})")
        return notes


def refused_notes(source: str, refused: Sequence[DataError]) -> list[str]:
    """How many rows were left out, and the first of them."""
    if not refused:
        return []
    shown = " ".join(map(str, refused[:NUM_SHOWN]))
    return [f"{source}: {len(refused)} bad rows are left out (on_bad_row=SKIP): {shown}"]


class BadRows:
    """The bad rows of a source: the first ends the reading, or all are left out and kept here."""

    def __init__(self, source: str, on_bad_row: OnBadRow, key: str = "data"):
        """Begins without any; `key` is the section of the settings that has this `on_bad_row`."""
        self._source = source
        self._on_bad_row = on_bad_row
        self.key = key
        self.refused: list[DataError] = []

    @contextmanager
    def reading(self, place: Place) -> Iterator[None]:
        """Reads one row in its block, which ends at the row's error; under SKIP the reading goes on behind it.

        Raises:
            DataError: the row is bad, or the chat template cannot render it or alters it, and on_bad_row=ERROR.
        """
        try:
            yield
        except DataError as error:
            self._refuse(error)
        except ModelError as error:  # of a template, which knows no lines
            self._refuse(DataError(*place, str(error).removesuffix("."), "or mend the row"))

    def _refuse(self, error: DataError) -> None:
        if self._on_bad_row is OnBadRow.ERROR:
            raise error.adding(f"{self.key}.on_bad_row=SKIP would leave such rows out.")
        self.refused.append(error)

    def none_good(self) -> DataError:
        """What to raise where every row was left out."""
        return self.refused[0].adding(f"All {len(self.refused)} rows are bad: {self.key}.on_bad_row=SKIP leaves none.")

    def notes(self) -> list[str]:
        """See `refused_notes`."""
        return refused_notes(self._source, self.refused)


@contextmanager
def named(key: str) -> Iterator[None]:
    """In its block a refusal of a source begins with the setting that names it, where that is not `data.source`."""
    try:
        yield
    except (ConfigError, DataError) as error:
        raise (error if key == SOURCE_KEY else error.of(key, key)) from error


def load_rows(
    source: str, selection: Selection, rules: RowRules, on_bad_row: OnBadRow = OnBadRow.ERROR, key: str = "data"
) -> Loaded:
    """Reads the examples of a source, in its order.

    A row has a `prompt` (a string, or turns that end with the user's or a tool's), a `demonstration`, and may have
    `tools`, `teacher_messages`, `text`, `answer`, `acceptable` and `id`. Without a prompt its `messages` are read: the
    last one, the assistant's, is the demonstration, and those before it are the prompt. `demonstration` and `text` are
    strings or lists of strings, which are joined with newlines; `answer` and `acceptable` may be lists or objects, and
    then become JSON text. A row without an id is named by its line.

    Args:
        source: one of `readers.KINDS`, with an optional ":SPLIT" at its end that overrides the selection's.
        selection: which of its rows; only these are checked.
        rules: what every row has to hold; what else it lacks is "" in its example, a prompt ().
        on_bad_row: whether a bad row ends the reading or is left out.
        key: the section of the settings that has this `on_bad_row`.

    Raises:
        ConfigError: the source or its split does not exist, or the columns have an unknown key.
        DataError: a row is malformed, two rows have the same id, or there is no row or no good one.
    """
    _check_columns(rules.columns)
    name, split = split_source(source, selection.split)
    if name.startswith(BUILTIN):  # a mapping and a filter are for the user's data, wherever they are used
        rules = RowRules(columns={}, system=rules.system, required=rules.required, reads=rules.reads)
        selection = replace(selection, filter={})
    places: dict[str, Place] = {}
    examples: list[Example] = []
    bad = BadRows(name, on_bad_row, key)
    num_rows = num_others = 0
    columns: dict[str, Any] = {}  # of all rows, each with its first value
    for place, row, row_name in open_rows(name, replace(selection, split=split)):
        if isinstance(row, Mapping):
            columns |= {column: value for column, value in row.items() if column not in columns}
        if _is_other(row, selection.filter):
            num_others += 1
            continue
        num_rows += 1
        with bad.reading(place):
            if isinstance(row, DataError):
                raise row
            example = read_example(Row(*place, row, rules, row_name))
            _note_place(places, example.example_id, place)
            examples.append(example)
        if num_rows == selection.num_examples:
            break
    if not examples:
        raise bad.none_good() if bad.refused else _no_row(name, selection.filter, num_others, columns)
    of_examples = tuple(places[example.example_id] for example in examples)
    return Loaded(
        source=name,
        examples=tuple(examples),
        places=of_examples,
        refused=tuple(bad.refused),
        num_rows=num_rows,
        unread=() if name.startswith(BUILTIN) else _unread(columns, rules, selection.filter),
    )


def _check_columns(columns: Mapping[str, str]) -> None:
    """Raises `ConfigError` where a column is named for no key of ours; those of `LOST` may be left unread."""
    unknown = sorted(key for key, column in columns.items() if key not in KEYS and (column or key not in LOST))
    if unknown:
        problem = f"has the unknown key {unknown[0]}"
        raise ConfigError("data.columns", dict(columns), problem, f"use {', '.join(KEYS)}")


def _unread(columns: Iterable[Any], rules: RowRules, wanted: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns that neither a key of ours nor a filter names."""
    keys = [key for key in KEYS if key != CONTEXT or key in rules.reads]
    read = {rules.columns.get(key, key) for key in keys} | wanted.keys()
    if MESSAGES not in {*columns, *rules.columns}:
        read |= {CONVERSATIONS}
    return tuple(str(column) for column in columns if column not in read)


def _no_row(source: str, wanted: Mapping[str, Any], num_rows: int, columns: Mapping[str, Any]) -> SdftError:
    """What to raise where there is no row, or none is as a filter asks; names a column that no row has.

    Args:
        source: of the rows.
        wanted: the filter.
        num_rows: rows that are not as it asks.
        columns: of these rows, each with its first value.
    """
    if not num_rows:
        return DataError(source, 1, "there is not a single row", "give a source that holds examples")
    if lacking := next((column for column in wanted if column not in columns), None):
        remedy = f"name one of {', '.join(map(str, list(columns)[:NUM_COLUMNS]))}"
        return ConfigError(f"data.filter.{lacking}", wanted[lacking], f"{source} has no such column", remedy)
    asked = ", ".join(f"{column}={value}" for column, value in wanted.items())
    has = ", ".join(f"{column}={quoted(columns[column])}" for column in wanted)
    problem = f"none of the {num_rows} rows of {source} is as it asks"
    return ConfigError("data.filter", asked, problem, f"name values that its rows have: the first has {has}")


def _note_place(places: dict[str, Place], example_id: str, place: Place) -> None:
    """Notes where an example stands; raises `DataError` where another one has its id."""
    first = places.setdefault(example_id, place)
    if first != place:
        where = first.words + (f" of {first.source}" if first.source != place.source else "")
        raise DataError(*place, f"id {example_id!r} is also that of {where}", "make ids unique, or drop them")


def _is_other(row: Any, wanted: Mapping[str, Any]) -> bool:
    """True when a row has another value than is wanted in one of these columns."""
    return isinstance(row, Mapping) and not all(_is_same(row.get(column), value) for column, value in wanted.items())


def _is_same(cell: Any, value: Any) -> bool:
    """True when a cell has the value, or its text: cells of CSV files are texts, and commands write texts plainly.

    A truth is no number; its text may have any case, as the programs that write tables differ in it.
    """
    if cell is not None and value is not None and isinstance(cell, str) != isinstance(value, str):
        cell, value = str(cell), str(value)
        is_truth = {cell.lower(), value.lower()} <= {"true", "false"}
        return cell.lower() == value.lower() if is_truth else cell == value
    return isinstance(cell, bool) == isinstance(value, bool) and bool(cell == value)


def split_source(source: str, split: str) -> tuple[str, str]:
    """The source without a trailing ":SPLIT", and that split, or `split` where there is none.

    `builtin:facts:test[:8]` -> (`builtin:facts`, `test[:8]`: what there is on the first 8 facts);
    `name/on_hub:train[:100]` -> (`name/on_hub`, `train[:100]`); `own.jsonl[:4]` -> (`own.jsonl`, `[:4]`). A path that
    exists is taken as it is.

    Raises:
        ConfigError: a split is asked of a file, or other rows than its first.
    """
    if Path(source).expanduser().exists():
        return source, split
    first = re.fullmatch(r"(.+?)/?(\[:\d+\])", source)
    if first and (kind_of(first[1]) or Path(first[1]).expanduser().exists()):
        return first[1], first[2]
    if (part := re.fullmatch(r"(.+?)/?(\[[^\[\]]*\])", source)) and kind_of(part[1]):
        problem = f"{part[2]} takes no rows of a file: only its first N can be named, as in {part[1]}[:4]"
        raise ConfigError("data.source", source, problem, "name these, or choose rows with data.filter")
    prefix = BUILTIN if source.startswith(BUILTIN) else ""
    name, colon, own_split = source.removeprefix(prefix).partition(":")
    if colon and kind_of(name):
        raise ConfigError("data.source", source, "a file has no splits", f"set data.source={name}")
    return prefix + name, own_split or split
