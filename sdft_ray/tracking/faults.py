"""What is told of workers that are lost, join or leave: a log line at once, faults.jsonl, metrics of the next step."""

import time
from collections.abc import Callable
from pathlib import Path

from sdft_ray.faults import Fault, FaultKind
from sdft_ray.tracking.earlier import move_to_earlier
from sdft_ray.tracking.jsonl import line_of
from sdft_ray.tracking.line_file import LineFile

FAULTS_FILE = "faults.jsonl"
RECOVERY = "faults/recovery_s"
RECOVERED = (FaultKind.REPLACED, FaultKind.RESTORED)


def say_faults(say: Callable[[str], None]) -> Callable[[Fault], None]:
    """Prints a line for every fault."""

    def tell(fault: Fault) -> None:
        lasted = f" after {fault.seconds:.1f} s" if fault.kind in RECOVERED else ""
        say(f"{fault.kind.word:<14} {fault.text}{lasted}")

    return tell


class FaultLog:
    """Takes the faults of a run."""

    def __init__(self, say: Callable[[str], None]):
        """`say` prints a line."""
        self._say_line = say
        self._say = say_faults(say)
        self._step = lambda: 0
        self._lines: LineFile | None = None
        self._unwritten: list[str] = []  # faults of the start, before the folder was the run's
        self._metrics: dict[str, float] = {}

    def open(self, run_dir: Path, step: Callable[[], int], *, resumes: bool) -> None:
        """Begins faults.jsonl, or goes on with it if the run `resumes`; `step` tells where the learner is."""
        path = run_dir / FAULTS_FILE
        if not resumes:
            move_to_earlier(path)
        self._step, self._lines = step, LineFile(path, self._say_line)
        self._write()

    def tell(self, fault: Fault) -> None:
        """Takes one fault."""
        self._say(fault)
        metric = fault.kind.metric
        self._metrics[metric] = self._metrics.get(metric, 0.0) + fault.count
        if fault.kind in RECOVERED:
            self._metrics[RECOVERY] = max(self._metrics.get(RECOVERY, 0.0), fault.seconds)
        line = {
            "step": self._step(),
            "time": time.strftime("%Y-%m-%d %H:%M:%S"),
            "kind": fault.kind.word,
            "role": fault.role,
            "rank": fault.rank,
            "node": fault.node,
            "count": fault.count,
            "seconds": round(fault.seconds, 3),
            "text": fault.text,
        }
        self._unwritten.append(line_of(line))
        self._write()

    def take_metrics(self) -> dict[str, float]:
        """Counts since the last call by metric key, and the longest recovery; empty where nothing was lost."""
        taken, self._metrics = self._metrics, {}
        return taken

    def close(self) -> None:
        """Writes what has waited for room, and closes the file."""
        if self._lines is not None:
            self._lines.close()

    def _write(self) -> None:
        if self._lines is None or not self._unwritten:
            return
        self._lines.write(self._unwritten)
        self._unwritten.clear()
