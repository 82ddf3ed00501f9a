"""status.json: where a job is while it runs, which its other files do not say; mode=top and mode=stacks read it.

The driver replaces it every few seconds, from its first step on. What an earlier start has left moves to earlier/.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sdft_ray.errors import DataError, first_line

STATUS_FILE = "status.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerPlace:
    """One worker as its group sees it."""

    role: str
    rank: int
    node: str  # its address, "" where it is not known
    serves: bool  # false where it is lost
    num_open: int  # calls without an answer: completions it makes or scores, or a step


@dataclass(frozen=True, kw_only=True, slots=True)
class RunStatus:
    """What the driver knows."""

    mark: str  # by which the processes of this run are known, see cluster/environment.py
    method: str
    model: str
    cluster: str
    address: str  # of the head node of the Ray cluster that it has joined; "" for a Ray of its own
    host: str  # the driver's
    process_id: int  # the driver's
    started_at: float  # seconds of the driver's clock since 1970, as written_at
    written_at: float
    num_steps: int
    stages: tuple[tuple[str, int], ...]  # name and last step of each; the name is "" where there are none
    step: int  # the learner's weight version
    going_on: tuple[str, ...]  # what the terminal shows, such as "evaluating after step 4"
    versions: dict[str, int]  # weight version by role; none of a role whose weights never change
    workers: tuple[WorkerPlace, ...]
    ended: str = ""  # how it has, in words

    def stage(self) -> tuple[int, str]:
        """Number, from 1 on, and name of the stage that the next step belongs to."""
        for number, (name, last_step) in enumerate(self.stages, start=1):
            if self.step < last_step:
                return number, name
        return len(self.stages), self.stages[-1][0]


def write_status(folder: Path, status: RunStatus) -> None:
    """Replaces status.json.

    Raises:
        OSError: it cannot be written.
    """
    scratch = folder / f"{STATUS_FILE}.new"
    scratch.write_text(json.dumps(asdict(status)), encoding="utf-8")
    scratch.replace(folder / STATUS_FILE)


def read_status(folder: Path) -> RunStatus | None:
    """The status of the newest start in a run folder; None where no start has come to its first step.

    Raises:
        DataError: the file holds none.
    """
    path = folder / STATUS_FILE
    try:
        return status_of(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError, TypeError, KeyError) as error:
        problem = f"holds no status ({type(error).__name__}: {first_line(error)})"
        raise DataError(str(path), 1, problem, "move it out of the folder: the run writes it anew") from error


def status_of(record: Mapping[str, Any]) -> RunStatus:
    """The status that `asdict` has made a record of."""
    workers = tuple(WorkerPlace(**worker) for worker in record["workers"])
    stages = tuple((name, last_step) for name, last_step in record["stages"])
    return RunStatus(**{**record, "workers": workers, "stages": stages, "going_on": tuple(record["going_on"])})
