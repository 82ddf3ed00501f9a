"""TensorBoard: event files in the run folder, which `tensorboard --logdir runs` shows beside those of other runs.

torch's and TensorBoard's own writers hand events to a thread, which a full disk ends with a traceback. Here an event is
a record of a `LineFile`, which outlives that.
"""

import io
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sdft_ray.records import SampleReport
from sdft_ray.tracking.line_file import LineFile

FOLDER = "tensorboard"
FORMAT = "brain.Event:2"  # what the first record of an event file has to say


class TensorBoardSink:
    """The sink that writes a scalar a metric; its tag is the metric's key.

    Files are only added to. One that begins again behind an earlier step says so in its second record, and TensorBoard
    drops what the files before it have of later steps: a resumed run has every step once.
    """

    def __init__(self, run_dir: Path, resumed_step: int | None, say: Callable[[str], None]):
        """Begins a file.

        Args:
            run_dir: event files lie in its folder tensorboard/.
            resumed_step: the step of the checkpoint that is resumed; None for a run that begins.
            say: is told when a file cannot be written; see `LineFile`.
        """
        # Here and not above: most runs do without them.
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._session = event_pb2.Event, event_pb2.SessionLog
        self._summary = summary_pb2.Summary
        self._make_writer = RecordWriter
        self._folder = run_dir / FOLDER
        self._say = say
        self._num_files = 0
        self._last_step = resumed_step or 0
        self._begin(self._last_step + 1)

    def log_step(
        self, step: int, time_s: float, metrics: Mapping[str, float], samples: tuple[SampleReport, ...]
    ) -> None:
        """Writes the step's metrics. One that is taken again replaces itself, and all that came after it."""
        if step <= self._last_step:
            self._file.close()
            self._begin(step)
        self._last_step = step
        self._log(step, metrics)

    def log_evaluation(self, step: int, time_s: float, metrics: Mapping[str, float]) -> None:
        """Writes the evaluation's metrics."""
        self._log(step, metrics)

    def close(self) -> None:
        """Ends the file."""
        self._file.close()

    def _begin(self, first_step: int) -> None:
        """Begins a file that replaces what others have from `first_step` on."""
        self._folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}.{self._num_files}"
        self._num_files += 1
        self._file = LineFile(self._folder / name, self._say)
        self._write(file_version=FORMAT)
        self._write(step=first_step, session_log=self._session(status=self._session.START))

    def _log(self, step: int, metrics: Mapping[str, float]) -> None:
        values = [self._summary.Value(tag=key, simple_value=value) for key, value in metrics.items()]
        self._write(step=step, summary=self._summary(value=values))

    def _write(self, **content: Any) -> None:
        record = io.BytesIO()
        self._make_writer(record).write(self._event(wall_time=time.time(), **content).SerializeToString())
        self._file.write_records([record.getvalue()])
