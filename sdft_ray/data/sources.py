"""Where examples come from: a built-in set, a JSON Lines file, a folder saved by `datasets`, or a hub name."""

import codecs
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from sdft_ray.config import OnBadRow
from sdft_ray.data.builtin import load
from sdft_ray.data.rows import KEYS, Row, RowRules, quoted
from sdft_ray.errors import ConfigError, DataError, ModelError, first_line
from sdft_ray.records import Example

BUILTIN = "builtin:"
NUM_SHOWN = 3  # bad rows whose errors a note shows
KINDS = "builtin:NAME, a .jsonl file, a folder from datasets.save_to_disk, or a hub name"


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """The examples of a source, and the rows that were left out."""

    source: str  # without its split
    examples: tuple[Example, ...]
    lines: tuple[int, ...]  # of each example in its source, from 1
    refused: tuple[DataError, ...]  # one for every row left out, under on_bad_row=SKIP
    num_rows: int  # rows that were read

    def notes(self, key: str, num_asked: int) -> list[str]:
        """What the user should know of these rows, a sentence each.

        Args:
            key: the setting that says how many rows to read.
            num_asked: its value; 0 asks for all.
        """
        notes = refused_notes(self.source, self.refused)
        if num_asked > self.num_rows:
            notes.append(f"{key}={num_asked}: {self.source} has {self.num_rows} rows, all are taken")
        first_lines: dict[Example, int] = {}
        repeated = []
        for line, example in zip(self.lines, self.examples, strict=True):
            first = first_lines.setdefault(replace(example, example_id=""), line)
            if first != line:
                repeated.append((line, first))
        if repeated:
            of_first = f"first: line {repeated[0][0]} is line {repeated[0][1]}"
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
    def reading(self, line: int) -> Iterator[None]:
        """Reads one row in its block, which ends at the row's error; under SKIP the reading goes on behind it.

        Raises:
            DataError: the row is bad, or the chat template cannot render it or alters it, and on_bad_row=ERROR.
        """
        try:
            yield
        except DataError as error:
            self._refuse(error)
        except ModelError as error:  # of a template, which knows no lines
            self._refuse(DataError(self._source, line, str(error).removesuffix("."), "or mend the row"))

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


def load_rows(
    source: str,
    split: str,
    rules: RowRules,
    num_examples: int,
    on_bad_row: OnBadRow = OnBadRow.ERROR,
    key: str = "data",
) -> Loaded:
    """Reads the examples of a source, in its order.

    A row has a `prompt` (a string, or a list of {role, content} that ends with the user), a `demonstration`, and may
    have `text`, `answer`, `acceptable` and `id`. `demonstration` and `text` are strings or lists of strings, which are
    joined with newlines; `answer` and `acceptable` may be lists or objects, and then become JSON text. A row without
    an id is named by its line.

    Args:
        source: one of `KINDS`, with an optional ":SPLIT" at its end that overrides `split`.
        split: of a built-in set, a `DatasetDict` or a hub data set; a JSON Lines file and a single `Dataset`
            are one split and have no use for it.
        rules: what every row has to hold; what else it lacks is "" in its example, a prompt ().
        num_examples: only the first N rows are read and checked; 0 reads all.
        on_bad_row: whether a bad row ends the reading or is left out.
        key: the section of the settings that has this `on_bad_row`.

    Raises:
        ConfigError: the source or its split does not exist, or the columns have an unknown key.
        DataError: a row is malformed, two rows have the same id, or there is no row or no good one.
    """
    unknown = sorted(set(rules.columns) - set(KEYS))
    if unknown:
        problem = f"has the unknown key {unknown[0]}"
        raise ConfigError("data.columns", dict(rules.columns), problem, f"use {', '.join(KEYS)}")
    name, split = split_source(source, split)
    rows = _open(name, split)
    if name.startswith(BUILTIN):  # a mapping is for the user's data, wherever it is used
        rules = RowRules(columns={}, system=rules.system, required=rules.required)
    lines: dict[str, int] = {}
    examples: list[Example] = []
    bad = BadRows(name, on_bad_row, key)
    line = 0
    for line, row in enumerate(islice(rows, num_examples or None), start=1):
        with bad.reading(line):
            example = _example(name, line, row, rules)
            first = lines.setdefault(example.example_id, line)
            if first != line:
                problem = f"id {example.example_id!r} is also that of line {first}"
                raise DataError(name, line, problem, "make ids unique, or drop them")
            examples.append(example)
    if not examples:
        if bad.refused:
            raise bad.none_good()
        raise DataError(name, 1, "there is not a single row", "give a source that holds examples")
    places = tuple(lines[example.example_id] for example in examples)
    return Loaded(source=name, examples=tuple(examples), lines=places, refused=tuple(bad.refused), num_rows=line)


def _example(name: str, line: int, row: Any, rules: RowRules) -> Example:
    return Row(name, line, _parse(name, line, row) if isinstance(row, bytes) else row, rules).example()


def _parse(name: str, line: int, row: bytes) -> Any:
    """One line of a JSON Lines file."""
    try:
        text = row.decode()
    except UnicodeDecodeError as error:
        raise DataError(name, line, f"is not UTF-8 ({error.reason})", "save the file as UTF-8") from error
    try:
        return json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        problem = f"is not JSON ({error.msg} at column {error.colno}): {quoted(text)}" if text.strip() else "is blank"
        raise DataError(name, line, problem, "write one JSON object a line") from error
    except (ValueError, RecursionError) as error:  # ours, a number of thousands of digits, or endless brackets
        raise DataError(name, line, f"cannot be used ({error}): {quoted(text)}", "mend or remove the row") from error


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object none of whose keys is given twice: JSON would keep the last without a word."""
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"the key {quoted(key)} is given twice")
        values[key] = value
    return values


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def split_source(source: str, split: str) -> tuple[str, str]:
    """The source without a trailing ":SPLIT", and that split, or `split` where there is none.

    `builtin:facts:test[:8]` -> (`builtin:facts`, `test[:8]`: what there is on the first 8 facts);
    `name/on_hub:train[:100]` -> (`name/on_hub`, `train[:100]`); `own.jsonl[:4]` -> (`own.jsonl`, `[:4]`). A path that
    exists is taken as it is.

    Raises:
        ConfigError: a split is asked of a JSON Lines file.
    """
    if Path(source).expanduser().exists():
        return source, split
    if first := re.fullmatch(r"(.+\.jsonl)(\[:\d+\])", source):
        return first[1], first[2]
    prefix = BUILTIN if source.startswith(BUILTIN) else ""
    name, colon, own_split = source.removeprefix(prefix).partition(":")
    if colon and name.endswith(".jsonl"):
        raise ConfigError("data.source", source, "a JSON Lines file has no splits", f"set data.source={name}")
    return prefix + name, own_split or split


def _open(name: str, split: str) -> Iterable[Any]:
    if name.startswith(BUILTIN):
        return _builtin_rows(name, split)
    path = Path(name).expanduser()
    if path.is_dir():
        return _saved_rows(path, split)
    if path.is_file() and path.suffix == ".jsonl":
        return _json_rows(path)[: _first_of(split)[1]]
    if path.exists():
        raise ConfigError("data.source", name, "is not a .jsonl file", f"give {KINDS}")
    if path.suffix in (".jsonl", ".json") or name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise ConfigError("data.source", name, f"no such file or folder below {Path.cwd()}", f"give {KINDS}")
    return _hub_rows(name, split)


def _builtin_rows(name: str, split: str) -> Iterable[Any]:
    try:
        return load(name.removeprefix(BUILTIN), *_first_of(split))
    except ValueError as error:  # no such set, split or number; the message lists what there is
        raise ConfigError("data.source", f"{name}:{split}", str(error), "choose one of these") from error


def _first_of(split: str) -> tuple[str, int | None]:
    """The split without a "[:N]" at its end, and that N; None where it has none."""
    cut = re.fullmatch(r"(.*)\[:(\d+)\]", split)
    return (cut[1], int(cut[2])) if cut else (split, None)


def _json_rows(path: Path) -> list[bytes]:
    """The lines as they are: each is decoded and parsed by itself, so that a bad one is no more than that."""
    try:
        content = path.read_bytes()
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
        raise ConfigError("data.source", path, problem, "give a file that can be read") from error
    # Not splitlines(): JSON strings may hold U+2028 and the like as they are.
    content = content.removeprefix(codecs.BOM_UTF8).rstrip()
    return content.split(b"\n") if content else []


def _saved_rows(path: Path, split: str) -> Iterable[Any]:
    import datasets  # here, because it takes seconds and few runs need it

    try:
        data = datasets.load_from_disk(str(path))
    except FileNotFoundError as error:
        remedy = f"save the data with datasets.save_to_disk, or give {KINDS}"
        raise ConfigError("data.source", path, "the folder holds no saved data set", remedy) from error
    if not isinstance(data, datasets.DatasetDict):
        return data
    name, first = _first_of(split)
    if name not in data:
        raise ConfigError("data.split", split, f"{path} has no such split", f"choose one of {', '.join(data)}")
    return islice(data[name], first)


def _hub_rows(name: str, split: str) -> Iterable[Any]:
    import datasets  # here, because it takes seconds and few runs need it

    try:
        data: Iterable[Any] = datasets.load_dataset(name, split=split)
    except (OSError, ValueError) as error:  # offline, no such name, no such split: one class for each
        problem = f"no such file or folder, and split {split} could not be loaded from the hub ({first_line(error)})"
        raise ConfigError("data.source", name, problem, f"check the name and the network, or give {KINDS}") from error
    return data
