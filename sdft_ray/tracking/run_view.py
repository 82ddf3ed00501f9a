"""What mode=top shows of a run, read from its folder: the ends of its files, however long they are.

The driver reads it as well, and hands it to the Ray cluster, for those who do not see the folder.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sdft_ray.errors import DataError
from sdft_ray.tracking.jsonl import METRICS_FILE, record_of
from sdft_ray.tracking.metrics import RATES, is_evaluation
from sdft_ray.tracking.run_status import RunStatus, read_status, status_of
from sdft_ray.tracking.summary import read_summary

# Of a step. The time until weights are loaded has the parts weights/publish_s and weights/load_s.
TIMES = (
    "loop/rollout_s",
    "loop/score_s",
    "learner/forward_backward_s",
    "learner/optimizer_s",
    "learner/ema_s",
    "learner/save_s",
    "loop/load_weights_s",
    "turns/change_s",
    "loop/wait_s",
)
VALUES = (
    "learner/loss",
    "learner/divergence_nats",
    "rehearsal/divergence_nats",
    "learner/student_entropy_nats",
    "learner/teacher_entropy_nats",
    "learner/grad_norm",
    "rollout/completion_tokens_mean",
    "rollout/truncated_share",
    "learner/mismatch_max_nats",
    "loop/staleness_max",
    "loop/alarms",
)
SHOWN = {"step", "stage", "loop/step_s", *TIMES, *VALUES, *(key for key, _, _ in RATES)}
NAMESPACE = b"sdft_ray"  # of the key-value store of a Ray cluster, with packed views; the keys are the names of runs
NUM_STEPS, NUM_EVENTS = 60, 40  # the last ones
END_BYTES, HEAD_BYTES = 2**18, 2**16  # of a file
DRIVER_LOG = Path("logs") / "driver.log"
SAID = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(?:,\d+ sdft_ray\.tracking\.console INFO | (?=error: ))(.*)")
PASSING = re.compile(r"step \d+/\d+ |.* \.\.\.(?: \d+ of \d+)?$")  # a step has its numbers, a phase is over or goes on


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One line of the driver's log that a person was told, or a checkpoint."""

    at: float  # seconds of the driver's clock since 1970
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RunView:
    """One look at a run."""

    name: str
    folder: str
    status: RunStatus | None  # None before its first step
    steps: tuple[dict[str, Any], ...]  # the last lines of metrics.jsonl, with `SHOWN` alone
    first_evaluation: dict[str, Any]  # its line of metrics.jsonl; {} where there is none
    evaluation: dict[str, Any]  # the last one
    events: tuple[Event, ...]
    told: str  # the last line of the driver's log that a person was told
    summary: dict[str, Any] | None  # of a finished run

    @property
    def error(self) -> str:
        """What the driver has ended with; "" where it has said nothing, or something else behind it."""
        return self.told if self.told.startswith("error: ") else ""


def read_view(folder: Path) -> RunView:
    """Looks at a run folder; raises as `view_with`."""
    return view_with(read_status(folder), folder)


def view_with(status: RunStatus | None, folder: Path) -> RunView:
    """Looks at a run folder whose status is known.

    Raises:
        DataError: metrics.jsonl or summary.json is broken.
    """
    metrics = folder / METRICS_FILE
    lines = _records(metrics, _end(metrics))
    evaluations = [line for line in lines if is_evaluation(line)]
    first = next(filter(is_evaluation, _records(metrics, _head(metrics))), {})
    steps = [_shown(line) for line in lines if "loop/step_s" in line]
    said = [match.groups() for line in _end(folder / DRIVER_LOG) if (match := SAID.match(line))]
    told = [Event(at=_seconds(time), text=text) for time, text in said if not PASSING.match(text)]
    saved = [Event(at=path.stat().st_mtime, text=f"checkpoint     {path.name}") for path in _checkpoints(folder)]
    return RunView(
        name=folder.name,
        folder=str(folder),
        status=status,
        steps=tuple(steps[-NUM_STEPS:]),
        first_evaluation=first,
        evaluation=evaluations[-1] if evaluations else first,
        events=tuple(sorted(told + saved, key=lambda event: event.at)[-NUM_EVENTS:]),
        told=said[-1][1] if said else "",
        summary=read_summary(folder),
    )


def packed(view: RunView) -> bytes:
    """The view as bytes that `unpacked` reads."""
    return json.dumps(asdict(view)).encode()


def unpacked(content: bytes) -> RunView:
    """The view that `packed` has made `content` of."""
    record = json.loads(content)
    status = None if record["status"] is None else status_of(record["status"])
    events = tuple(Event(**event) for event in record["events"])
    return RunView(**{**record, "status": status, "events": events, "steps": tuple(record["steps"])})


def _shown(line: Mapping[str, Any]) -> dict[str, Any]:
    """What a frame shows of a step, with six digits: more would be sent in vain."""
    kept = {key: value for key, value in line.items() if key in SHOWN}
    return {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in kept.items()}


def _checkpoints(folder: Path) -> Iterable[Path]:
    return (path for path in (folder / "checkpoints").glob("step-*") if not path.suffix)


def _head(path: Path) -> list[str]:
    """The first whole lines of a file; none where it is not there."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        return file.read(HEAD_BYTES).decode(errors="replace").split("\n")[:-1]


def _end(path: Path) -> list[str]:
    """The last whole lines of a file; none where it is not there."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        start = max(0, file.seek(0, 2) - END_BYTES)
        file.seek(start)
        return file.read().decode(errors="replace").split("\n")[bool(start) : -1]


def _records(path: Path, lines: Iterable[str]) -> list[dict[str, Any]]:
    records = []
    for line in lines:
        try:
            records.append(record_of(line))
        except ValueError as error:
            raise DataError(
                str(path), 0, f"holds a line that {error}: {line[:40]!r}", "mend or move the file"
            ) from error
    return records


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()
