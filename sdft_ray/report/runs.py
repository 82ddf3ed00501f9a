"""Run folders as records. What a run has not written yet, or an older version never wrote, is absent, not wrong."""

import glob
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sdft_ray.config.saved import CONFIG_FILE, flat_settings
from sdft_ray.errors import ConfigError, DataError
from sdft_ray.tracking.jsonl import METRICS_FILE, SAMPLES_FILE, record_of
from sdft_ray.tracking.summary import read_summary


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricLine:
    """One line of metrics.jsonl: a step or an evaluation."""

    step: int
    stage: str  # "" in a run without stages
    metrics: dict[str, float]  # values that were not finite are left out


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleLine:
    """One line of samples.jsonl."""

    step: int
    example_id: str
    prompt: str
    tokens: tuple[str, ...]  # [T]
    divergence: tuple[float, ...]  # [T] nats


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What a run folder holds."""

    name: str  # of the folder, with as much of its path as tells it from the others
    folder: Path
    settings: dict[str, Any]  # by full key
    lines: tuple[MetricLine, ...]
    samples: tuple[SampleLine, ...]
    summary: dict[str, Any]  # {} while the run has not finished

    @property
    def is_finished(self) -> bool:
        """Whether the run came to its end; the summary is the last thing it writes."""
        return bool(self.summary)

    @property
    def seed(self) -> Any:
        """Of the data order and of every completion."""
        return self.settings.get("seed")

    @property
    def num_steps(self) -> int:
        """Steps taken so far."""
        return max((line.step for line in self.lines), default=0)

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages that have begun, in order; none in a run without stages."""
        return tuple(dict.fromkeys(line.stage for line in self.lines if line.stage))

    def values(self, key: str) -> dict[int, float]:
        """A metric by step; of a step that was evaluated twice, the later value."""
        return {line.step: line.metrics[key] for line in self.lines if key in line.metrics}


def read_runs(entries: Sequence[str]) -> tuple[Run, ...]:
    """Reads run folders.

    Args:
        entries: folders, or patterns such as "runs/sdft-*"; of what a pattern matches, only run folders are taken.

    Raises:
        ConfigError: there is none, or an entry is no run folder.
        DataError: a file of a run is broken.
    """
    folders = list(dict.fromkeys(folder for entry in entries for folder in _folders(entry)))
    if not folders:
        raise ConfigError("runs", "[]", "names no run folder", "set it, such as runs=[runs/first,runs/second]")
    return tuple(_read_run(folder, name) for folder, name in zip(folders, _names(folders), strict=True))


def _folders(entry: str) -> list[Path]:
    if (Path(entry) / CONFIG_FILE).is_file():
        return [Path(entry).resolve()]
    found = [Path(path).resolve() for path in sorted(glob.glob(entry)) if (Path(path) / CONFIG_FILE).is_file()]
    if not found:
        problem = f"is no run folder: there is no {CONFIG_FILE} in it"
        raise ConfigError("runs", f"[{entry}]", problem, "give folders that a run has written, or a pattern of them")
    return found


def _names(folders: Sequence[Path]) -> list[str]:
    """As few last parts of each path as tell it from all others."""
    names = []
    for folder in folders:
        others = [other.parts for other in folders if other != folder]
        length = 1
        while any(other[-length:] == folder.parts[-length:] for other in others):
            length += 1
        names.append("/".join(folder.parts[-length:]).replace("//", "/"))
    return names


def _read_run(folder: Path, name: str) -> Run:
    return Run(
        name=name,
        folder=folder,
        settings=flat_settings(_read_settings(folder / CONFIG_FILE)),
        lines=tuple(_metric_line(*line) for line in json_lines(folder / METRICS_FILE)),
        samples=tuple(_sample_line(*line) for line in json_lines(folder / SAMPLES_FILE)),
        summary=read_summary(folder) or {},
    )


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        raise broken(path, line, "is not YAML") from error
    if not isinstance(settings, dict):
        raise broken(path, 1, "holds no settings")
    return settings


def json_lines(path: Path) -> Iterator[tuple[Path, int, dict[str, Any]]]:
    """The objects of a file with their places; a last line without its end is one that is still being written.

    Raises:
        DataError: a line is no JSON object with a step.
    """
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith("\n"):
                return
            try:
                yield path, number, record_of(line)
            except ValueError as error:
                raise broken(path, number, str(error)) from error


def _metric_line(path: Path, number: int, record: Mapping[str, Any]) -> MetricLine:
    metrics = {key: value for key, value in record.items() if "/" in key and value is not None}
    for key, value in metrics.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise broken(path, number, f"{key} is {value!r}, not a number")
    finite = {key: float(value) for key, value in metrics.items() if math.isfinite(value)}
    return MetricLine(step=record["step"], stage=str(record.get("stage") or ""), metrics=finite)


def _sample_line(path: Path, number: int, record: Mapping[str, Any]) -> SampleLine:
    tokens, divergence = record.get("tokens") or [], record.get("divergence") or []
    # A method without a teacher has tokens, but no divergence of any.
    if divergence and len(tokens) != len(divergence):
        raise broken(path, number, f"has {len(tokens)} tokens but {len(divergence)} divergences")
    return SampleLine(
        step=record["step"],
        example_id=str(record.get("example_id", "")),
        prompt=str(record.get("prompt", "")),
        tokens=tuple(str(token) for token in tokens),
        divergence=tuple(float(nats) for nats in divergence),
    )


def broken(path: Path, number: int, problem: str) -> DataError:
    """What is wrong with a line of a run."""
    return DataError(str(path), number, problem, "mend it, or leave this run out of runs")
