"""Where a run lies, and whether it is finished there.

Imports neither Ray nor torch, so that a finished run is found at once: sweeps and seeds are simply started again.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from sdft_ray.config import AUTO, NEVER, Mode, RunConfig
from sdft_ray.config.saved import changed_settings, plain_settings
from sdft_ray.errors import ConfigError, DataError
from sdft_ray.tracking.summary import SUMMARY_FILE, read_summary

# What decides how many steps there are where num_steps does not say it.
DECIDE_STEPS = ("batch_size", "data.", "num_epochs", "num_steps", "stages")


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A run with nothing left to do."""

    path: Path
    changes: tuple[str, ...]  # settings that are others now, which it was not trained with

    def __str__(self) -> str:
        """What the user is told."""
        return "\n".join([f"{self.path} is finished; nothing to do", *self.changes])


def run_name(cfg: RunConfig) -> str:
    """The run's name, made of method (or mode) and time where it has none.

    Raises:
        ConfigError: there is no name, but a run to go on with.
    """
    if cfg.name:
        return cfg.name
    if cfg.resume != NEVER:
        raise ConfigError("resume", cfg.resume, "says to go on, but not with which run", "set name to that run's name")
    kind = cfg.method.name if cfg.mode is Mode.train else cfg.mode.name
    return f"{kind}-{time.strftime('%Y%m%d-%H%M%S')}"


def run_path(cfg: RunConfig) -> Path:
    """The run folder.

    Raises:
        ConfigError: there is no name, but a run to go on with.
    """
    return Path(cfg.runs_dir).absolute() / run_name(cfg)


def finished_run(cfg: RunConfig) -> FinishedRun | None:
    """What resume=auto finds finished under this name; None where there is something left to train.

    A run whose settings ask for more steps than it has taken goes on from its last checkpoint. Other changes do not
    train it again; they are named, since its results are not theirs.

    Args:
        cfg: the checked settings, of the first stage.

    Raises:
        ConfigError: there is no name.
        DataError: the summary of the run is damaged.
    """
    if cfg.mode is not Mode.train or cfg.resume != AUTO:
        return None
    path = run_path(cfg)
    summary = read_summary(path)
    if summary is None:
        return None
    kept = changed_settings(path, plain_settings(cfg))
    if cfg.num_steps and not cfg.stages:
        taken = summary.get("num_steps")
        if not isinstance(taken, int):
            remedy = "mend it, or move it out of the folder: the run then goes on from its last checkpoint"
            raise DataError(str(path / SUMMARY_FILE), 1, f"has num_steps={taken}", remedy)
        is_done = cfg.num_steps <= taken
    else:  # how many steps these settings come to is known only once the data has been read
        is_done = not any(key.startswith(DECIDE_STEPS) for key in kept)
    changes = tuple(f"it was trained with {key}={value}" for key, value in kept.items())
    return FinishedRun(path, changes) if is_done else None
