"""metrics.jsonl and samples.jsonl in the run folder: a line is on disk before the next step begins.

A line of metrics.jsonl is one step or one evaluation: `step`, `time_s` (training time; the gap before a resume does
not count), `stage` where the run has stages, and the metrics by key, null where a value is not finite.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sdft_ray.errors import CheckpointError, NonFiniteError, first_line
from sdft_ray.records import SampleReport
from sdft_ray.tracking.disagreements import disagreement_rows
from sdft_ray.tracking.earlier import earlier_path, move_to_earlier
from sdft_ray.tracking.line_file import LineFile

METRICS_FILE = "metrics.jsonl"
SAMPLES_FILE = "samples.jsonl"
BAD_SAMPLES_FILE = "bad_samples.jsonl"  # of the step that a NaN or an infinity has ended
ANSWERS_FILE = "answers.jsonl"  # what the evaluator has read and scored, one line a question
# Lists as long as `tokens`; the teacher's are empty where nothing was scored.
PER_TOKEN = ("divergence", "student_logprobs", "teacher_logprobs", "student_entropy", "teacher_entropy")

Decode = Callable[[tuple[int, ...]], str]


class JsonLines:
    """The sink that writes both files."""

    def __init__(
        self, run_dir: Path, decode: Decode, resumed_step: int | None = None, say: Callable[[str], None] = print
    ):
        """Begins the files, or goes on with them.

        Args:
            run_dir: the run folder.
            decode: token ids to text, special tokens included.
            resumed_step: the step of the checkpoint that is resumed; lines beyond it move to earlier/ since their
                steps are taken again. None begins new files.
            say: is told when a file cannot be written; see `LineFile`.

        Raises:
            CheckpointError: a line before the last is not JSON.
        """
        self._run_dir = run_dir
        self._decode = decode
        self._stage = ""
        self._say = say
        # The metric lines of the run before it was resumed.
        self.history = self._open(resumed_step)

    @property
    def elapsed_s(self) -> float:
        """Training time of the run before it was resumed."""
        return self.history[-1]["time_s"] if self.history else 0.0

    def go_back_to(self, step: int) -> None:
        """Moves the lines beyond `step` to earlier/, since their steps are taken again; `history` has the others."""
        self.close()
        self.history = self._open(step)

    def _open(self, kept_step: int | None) -> list[dict[str, Any]]:
        history = cut_after(self._run_dir / METRICS_FILE, kept_step)
        timeless = next((record for record in history if not isinstance(record.get("time_s"), int | float)), None)
        if timeless is not None:
            raise CheckpointError(
                f"{self._run_dir / METRICS_FILE}: the line of step {timeless['step']} names no time_s; mend or move "
                "the file, then resume again."
            )
        cut_after(self._run_dir / SAMPLES_FILE, kept_step)
        self._metrics = LineFile(self._run_dir / METRICS_FILE, self._say)
        self._samples = LineFile(self._run_dir / SAMPLES_FILE, self._say)
        return history

    def begin_stage(self, name: str) -> None:
        """Names the stage of the lines that follow; "" for a run without stages."""
        self._stage = name

    def log_step(
        self, step: int, time_s: float, metrics: Mapping[str, float], samples: tuple[SampleReport, ...]
    ) -> None:
        """Writes one line of metrics and one a sample."""
        self.log_evaluation(step, time_s, metrics)
        self._samples.write(line_of(sample_record(step, sample, self._decode)) for sample in samples)

    def log_evaluation(self, step: int, time_s: float, metrics: Mapping[str, float]) -> None:
        """Writes one line of metrics."""
        finite = {key: value if math.isfinite(value) else None for key, value in metrics.items()}
        place = {"step": step, "time_s": round(time_s, 3)} | ({"stage": self._stage} if self._stage else {})
        self._metrics.write([line_of(place | finite)])

    def close(self) -> None:
        """Closes both files."""
        self._metrics.close()
        self._samples.close()

    def write_bad_samples(self, error: NonFiniteError) -> str:
        """Writes the samples of a step that was not taken, as in samples.jsonl, with what was NaN or infinite.

        A file of an earlier start moves to earlier/.

        Returns:
            A sentence that says where they are, or why they are nowhere.
        """
        records = [
            sample_record(error.step, sample, self._decode)
            | {"prompt_ids": sample.prompt_tokens, "nonfinite": sample.views.nonfinite or error.place}
            for sample in error.samples
        ]
        path = self._run_dir / BAD_SAMPLES_FILE
        try:
            write_lines(path, records)
        except OSError as full:
            return f"The samples could not be written to {path} ({full.strerror})."
        return f"The samples: {path}"


def sample_record(step: int, sample: SampleReport, decode: Decode) -> dict[str, Any]:
    """A line of samples.jsonl."""
    return {
        "step": step,
        "example_id": sample.example_id,
        "epoch": sample.epoch,
        "weight_version": sample.weight_version,
        "prompt": decode(sample.prompt_tokens),
        "completion": decode(sample.completion_tokens),
        "token_ids": sample.completion_tokens,
        "tokens": [decode((token,)) for token in sample.completion_tokens],
        "num_counted": sample.num_counted,
        **{name: _rounded(getattr(sample.views, name)) for name in PER_TOKEN},
        "disagreements": disagreement_rows(sample, decode),
        "copied_share": round(sample.copied_share, 6),
        "truncated": sample.truncated,
        "pool": [{"example_id": name, "score": round(score, 6)} for name, score in sample.pool_hits],
        "rehearsal": sample.is_rehearsal,
    }


def _rounded(values: np.ndarray) -> list[float | None]:
    return [round(value, 6) if math.isfinite(value) else None for value in values.tolist()]


def line_of(record: Mapping[str, Any]) -> str:
    """A record as a line of a JSON Lines file."""
    return json.dumps(record, ensure_ascii=False) + "\n"


def lines_until(path: Path, step: int | None) -> list[dict[str, Any]]:
    """The records of a file up to `step`; a last line that a kill cut short is none.

    Raises:
        CheckpointError: a line before the last is not JSON.
    """
    if step is None or not path.exists():
        return []
    return [record for record, _ in _records(path) if record["step"] <= step]


def cut_after(path: Path, step: int | None) -> list[dict[str, Any]]:
    """Leaves the records up to `step` in a file and returns them; what else it holds moves to earlier/.

    None leaves no record. The file is replaced in one move, so a kill loses nothing.

    Raises:
        CheckpointError: a line before the last is not JSON, or there is no room.
    """
    if step is None:
        move_to_earlier(path)
    if not path.exists():
        path.touch()
        return []
    kept = [(record, line) for record, line in _records(path) if record["step"] <= step]
    lines = [line for _, line in kept]
    whole = path.read_bytes()
    if b"".join(lines) != whole:
        try:
            earlier_path(path).write_bytes(_without(whole, lines))
            scratch = path.with_suffix(".new")
            scratch.write_bytes(b"".join(lines))
            os.replace(scratch, path)
        except OSError as error:
            raise CheckpointError(
                f"{path} cannot be cut back to step {step} ({error.strerror}); make room, then resume again."
            ) from error
    return [record for record, _ in kept]


def write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """A file of just these records; one that holds others moves to earlier/."""
    text = "".join(map(line_of, records))
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    scratch = path.with_suffix(".new")
    scratch.write_text(text, encoding="utf-8")
    move_to_earlier(path)
    os.replace(scratch, path)


def record_of(line: str) -> dict[str, Any]:
    """A line of a run's file of steps, samples, answers or faults as a record.

    Raises:
        ValueError: it is none; says what it is, such as "is not JSON (...)".
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON ({first_line(error)})") from error
    if not isinstance(record, dict) or not isinstance(record.get("step"), int):
        raise ValueError("is no JSON object with a whole number `step`")
    return record


def _records(path: Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Every whole line, parsed and as it stands."""
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            yield record_of(line.decode("utf-8", errors="replace")), line + b"\n"
        except ValueError as error:
            raise CheckpointError(
                f"{path}, line {number} {error}; mend or move the file, then resume again."
            ) from error


def _without(whole: bytes, lines: Sequence[bytes]) -> bytes:
    """The rest of a file without `lines`, which stand in it in this order."""
    rest, start = [], 0
    for line in lines:
        end = whole.index(line, start)
        rest.append(whole[start:end])
        start = end + len(line)
    return b"".join([*rest, whole[start:]])
