"""Settings as another machine will read them, and the files of this one that they must not name."""

import glob
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath

from sdft_ray.config import AUTO, NEVER, Mode, RunConfig
from sdft_ray.errors import ConfigError

SELECTION = re.compile(r"/?\[:\d+\]$|:[\w.-]+(\[:\d+\])?$")  # what may stand behind a source: its split, its first rows

# The name of a data file below a folder of this machine, whether or not it is there: never one of a hub or an address.
RELATIVE_FILE = re.compile(r"(?!/)[^:\s{}]+\.(jsonl|ndjson|json|csv|tsv|parquet|arrow|jinja)(\.gz)?")


def named_files(cfg: RunConfig) -> dict[str, str]:
    """Every setting that may name a file or a folder to be read, as it was written; without those that are empty."""
    evaluation = {f"evaluation.sets.{name}.source": of.source for name, of in cfg.evaluation.named_sets().items()}
    found = {
        "model.path": cfg.model.path,
        "teacher.path": cfg.teacher.path,
        "teacher.template": cfg.teacher.template,
        "teacher.pool.source": cfg.teacher.pool.source,
        "data.source": cfg.data.source,
        **{f"data.mix.{name}.source": of.source for name, of in cfg.data.mix_sources().items()},
        "data.rehearsal.source": cfg.data.rehearsal.source,
        "evaluation.prior": cfg.evaluation.prior,
        "evaluation.general": cfg.evaluation.general,
        **evaluation,
        "harness.data": cfg.harness.data,
        "resume": "" if cfg.resume in (AUTO, NEVER) else cfg.resume,
    }
    return {key: value for key, value in found.items() if value}


def for_elsewhere(cfg: RunConfig, runs_dir: str, remedy: str, *, sees: Callable[[str], bool]) -> RunConfig:
    """The settings as the driver on another machine reads them: it resumes whatever it finds of its run.

    Args:
        cfg: the checked settings of one stage.
        runs_dir: the folder of all runs there.
        remedy: what to do about a file that is only here.
        sees: whether a path is there as it is here.

    Raises:
        ConfigError: one of them names a file of this machine that is not there.
    """
    for key, value in named_files(cfg).items():
        if _is_here(value) and not sees(value):
            raise ConfigError(key, value, "is a file of this machine, which the job does not see", remedy)
        if RELATIVE_FILE.fullmatch(value) and not sees(value):
            raise ConfigError(key, value, "is relative to a folder of this machine, which the job does not see", remedy)
    resume = AUTO if cfg.resume == NEVER and cfg.target.job == Mode.train.name else cfg.resume
    return replace(cfg, runs_dir=runs_dir, resume=resume)


def is_absolute(path: str) -> bool:
    """True when a path says the same wherever it is read; whether the file is there is known there alone."""
    return PurePosixPath(path).is_absolute()


def _is_here(value: str) -> bool:
    """True when a value stands for something of this machine's disk: by name, list, pattern, or with a split behind."""
    if "\n" in value or "{{" in value:  # the text of a template
        return False
    parts = [part.strip() for part in value.split(",")]
    candidates = {name for part in (value, *parts) for name in (part, SELECTION.sub("", part)) if name}
    return any(
        Path(name).expanduser().exists() or bool(glob.has_magic(name) and glob.glob(str(Path(name).expanduser())))
        for name in candidates
    )
