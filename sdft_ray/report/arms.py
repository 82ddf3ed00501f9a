"""Runs of the same settings but another seed are one arm; what else differs between runs gives the arms their names."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sdft_ray.report.runs import Run

# What says where and how a run is kept and shown, not what it computes.
NOT_THE_EXPERIMENT = (
    "checkpoint_every",
    "keep_checkpoints",
    "mode",
    "name",
    "note",
    "plan",
    "report",
    "resume",
    "runs",
    "runs_dir",
    "seed",
    "seeds",
    "tracking",
)
MAX_SETTINGS_IN_LABEL = 2
MAX_VALUE_IN_LABEL = 28  # characters
ABSENT = "\N{EN DASH}"  # how a setting looks that a run does not have

Settings = dict[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """One way of training, with one run a seed."""

    index: int  # its place in the order of the runs, which gives it its colour and marker
    label: str
    runs: tuple[Run, ...]

    @property
    def method(self) -> str:
        """Name of the method."""
        return method_of(self.runs[0])

    @property
    def has_teacher(self) -> bool:
        """Whether the student moves towards a teacher; what else is called divergence is a likelihood of tokens."""
        return str(self.runs[0].settings.get("method.target", "TEACHER")).upper() == "TEACHER"

    @property
    def final_runs(self) -> tuple[Run, ...]:
        """The finished runs; all of them while none has finished."""
        return tuple(run for run in self.runs if run.is_finished) or self.runs


def method_of(run: Run) -> str:
    """Name of a run's method."""
    return str(run.settings.get("method.name") or "unnamed method")


def group_runs(runs: Sequence[Run]) -> tuple[Arm, ...]:
    """The arms, in the order in which their first runs stand."""
    groups: dict[tuple[tuple[str, str], ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(sorted(experiment(run).items())), []).append(run)
    labels = _labels([members[0] for members in groups.values()])
    return tuple(
        Arm(index=index, label=label, runs=tuple(members))
        for index, (label, members) in enumerate(zip(labels, groups.values(), strict=True))
    )


def experiment(run: Run) -> Settings:
    """The settings that decide what a run computes, as text.

    A path may name the run's own seed, as that of the model which a run of the same seed has trained: it is the same
    in all of them.
    """
    own_seed = re.compile(rf"\bseed-{re.escape(str(run.seed))}\b")
    return {
        key: own_seed.sub("seed-*", as_text(value))
        for key, value in run.settings.items()
        if key.partition(".")[0] not in NOT_THE_EXPERIMENT and value not in ([], {})
    }


def differing_settings(arms: Sequence[Arm]) -> dict[str, tuple[str, ...]]:
    """The settings in which arms differ, by full key, with the value of each arm."""
    return _differences([experiment(arm.runs[0]) for arm in arms])


def as_text(value: Any) -> str:
    """A setting as the command line would take it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(map(as_text, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {as_text(inner)}" for key, inner in value.items()) + "}"
    return "" if value is None else str(value)


def _differences(settings: Sequence[Settings]) -> dict[str, tuple[str, ...]]:
    keys = dict.fromkeys(key for one in settings for key in one)
    values = {key: tuple(one.get(key, ABSENT) for one in settings) for key in keys}
    return {key: row for key, row in values.items() if len(set(row)) > 1}


def _labels(firsts: Sequence[Run]) -> list[str]:
    """The method, with what differs among the arms of the same method; the run's name where that is much."""
    labels = []
    for run in firsts:
        method = method_of(run)
        differing = _differences([experiment(other) for other in firsts if method_of(other) == method])
        keys = _telling(differing)
        own = experiment(run)
        parts = [f"{_short(key, keys)}={_clipped(own[key])}" for key in keys if key in own]
        if len(keys) > MAX_SETTINGS_IN_LABEL:
            parts = [run.name]
        labels.append(", ".join([method, *parts]))
    twice = {label for label, count in Counter(labels).items() if count > 1}
    return [f"{label}, {run.name}" if label in twice else label for label, run in zip(labels, firsts, strict=True)]


def _telling(differing: Iterable[str]) -> list[str]:
    """Without what follows from another difference: a cluster's numbers from its name, the evaluation from the data."""
    keys = list(differing)
    if "cluster.name" in keys:
        keys = [key for key in keys if not key.startswith("cluster.") or key == "cluster.name"]
    return [key for key in keys if not key.startswith("evaluation.")] or keys


def _short(key: str, keys: Sequence[str]) -> str:
    """The last part of a key where no other one ends in it; the first where the last is what the first is called by."""
    section, _, last = key.rpartition(".")
    if last in ("name", "path", "source") and section:
        return section
    return last if sum(other.rpartition(".")[2] == last for other in keys) == 1 else key


def _clipped(value: str) -> str:
    if len(value) <= MAX_VALUE_IN_LABEL:
        return value
    return "\N{HORIZONTAL ELLIPSIS}" + value[1 - MAX_VALUE_IN_LABEL :]
