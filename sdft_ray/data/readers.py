"""Rows of a source as they are: built-in sets, files of several kinds, saved data sets, data sets of a hub.

A row keeps its place. One that cannot be parsed is a `DataError` in the rows' stead, so that it is no more than that.
"""

import codecs
import csv
import glob
import gzip
import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from sdft_ray.data.builtin import load
from sdft_ray.data.rows import quoted
from sdft_ray.errors import ConfigError, DataError, first_line

BUILTIN = "builtin:"
KINDS = (
    "builtin:NAME, a .jsonl, .json, .csv, .parquet or .arrow file, a pattern or a comma-separated list of files, "
    "a folder from datasets.save_to_disk, or a hub name"
)
LONGEST_CELL = 2**31 - 1  # characters; csv's own bound is 131,072


class Place(NamedTuple):
    """Where a row stands."""

    source: str  # the file, or the source where it is none
    line: int  # counted from 1; of a file without lines the row


class PlacedRow(NamedTuple):
    """A row at its place."""

    place: Place
    row: Any  # an object if all is well; a DataError where it could not be parsed
    name: str  # the example's, if the row has no id


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Which rows of a source are wanted."""

    split: str = "train"  # of a built-in set, a `DatasetDict` or a hub data set; "[:N]" behind it takes the first N
    config_name: str = ""  # of a hub data set that has several
    revision: str = ""  # of a hub data set: a branch, tag or commit
    filter: dict[str, Any] = field(default_factory=dict)  # column -> the value that a row has there
    num_examples: int = 0  # the first N of those; 0 takes all


def open_rows(name: str, selection: Selection) -> Iterator[PlacedRow]:
    """The rows of a source, in its order.

    Args:
        name: one of `KINDS`.
        selection: its split, configuration and revision are used.

    Raises:
        ConfigError: the source or its split does not exist, or a file cannot be read.
    """
    if name.startswith(BUILTIN):
        return _placed(name, _builtin_rows(name, selection.split))
    path = Path(name).expanduser()
    if path.is_dir():
        return _placed(name, _saved_rows(path, selection.split))
    files = _files(name)
    if files:
        first = _first_of(selection.split)[1]
        return islice((row for file in files for row in _file_rows(file, several=len(files) > 1)), first)
    if name.startswith(("/", ".", "~")) or name.count("/") > 1 or kind_of(name):
        raise ConfigError("data.source", name, f"no such file or folder below {Path.cwd()}", f"give {KINDS}")
    return _placed(name, _hub_rows(name, selection))


def kind_of(name: str) -> str:
    """The kind of file that a name ends with, such as .csv, of text also before .gz; "" for none that is read."""
    kind = Path(name.removesuffix(".gz")).suffix
    _, of_text = _READERS.get(kind, (None, False))
    return kind if kind in _READERS and (of_text or not name.endswith(".gz")) else ""


def _files(name: str) -> list[Path]:
    """The files that a name, a pattern or a list of both stands for; none where it stands for no file.

    Raises:
        ConfigError: a part of a list or a pattern stands for none, or a file is of no kind that can be read.
    """
    if Path(name).expanduser().exists():
        files = [Path(name).expanduser()]
    else:
        parts = [part.strip() for part in name.split(",")]
        is_pattern = any(glob.has_magic(part) for part in parts)
        if len(parts) == 1 and not is_pattern:
            return []
        files = []
        for part in parts:
            found = sorted(glob.glob(str(Path(part).expanduser()), recursive=True))
            if not found:
                raise ConfigError("data.source", name, f"no file below {Path.cwd()} is {part}", f"give {KINDS}")
            files += map(Path, found)
        if twice := next((file for index, file in enumerate(files) if file in files[:index]), None):
            raise ConfigError("data.source", name, f"names {twice} twice", "name every file once")
    for file in files:
        if not kind_of(file.name):
            raise ConfigError("data.source", file, "is of no kind that can be read", f"give {KINDS}")
    return files


def _file_rows(path: Path, *, several: bool) -> Iterator[PlacedRow]:
    read, of_text = _READERS[kind_of(path.name)]
    for line, row in read(_content(path) if of_text else path):
        yield PlacedRow(Place(str(path), line), row, f"{path}-line-{line}" if several else f"line-{line}")


def _content(path: Path) -> "_Content":
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError) as error:
        problem = f"cannot be read ({getattr(error, 'strerror', None) or first_line(error)})"
        raise ConfigError("data.source", path, problem, "give a file that can be read") from error
    return _Content(str(path), content.removeprefix(codecs.BOM_UTF8))


class _Content(NamedTuple):
    """The bytes of a file of text, and its name."""

    source: str
    content: bytes

    def decoded(self) -> str:
        try:
            return self.content.decode()
        except UnicodeDecodeError as error:
            line = self.content.count(b"\n", 0, error.start) + 1
            raise self.error(line, f"is not UTF-8 ({error.reason})", "save the file as UTF-8") from error

    def error(self, line: int, problem: str, remedy: str) -> DataError:
        return DataError(self.source, line, problem, remedy)


def _json_lines(file: _Content) -> Iterator[tuple[int, Any]]:
    """One object a line, each decoded and parsed by itself."""
    # Not splitlines(): JSON strings may hold U+2028 and the like as they are.
    content = file.content.rstrip()
    for line, row in enumerate(content.split(b"\n") if content else [], start=1):
        yield line, _parsed(file.source, line, row)


def _json_rows(file: _Content) -> Iterator[tuple[int, Any]]:
    """A list of objects, or one object a line, as some libraries write into files of this name."""
    if not file.content.lstrip().startswith(b"["):
        yield from _json_lines(file)
        return
    rows = _parsed(file.source, 1, file.content)
    if isinstance(rows, DataError):
        raise rows
    yield from enumerate(rows, start=1)


def _csv_rows(file: _Content) -> Iterator[tuple[int, Any]]:
    """Cells by the names in the first line; an empty cell is null."""
    csv.field_size_limit(LONGEST_CELL)
    reader = csv.DictReader(io.StringIO(file.decoded(), newline=""), strict=True)
    try:
        names = list(reader.fieldnames or ())
        if twice := next((name for index, name in enumerate(names) if name in names[:index]), None):
            raise file.error(1, f"the name {quoted(twice)} stands over two columns", "give every column its own")
        for row in reader:
            line = reader.line_num
            if None in row:
                remedy = "put cells that hold a comma into quotation marks"
                yield line, file.error(line, "has more cells than the first line has names", remedy)
            else:
                yield line, {name: cell or None for name, cell in row.items()}
    except csv.Error as error:
        remedy = "write quotation marks in a cell twice, and close each"
        raise file.error(reader.reader.line_num, f"is no CSV ({error})", remedy) from error


def _table_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Of a Parquet or Arrow file, read in parts."""
    import datasets  # here, because it takes seconds and few runs need it

    try:
        rows = datasets.load_dataset(
            path.suffix.removeprefix("."), data_files=str(path.absolute()), split="train", streaming=True
        )
        yield from enumerate(rows, start=1)
    except (OSError, ValueError, datasets.exceptions.DatasetGenerationError) as error:
        problem = f"is no {path.suffix} file that can be read ({first_line(error)})"
        raise ConfigError("data.source", path, problem, "write it anew") from error


# How a kind of file is read, and whether from its text or by its path.
_READERS: dict[str, tuple[Callable[[Any], Iterator[tuple[int, Any]]], bool]] = {
    ".jsonl": (_json_lines, True),
    ".json": (_json_rows, True),
    ".csv": (_csv_rows, True),
    ".parquet": (_table_rows, False),
    ".arrow": (_table_rows, False),
}


def _parsed(source: str, line: int, content: bytes) -> Any:
    """A JSON value, or the `DataError` that it is none."""
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line += content.count(b"\n", 0, error.start)
        return DataError(source, line, f"is not UTF-8 ({error.reason})", "save the file as UTF-8")
    try:
        return json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        line += error.lineno - 1
        problem = f"is not JSON ({error.msg} at column {error.colno}): {quoted(text)}" if text.strip() else "is blank"
        return DataError(source, line, problem, "write one JSON object a line")
    except (ValueError, RecursionError) as error:  # ours, a number of thousands of digits, or endless brackets
        return DataError(source, line, f"cannot be used ({error}): {quoted(text)}", "mend or remove the row")


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


def _placed(name: str, rows: Iterable[Any]) -> Iterator[PlacedRow]:
    return (PlacedRow(Place(name, line), row, f"line-{line}") for line, row in enumerate(rows, start=1))


def _builtin_rows(name: str, split: str) -> Iterable[Any]:
    try:
        return load(name.removeprefix(BUILTIN), *_first_of(split))
    except ValueError as error:  # no such set, split or number; the message lists what there is
        raise ConfigError("data.source", f"{name}:{split}", str(error), "choose one of these") from error


def _first_of(split: str) -> tuple[str, int | None]:
    """The split without a "[:N]" at its end, and that N; None where it has none."""
    name, bracket, number = split.removesuffix("]").partition("[:")
    return (name, int(number)) if bracket and number.isdecimal() and split.endswith("]") else (split, None)


def _saved_rows(path: Path, split: str) -> Iterable[Any]:
    import datasets  # here, because it takes seconds and few runs need it

    try:
        data = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError) as error:
        remedy = f"save the data with datasets.save_to_disk, or give {KINDS}"
        problem = f"the folder holds no saved data set ({first_line(error)})"
        raise ConfigError("data.source", path, problem, remedy) from error
    name, first = _first_of(split)
    if not isinstance(data, datasets.DatasetDict):
        return islice(data, first)
    if name not in data:
        raise ConfigError("data.split", split, f"{path} has no such split", f"choose one of {', '.join(data)}")
    return islice(data[name], first)


def _hub_rows(name: str, selection: Selection) -> Iterable[Any]:
    import datasets  # here, because it takes seconds and few runs need it

    try:
        data: Iterable[Any] = datasets.load_dataset(
            name, selection.config_name or None, split=selection.split, revision=selection.revision or None
        )
    except (OSError, ValueError) as error:  # offline, no such name, configuration, revision or split
        asked = f"split {selection.split}"
        asked += f" of configuration {selection.config_name}" if selection.config_name else ""
        asked += f" at revision {selection.revision}" if selection.revision else ""
        problem = f"no such file or folder, and {asked} could not be loaded from the hub ({first_line(error)})"
        remedy = f"check the name, data.config_name, data.revision and the network, or give {KINDS}"
        raise ConfigError("data.source", name, problem, remedy) from error
    return data
