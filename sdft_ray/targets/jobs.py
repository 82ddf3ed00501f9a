"""What every target can do with a job, and how a job stands: one interface for all of them."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

from sdft_ray.config.kubernetes import DNS_LABEL
from sdft_ray.errors import ClusterError, ConfigError
from sdft_ray.targets.run_file import Run

FOLDER = ".jobs"  # below runs_dir, with a folder for each job of Slurm and of hosts
LONGEST_NAME = 47  # KubeRay makes longer names of a job's, and every target calls a job the same


class JobState(Enum):
    """How a job stands; the value is the exit code of the command that tells it."""

    SUCCEEDED = 0
    FAILED = 3  # the run itself has failed
    NEVER_RAN = 4  # images, nodes or the submission: none of the run's code was reached
    OUT_OF_TIME = 5  # a deadline has ended it
    LOST = 6  # its cluster is gone, and nobody knows how it ended
    MISSING = 7  # there is no such job
    STOPPED = 8  # somebody has stopped it
    WAITING = 74  # it was taken, and does not run yet
    RUNNING = 75

    @property
    def has_ended(self) -> bool:
        """True when the job will never change again."""
        return self not in (JobState.WAITING, JobState.RUNNING)


@dataclass(frozen=True, kw_only=True, slots=True)
class JobStatus:
    """How a job stands, and what its target says of it."""

    state: JobState
    words: str  # the target's own statuses, reason and message
    attempt: str = ""  # names the log of the try that is under way; "" where there is none yet

    def __str__(self) -> str:
        return f"{self.state.name} ({self.words})" if self.words else self.state.name


class Unreachable(ClusterError):
    """Nobody answers, or answers with a failure of its own: the question may be asked again."""


class JobClient(Protocol):
    """The job of one name on one target. Every call may raise `Unreachable`, and may be made again."""

    @property
    def place(self) -> str:
        """The job and where it is, for people."""

    def submit(self, runs: Sequence[Run]) -> bool:
        """Hands a job over that does these runs.

        Returns:
            True when it is new; False when the same job was there already, whether or not it has ended.

        Raises:
            ConfigError: another job has the name, with the settings in which they differ; or one cannot be used there.
            ClusterError: the target refuses the job.
        """

    def status(self) -> JobStatus:
        """How the job stands now."""

    def log(self, attempt: str) -> AsyncGenerator[str, None]:
        """The log of one try from its beginning; its end says nothing about the job."""

    def stop(self) -> None:
        """Ends the job and frees its name; nothing is done where there is none. What the run has written stays."""


def name_of(runs: Sequence[Run]) -> str:
    """The name that was given to all runs of a job; each of several seeds has made its own of it."""
    _, cfg = runs[0][0]
    return cfg.name.removesuffix(f"-seed-{cfg.seed}") if len(runs) > 1 else cfg.name


def job_name(name: str) -> str:
    """A run's name as every target can write it.

    Raises:
        ConfigError: the run has no name, or one that no job can have.
    """
    if not name:
        raise ConfigError("name", "''", "a job that is begun anew has to find its run folder by its name", "set name")
    written = name.lower().replace("_", "-").replace("/", "-").replace(".", "-")
    if len(written) > LONGEST_NAME or not DNS_LABEL.fullmatch(written):
        remedy = f"use at most {LONGEST_NAME} letters, digits and -, with a letter or digit at both ends"
        raise ConfigError("name", name, "is no name that a job can have", remedy)
    return written


def job_folder(runs_dir: str, name: str) -> Path:
    """Where a job keeps its script, its log and its id: beside the run folders, which only runs make."""
    return Path(runs_dir).absolute() / FOLDER / job_name(name)
