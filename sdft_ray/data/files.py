"""Kinds of files that hold rows: JSON Lines, JSON, CSV, Parquet and Arrow, text kinds also packed by gzip.

A row that cannot be parsed is a `DataError` in its stead, so that it is no more than that.
"""

import codecs
import csv
import gzip
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from sdft_ray.data.values import parse_json, quoted
from sdft_ray.errors import WITH_LINES, ConfigError, DataError, first_line

T = TypeVar("T")

LONGEST_CELL = 2**31 - 1  # characters; csv's own bound is 131,072
SEPARATORS = (",", ";", "\t")  # of the cells in a line, the first of these that its first line has


def kind_of(name: str) -> str:
    """The kind of file that a name ends with, in small letters, of text also before .gz; "" for none that is read."""
    name = name.lower()
    kind = Path(name.removesuffix(".gz")).suffix
    return kind if kind in _READERS and (kind in WITH_LINES or not name.endswith(".gz")) else ""


def file_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """The rows of a file of a kind that can be read, each with its line, or its number where there are no lines.

    Raises:
        ConfigError: the file cannot be read.
        DataError: it is no such file, as a whole.
    """
    kind = kind_of(path.name)
    return _READERS[kind](_content(path) if kind in WITH_LINES else path)


def _content(path: Path) -> "_Content":
    try:
        content = path.read_bytes()
        if path.suffix.lower() == ".gz":
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
    """One object a line, each decoded and parsed by itself; blank lines are passed over."""
    # Not splitlines(): JSON strings may hold U+2028 and the like as they are.
    for line, row in enumerate(file.content.split(b"\n"), start=1):
        if row.strip():
            yield line, _parsed(file.source, line, row)


def _json_rows(file: _Content) -> Iterator[tuple[int, Any]]:
    """A list of objects, or one object a line, as some libraries write into files of this name."""
    content = file.content.lstrip()
    if not content.startswith(b"["):
        is_object = content.startswith(b"{") and isinstance(
            _parsed(file.source, 1, content.partition(b"\n")[0]), DataError
        )
        whole = _parsed(file.source, 1, file.content) if is_object else None
        if isinstance(whole, dict):
            problem = f"is one object over several lines, with the keys {', '.join(map(quoted, whole))}"
            raise file.error(1, problem, "write the list of rows by itself, or one object a line")
        yield from _json_lines(file)
        return
    rows = _parsed(file.source, 1, file.content)
    if isinstance(rows, DataError):
        raise rows
    yield from enumerate(rows, start=1)


def _csv_rows(file: _Content) -> Iterator[tuple[int, Any]]:
    """Cells by the names in the first line, each row with the line it begins at; an empty cell is null.

    Columns without a name, and rows, are passed over where all their cells are empty: spreadsheets write such.
    """
    csv.field_size_limit(LONGEST_CELL)
    text = file.decoded()
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=_separator(file, text), strict=True)
    start = 1
    try:
        names = next(lines, [])
        if twice := repeated([name for name in names if name]):
            raise file.error(1, f"the name {quoted(twice)} stands over two columns", "give every column its own")
        start = lines.line_num + 1
        for cells in lines:
            if any(cells):
                yield start, _csv_row(file, start, names, cells)
            start = lines.line_num + 1
    except csv.Error as error:
        remedy = "write quotation marks in a cell twice, and close each"
        raise file.error(start, f"is no CSV ({error})", remedy) from error


def _csv_row(file: _Content, line: int, names: Sequence[str], cells: Sequence[str]) -> Any:
    """The cells by their names, or the `DataError` that one has no name."""
    unnamed = [cell for name, cell in zip_longest(names, cells, fillvalue="") if cell and not name]
    if not unnamed:
        return {name: cell or None for name, cell in zip_longest(names, cells, fillvalue="") if name}
    problem = f"the cell {quoted(unnamed[0])} stands under no name of the first line"
    return file.error(line, problem, "name its column, or put cells that hold a separator into quotation marks")


def _separator(file: _Content, text: str) -> str:
    """What parts the names in the first line: a comma, or where there is none a semicolon or a tab.

    Spreadsheets write semicolons in countries whose numbers have a decimal comma.
    """
    if kind_of(file.source) == ".tsv":
        return "\t"
    names = re.sub('"[^"]*"', "", text.partition("\n")[0])
    return next((separator for separator in SEPARATORS if separator in names), SEPARATORS[0])


def _table_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Of a Parquet or Arrow file, read in parts."""
    import datasets  # here, because it takes seconds and few runs need it

    try:
        rows = datasets.load_dataset(
            kind_of(path.name).removeprefix("."), data_files=str(path.absolute()), split="train", streaming=True
        )
        yield from enumerate(rows, start=1)
    except (OSError, ValueError, datasets.exceptions.DatasetGenerationError) as error:
        problem = f"is no {path.suffix} file that can be read ({first_line(error)})"
        raise ConfigError("data.source", path, problem, "write it anew") from error


# How a kind of file is read: from its text where it has lines, else by its path.
_READERS: dict[str, Callable[[Any], Iterator[tuple[int, Any]]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json_rows,
    ".csv": _csv_rows,
    ".tsv": _csv_rows,
    ".parquet": _table_rows,
    ".arrow": _table_rows,
}


def _parsed(source: str, line: int, content: bytes) -> Any:
    """A JSON value, or the `DataError` that it is none."""
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line += content.count(b"\n", 0, error.start)
        return DataError(source, line, f"is not UTF-8 ({error.reason})", "save the file as UTF-8")
    try:
        return parse_json(text)
    except json.JSONDecodeError as error:
        line += error.lineno - 1
        problem = f"is not JSON ({error.msg.removesuffix(' at')} at column {error.colno}): {quoted(text)}"
        return DataError(source, line, problem, "write one JSON object a line")
    except (ValueError, RecursionError) as error:  # ours, a number of thousands of digits, or endless brackets
        return DataError(source, line, f"cannot be used ({error}): {quoted(text)}", "mend or remove the row")


def repeated(items: Sequence[T]) -> T | None:
    """The first item that stands before itself once more; None where each is there once."""
    return next((item for index, item in enumerate(items) if item in items[:index]), None)
