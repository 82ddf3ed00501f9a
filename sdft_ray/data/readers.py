"""Rows of a source as they are, each with its place: built-in sets, files, saved data sets, data sets of a hub."""

import glob
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Self

from sdft_ray.config import DataConfig, EvaluationSetConfig
from sdft_ray.data.builtin import load
from sdft_ray.data.files import file_rows, kind_of, repeated
from sdft_ray.errors import ConfigError, first_line, line_or_row

BUILTIN = "builtin:"
KINDS = (
    "builtin:NAME, a .jsonl, .ndjson, .json, .csv, .tsv, .parquet or .arrow file, a pattern or a comma-separated list "
    "of files, a folder from datasets.save_to_disk, or a hub name"
)


class Place(NamedTuple):
    """Where a row stands."""

    source: str  # the file, or the source where it is none
    line: int  # counted from 1; of a file without lines the row

    @property
    def words(self) -> str:
        """The number with what is counted."""
        return f"{line_or_row(self.source)} {self.line}"


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

    @classmethod
    def of(cls, settings: DataConfig | EvaluationSetConfig, num_examples: int) -> Self:
        """What the settings of a source ask for; the data and its sets name the number differently."""
        return cls(
            split=settings.split,
            config_name=settings.config_name,
            revision=settings.revision,
            filter=settings.filter,
            num_examples=num_examples,
        )


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
    files = source_files(name)
    if files:
        first = _first_of(selection.split)[1]
        return islice((row for file in files for row in _file_rows(file, several=len(files) > 1)), first)
    if _looks_like_file(name):
        raise ConfigError("data.source", name, f"no such file or folder below {Path.cwd()}", f"give {KINDS}")
    return _placed(name, _hub_rows(name, selection))


def source_files(name: str) -> list[Path]:
    """The files that a name, a pattern or a list of both stands for; none where it stands for no file, as "" does.

    Of a folder these are all files below it.

    Raises:
        ConfigError: a part of a list or a pattern stands for none, or a file is of no kind that can be read.
    """
    if not name:  # Path("") is the working folder
        return []
    if Path(name).expanduser().is_dir():
        return [path for path in sorted(Path(name).expanduser().rglob("*")) if path.is_file()]
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
        if twice := repeated(files):
            raise ConfigError("data.source", name, f"names {twice} twice", "name every file once")
    for file in files:
        if not kind_of(file.name):
            raise ConfigError("data.source", file, "is of no kind that can be read", f"give {KINDS}")
    return files


def _looks_like_file(name: str) -> bool:
    """True for what is no name of a hub's, so that none is asked for it; such a name may have a dot behind its "/"."""
    folder, slash, last = name.rpartition("/")
    if name.startswith(("/", ".", "~")) or "/" in folder or kind_of(name):
        return True
    return re.search(r"\.[a-z]\w*$", last, re.IGNORECASE) is not None and (not slash or Path(folder).is_dir())


def _file_rows(path: Path, *, several: bool) -> Iterator[PlacedRow]:
    for line, row in file_rows(path):
        yield PlacedRow(Place(str(path), line), row, f"{path}-line-{line}" if several else f"line-{line}")


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
