"""The run folder: whose it is while a run writes, and what the next command may do to it.

The rule: nothing that a run has written is deleted, cut or overwritten by the next command.

- A finished run keeps its name: it goes on with `resume`, from one of its own checkpoints, or the name is refused. An
  unfinished run without a checkpoint begins again with resume=auto, since nothing else can be done with it.
- What a resumed run takes back or writes anew moves to `earlier/` beside it (`tracking/earlier.py`), and only once
  the start has succeeded; the checkpoints beyond the resumed one move to `checkpoints/earlier/`.
- A start that is refused leaves a folder as it was, and takes no name. The logs of its workers stay only where they say
  more than the error: a worker has failed, or the start was interrupted.
- One run at a time writes to a folder (`run_lock.py`).
- A damaged checkpoint is not resumed: resume=auto passes over it and says so, a named one is refused.

Two things are deleted: checkpoints beyond `keep_checkpoints`, which orders that, and what a kill has left of an
unfinished write (`step-N.partial`, `*.new`), which nothing can read.
"""

import asyncio
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sdft_ray.cluster.finished import run_path
from sdft_ray.cluster.run_lock import LOCK_FILE, RunLock, take_lock
from sdft_ray.config import AUTO, NEVER, Mode, RunConfig
from sdft_ray.config.saved import CONFIG_FILE, write_settings
from sdft_ray.errors import CheckpointError, ConfigError, SdftError
from sdft_ray.evaluation.harness.evaluator import HARNESS_ANSWERS_FILE
from sdft_ray.learner.checkpoint import abandon_later, check_named, complete_checkpoints, newest_sound, read_state
from sdft_ray.tracking.earlier import EARLIER, move_to_earlier
from sdft_ray.tracking.jsonl import ANSWERS_FILE, METRICS_FILE, cut_after, lines_until
from sdft_ray.tracking.metrics import is_evaluation
from sdft_ray.tracking.summary import SUMMARY_FILE
from sdft_ray.workers.worker import write_for_no_stranger

EVALUATION_FILE = "evaluation.json"  # what mode=evaluate comes to
CHECK_FILE = "check_teacher.json"  # what mode=check_teacher comes to
PREFLIGHT_FILE = "preflight.json"
MODEL, MERGED = "model", "merged"
LOGS = "logs"
UNFINISHED = ".new"  # suffix of a file until it is whole
OWN_FIRST = {LOCK_FILE, "driver.log"}  # what a start writes before it has succeeded
# What evaluators continue, which are made before the folder is the run's. The sinks, made after, cut their own files.
EVALUATED_FILES = (ANSWERS_FILE, HARNESS_ANSWERS_FILE)


class RunFolder:
    """Where a run writes, and the checkpoint it goes on from; a context manager around the run."""

    def __init__(
        self,
        path: Path,
        resumed: Path | None = None,
        *,
        damages: Sequence[str] = (),
        is_new: bool = False,
        lock: RunLock | None = None,
    ):
        """Describes a folder that is there.

        Args:
            path: the folder.
            resumed: the checkpoint to go on from; None begins at step 0.
            damages: what is wrong with the checkpoints that were passed over for it.
            is_new: whether this start has made it.
            lock: held by this process.
        """
        self.path = path
        self.resumed = resumed
        self.damages = tuple(damages)
        self.begins_again = resumed is None and any(_written(path))
        self._is_new = is_new
        self._lock = lock

    @property
    def logs(self) -> Path:
        """Log files of the driver and all workers."""
        return self.path / LOGS

    @property
    def checkpoints(self) -> Path:
        """Checkpoint folders step-N."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The final student."""
        return self.path / MODEL

    @property
    def merged(self) -> Path:
        """The same as a whole model, where an adapter was trained and export.merged asks for it."""
        return self.path / MERGED

    @cached_property
    def resumed_step(self) -> int | None:
        """The step of the resumed checkpoint; known from the start on, since the run removes old checkpoints."""
        if self.resumed is None:
            return None
        step: int = read_state(self.resumed)["weight_version"]
        return step

    def evaluated(self) -> set[str]:
        """Metrics that the run has measured of the resumed checkpoint's weights; none where they are another run's.

        Raises:
            CheckpointError: a line of metrics.jsonl before the last is not JSON.
        """
        step = self.resumed_step
        lines = lines_until(self.path / METRICS_FILE, step)
        return {key for line in lines if line["step"] == step and is_evaluation(line) for key in line}

    def check_held(self) -> None:
        """Raises `CheckpointError` where another run has taken the folder over."""
        if self._lock is not None:
            self._lock.check_held()

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Makes the folder that of these settings; called once the workers have started and passed their checks.

        The summary goes with them: it would say that a run of the new settings is finished.

        Raises:
            CheckpointError: a file of lines that is continued is broken before its last line.
            ConfigError: the folder cannot be written.
        """
        try:
            write_settings(self.path, settings, move_to_earlier)
            move_to_earlier(self.path / SUMMARY_FILE)
        except OSError as error:
            problem = f"{self.path} cannot be written ({error.strerror})"
            raise ConfigError("runs_dir", self.path.parent, problem, "make room there, then start again") from error
        last = self.resumed_step
        if last is not None and not is_evaluation(self.evaluated()):
            last -= 1  # answers that a kill has left of an evaluation that is made again
        for name in EVALUATED_FILES:
            if (self.path / name).exists():
                cut_after(self.path / name, last)
        if self.resumed is not None:
            abandon_later(self.resumed, self.checkpoints)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Releases the folder; a start that was refused takes a folder that it made itself away again."""
        if self._is_new and _is_refusal(error):
            _take_away(self.path, with_logs=_says_all(error))
        if self._lock is not None:
            self._lock.close()


def open_run_folder(cfg: RunConfig) -> RunFolder:
    """Finds the checkpoint to go on from, makes the folder, and locks it against other runs.

    Raises:
        ConfigError: the name is taken or in use, or there is no name to resume.
        CheckpointError: the checkpoint to resume does not exist, or is damaged, and so are all others.
    """
    path = run_path(cfg)
    _checkpoint_to_resume(cfg, path)  # refused before anything is made
    is_new = not path.exists()
    write_for_no_stranger()
    try:
        (path / LOGS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = f"{path}/{LOGS} cannot be made ({error.strerror})"
        remedy = "set runs_dir and name so that this is a folder that can be written"
        raise ConfigError("runs_dir", cfg.runs_dir, problem, remedy) from error
    with ExitStack() as on_failure:
        if is_new:
            on_failure.callback(_take_away, path, with_logs=False)
        lock = take_lock(path, cfg.runs_dir)
        on_failure.callback(lock.close)
        # Again: a run that has just ended may have saved another.
        resumed, damages = _sound(cfg, _checkpoint_to_resume(cfg, path))
        on_failure.pop_all()
    return RunFolder(path, resumed, damages=damages, is_new=is_new, lock=lock)


def _sound(cfg: RunConfig, chosen: Path | None) -> tuple[Path | None, Sequence[str]]:
    """The checkpoint to go on from, every file of which is what was written; and what is wrong with newer ones.

    Raises:
        CheckpointError: it was named and is damaged, or all that there are are.
    """
    if chosen is None:
        return None, ()
    if cfg.resume != AUTO:
        check_named(chosen)
        return chosen, ()
    found, damages = newest_sound(chosen.parent)
    if found is None:
        raise CheckpointError(
            f"resume=auto: none of the checkpoints in {chosen.parent} is sound: {'; '.join(damages)}. Bring one back "
            "from a copy, or begin again under another name."
        )
    return found, damages


def _is_refusal(error: BaseException | None) -> bool:
    """True when an error says that a run could not be, also where tasks of a group have raised it together."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_refusal, error.exceptions))
    return isinstance(error, SdftError | KeyboardInterrupt | SystemExit | asyncio.CancelledError)


def _says_all(error: BaseException | None) -> bool:
    """True when the message of a refusal leaves nothing to be looked up in the logs of the workers."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_says_all, error.exceptions))
    return isinstance(error, SdftError) and not error.log_says_more


def _take_away(path: Path, *, with_logs: bool) -> None:
    """Removes a folder in which nothing but a start that has not succeeded has written.

    Args:
        path: the folder.
        with_logs: whether what workers have logged goes, too; where it does not, the folder stays with it.
    """
    for file in _files(path):
        goes = file.name in OWN_FIRST or file.suffix == UNFINISHED or (with_logs and file.parent == path / LOGS)
        if not goes and file.stat().st_size:
            return
    if path.exists():  # else somebody has removed it while the run went on
        shutil.rmtree(path)


def _checkpoint_to_resume(cfg: RunConfig, path: Path) -> Path | None:
    """The checkpoint; None begins at step 0, in a folder in which no run has come to anything."""
    own = complete_checkpoints(path / "checkpoints")
    go_on = "choose another name" + (", or go on with resume=auto" if own and cfg.mode is Mode.train else "")
    if cfg.resume == NEVER:
        if any(_written(path)):
            raise ConfigError("name", cfg.name, f"the run folder {path} exists, and resume=never", go_on)
        return None
    if cfg.resume == AUTO:
        results = [name for name in (SUMMARY_FILE, MODEL, EVALUATION_FILE, CHECK_FILE) if (path / name).exists()]
        if not own and results:
            problem = f"there is no checkpoint to go on from in {path}, which holds results ({', '.join(results)})"
            raise ConfigError("resume", AUTO, problem, f"choose another name than {cfg.name}, which begins at step 0")
        return own[-1] if own else None
    folder = Path(cfg.resume).absolute()
    if not folder.is_dir():
        raise CheckpointError(f"resume={cfg.resume}: no such folder; give a step-N folder, auto or never.")
    if folder not in own and any(_written(path)):
        problem = f"the run folder {path} exists, and resume={cfg.resume} is no checkpoint of its own"
        raise ConfigError("name", cfg.name, problem, go_on)
    return folder


def _written(path: Path) -> Iterator[Path]:
    """What runs have written into the folder, except logs and the settings of a start that came to nothing."""
    for file in _files(path):
        inside = file.relative_to(path)
        is_own = (
            inside.parts[0] not in (LOGS, EARLIER, LOCK_FILE, CONFIG_FILE, PREFLIGHT_FILE) and file.suffix != UNFINISHED
        )
        if is_own and file.stat().st_size:
            yield file


def _files(path: Path) -> Iterator[Path]:
    return (file for file in path.rglob("*") if file.is_file())
