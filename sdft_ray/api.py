"""What the command does, as functions for Python: `train`, `evaluate`, `check_teacher`, `show`, each of a `RunConfig`.

All run in the calling process; all but `show` start Ray or join the one at RAY_ADDRESS, and return when everything has
ended. They import what they run themselves: Ray and torch take seconds, which a wrong setting should not wait for.
"""

import asyncio
import contextvars
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sdft_ray.cluster.finished import finished_run
from sdft_ray.config import Mode, RunConfig
from sdft_ray.config.keys import check_key
from sdft_ray.errors import ConfigError, SdftError, in_our_words
from sdft_ray.outcome import first_cause
from sdft_ray.tracking.summary import SUMMARY_FILE

if TYPE_CHECKING:
    from sdft_ray.preview.rows import Preview

LOOP_STARTS_WITHIN_S = 10.0  # where an interrupt has come before it
OnLog = Callable[[Path], None]  # is told the log of the run that begins


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a call came to, as its run folder holds it."""

    folder: Path
    summary: dict[str, Any]  # what its summary.json, evaluation.json or check_teacher.json holds


class Runnable(Protocol):
    """A job that has read its model and data."""

    @property
    def folder(self) -> Any:
        """Its run folder, a context manager with `path` and `logs`."""
        ...

    async def run(self) -> None:
        """Does everything, and leaves no process behind however it ends."""
        ...


def train(cfg: RunConfig | Sequence[tuple[str, RunConfig]], *, on_log: OnLog = lambda log: None) -> RunResult:
    """Teaches the model, unless `resume` is auto and the run is finished already.

    Args:
        cfg: the settings; or name and settings of every stage, in their order.
        on_log: is called with logs/driver.log once the run folder is there.

    Raises:
        SdftError: what a user can mend, with the key, the value and the remedy.
    """
    stages = _stages(cfg, Mode.train)
    if (finished := finished_run(stages[0][1])) is not None:
        print(finished)
        return RunResult(finished.path, _read(finished.path / SUMMARY_FILE))
    from sdft_ray.cluster.job import Job

    return run_job(Job(stages), SUMMARY_FILE, on_log)


def evaluate(cfg: RunConfig, *, on_log: OnLog = lambda log: None) -> RunResult:
    """Measures `model.path` as it is: `evaluation.sets`, `evaluation.prior` and `harness.tasks`.

    Args:
        cfg: the settings.
        on_log: is called with logs/driver.log once the run folder is there.

    Raises:
        SdftError: what a user can mend, with the key, the value and the remedy.
    """
    cfg = checked(_single(cfg), Mode.evaluate)
    from sdft_ray.cluster.evaluation import EvaluationJob
    from sdft_ray.cluster.run_folder import EVALUATION_FILE

    return run_job(EvaluationJob(cfg), EVALUATION_FILE, on_log)


def check_teacher(
    cfg: RunConfig, *, overrides: Sequence[str] | None = None, on_log: OnLog = lambda log: None
) -> RunResult:
    """Tells whether the model can use the demonstrations, before anything is trained.

    Args:
        cfg: the settings.
        overrides: those of the command that asks, from which the command to run next is made; None proposes none.
        on_log: is called with logs/driver.log once the run folder is there.

    Raises:
        SdftError: what a user can mend, with the key, the value and the remedy.
    """
    cfg = checked(_single(cfg), Mode.check_teacher)
    from sdft_ray.cluster.check import TeacherCheck
    from sdft_ray.cluster.run_folder import CHECK_FILE

    return run_job(TeacherCheck(cfg, overrides), CHECK_FILE, on_log)


def preflight(cfg: RunConfig | Sequence[tuple[str, RunConfig]], *, on_log: OnLog = lambda log: None) -> RunResult:
    """Does what a run does before its first step, and tells what would go wrong.

    Args:
        cfg: the settings; or name and settings of every stage, in their order.
        on_log: is called with logs/driver.log once the run folder is there.

    Raises:
        SdftError: what a user can mend, with the key, the value and the remedy.
    """
    from sdft_ray.cluster.preflight_job import PreflightJob
    from sdft_ray.cluster.run_folder import PREFLIGHT_FILE

    return run_job(PreflightJob(_stages(cfg, Mode.preflight)), PREFLIGHT_FILE, on_log)


def show(cfg: RunConfig) -> "Preview":
    """What the model will read of some rows; starts nothing, and writes `show.out` where `show.html` asks for it.

    Args:
        cfg: the settings; `show` chooses the rows.

    Raises:
        SdftError: what a user can mend, with the key, the value and the remedy.
    """
    cfg = checked(_single(cfg), Mode.show)
    from sdft_ray.cluster.preview import read_preview
    from sdft_ray.preview.page import write_page

    preview = read_preview(cfg)
    if cfg.show.html:
        write_page(preview, Path(cfg.show.out))
    return preview


def checked(cfg: RunConfig, mode: Mode) -> RunConfig:
    """A copy for `mode` with every type and range checked, also of fields that were set after `cfg` was made.

    Raises:
        ConfigError: a value cannot be used, or an attribute is no setting; with the nearest there is.
        SdftError: a value has another type than its setting.
    """
    _check_attributes(cfg)
    try:
        copy = OmegaConf.to_object(OmegaConf.structured(cfg))
    except OmegaConfBaseException as error:
        raise SdftError(" ".join(str(error).split())) from error
    assert isinstance(copy, RunConfig)
    return replace(copy, mode=mode)


def run_job(job: Runnable, result: str, on_log: OnLog) -> RunResult:
    """Runs a job to its end, with the log of all libraries in its folder.

    Several in one process are as good as one a process: each has an event loop, a Ray and a log of its own, and all
    workers are processes that end with it.

    Args:
        job: what to run.
        result: the name of the file in the run folder that holds what it came to.
        on_log: is told the log.
    """
    log: Path = job.folder.logs / "driver.log"
    on_log(log)
    with _logged_to(log), job.folder:
        try:
            _run_in_thread(job) if _is_in_event_loop() else asyncio.run(job.run())
        except BaseExceptionGroup as group:
            error = first_cause(group)
            assert error is not None
            raise in_our_words(error, job.folder.path) from group
        except OSError as error:
            raise in_our_words(error, job.folder.path) from error
    return RunResult(job.folder.path, _read(job.folder.path / result))


def _is_in_event_loop() -> bool:
    """True when this thread runs an event loop already, as a notebook's does."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _run_in_thread(job: Runnable) -> None:
    """Runs a job on an event loop in a thread of its own; an interrupt of this thread ends the job first."""
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]] = Future()

    async def follow() -> None:
        task = asyncio.create_task(job.run())
        started.set_result((asyncio.get_running_loop(), task))
        await task

    context = contextvars.copy_context()  # by which a notebook knows the cell that an output belongs to
    with ThreadPoolExecutor(1, thread_name_prefix="sdft_ray") as threads:
        threads.submit(int).result()  # makes the thread: a pool whose start of one is interrupted does not wait for it
        try:
            threads.submit(context.run, asyncio.run, follow()).result()
        except KeyboardInterrupt:
            with suppress(TimeoutError, RuntimeError):  # it has not begun, or has just ended and its loop with it
                loop, task = started.result(LOOP_STARTS_WITHIN_S)
                loop.call_soon_threadsafe(task.cancel)
            raise  # once the thread has ended


@contextmanager
def _logged_to(path: Path) -> Iterator[None]:
    """Sends the log messages and warnings of all libraries to a file; the terminal belongs to the run."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    handler = _DriverLog(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.handlers[:] = handlers
        root.setLevel(level)
        handler.close()


class _DriverLog(logging.FileHandler):
    """A log that says nothing where it cannot be written: a full disk must not hide what the run itself has to say."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Drops the record."""

    def close(self) -> None:
        """Closes the file, with or without what was left to write."""
        with suppress(OSError):
            super().close()


def _stages(cfg: RunConfig | Sequence[tuple[str, RunConfig]], mode: Mode) -> list[tuple[str, RunConfig]]:
    """Name and checked settings of every stage; raises as `checked`."""
    stages = [("", _single(cfg))] if isinstance(cfg, RunConfig) else list(cfg)
    if not stages:
        raise ConfigError("stages", "[]", "there is nothing to train", "name one stage or more")
    return [(name, checked(of_stage, mode)) for name, of_stage in stages]


def _single(cfg: RunConfig) -> RunConfig:
    """Refuses settings that stand for several stages or runs."""
    if cfg.stages:
        problem = "are several data sets in turn, of which this call takes one"
        raise ConfigError("stages", cfg.stages, problem, "leave them out, or give train a list of (name, RunConfig)")
    if cfg.seeds:
        remedy = "call the function once a seed, with seed and a name of its own"
        raise ConfigError("seeds", cfg.seeds, "are a run each, and this call is one", remedy)
    return cfg


def _check_attributes(section: Any, prefix: str = "") -> None:
    """Refuses an attribute that is no setting, which Python lets anybody add to a dataclass."""
    known = {field.name for field in fields(section)}
    for name, value in vars(section).items():
        if name not in known:
            check_key(prefix + name, value, RunConfig)
        elif is_dataclass(value):
            _check_attributes(value, f"{prefix}{name}.")


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
