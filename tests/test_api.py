"""The package as a library: what is imported when, what is refused, and how a job runs in a caller's process."""

import asyncio
import errno
import json
import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import sdft_ray
from sdft_ray.api import RunResult, checked, run_job
from sdft_ray.config import ClusterConfig, DataConfig, EvaluationConfig, Match, Mode, RunConfig
from sdft_ray.config.saved import plain_settings, write_settings
from sdft_ray.errors import ConfigError, SdftError, StorageError
from sdft_ray.launch import compose_config
from sdft_ray.tracking.summary import write_summary

HEAVY = ("torch", "ray", "vllm", "deepspeed", "transformers", "datasets", "hydra", "omegaconf")


class Folder(nullcontext[None]):
    """A run folder that nobody else uses."""

    def __init__(self, path: Path):
        super().__init__()
        self.path, self.logs = path, path / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)


class Job:
    """Does what it is given and writes what it came to."""

    def __init__(self, path: Path, act: Callable[[], Any] = lambda: None):
        self.folder, self._act = Folder(path), act
        self.thread: threading.Thread | None = None
        self.was_cancelled = False

    async def run(self) -> None:
        self.thread = threading.current_thread()
        self._act()
        try:
            await asyncio.sleep(0 if self._act is not interrupt_main_thread else 60)
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        logging.getLogger("vendor").info("it went well")
        (self.folder.path / "result.json").write_text('{"steps": 3}')


def interrupt_main_thread() -> None:
    ident = threading.main_thread().ident
    assert ident is not None
    signal.pthread_kill(ident, signal.SIGINT)


def config(**settings: Any) -> RunConfig:
    return RunConfig(cluster=ClusterConfig(), **settings)


def run(job: Job) -> RunResult:
    return run_job(job, "result.json", lambda log: None)


def run_in_a_notebook(job: Job) -> RunResult:
    async def cell() -> RunResult:
        return run(job)

    loop = asyncio.new_event_loop()  # not asyncio.run, which takes interrupts for itself
    try:
        return loop.run_until_complete(cell())
    finally:
        loop.close()


@pytest.mark.parametrize("name", sdft_ray.__all__)
def test_public_names_are_there_and_importing_the_package_imports_nothing_heavy(name: str) -> None:
    code = f"import sys, sdft_ray; print([m for m in {HEAVY} if m in sys.modules]); sdft_ray.{name}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_public_names_are_not_hidden_by_the_packages_own_folders() -> None:
    """Importing a folder binds its name in the package: one called like a function would take its place."""
    folders = {path.parent.name for path in Path(sdft_ray.__file__).parent.glob("*/__init__.py")}
    assert not folders & set(sdft_ray.__all__)


def test_a_function_needs_neither_ray_nor_torch_to_refuse_a_setting() -> None:
    code = (
        "import sys\nfrom sdft_ray import RunConfig, train\nfrom sdft_ray.config import ClusterConfig\n"
        "try:\n    train(RunConfig(cluster=ClusterConfig(), seeds=[1]))\n"
        "except Exception as error:\n    print(type(error).__name__)\n"
        "print([m for m in ('torch', 'ray', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.stdout == "ConfigError\n[]\n", done.stderr


@pytest.mark.parametrize("runs", [run, run_in_a_notebook])
def test_a_job_runs_to_its_end_also_where_an_event_loop_runs_already(
    runs: Callable[[Job], RunResult], tmp_path: Path
) -> None:
    job = Job(tmp_path / "run")
    assert runs(job) == RunResult(tmp_path / "run", {"steps": 3})
    assert (job.thread is threading.main_thread()) == (runs is run)


@pytest.mark.parametrize("runs", [run, run_in_a_notebook])
def test_what_libraries_say_is_in_the_runs_log_and_the_callers_logging_is_as_before(
    runs: Callable[[Job], RunResult], tmp_path: Path
) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    runs(Job(tmp_path / "run"))
    assert (root.handlers, root.level) == before
    assert "vendor INFO it went well" in (tmp_path / "run/logs/driver.log").read_text()


INTERRUPTED = """
import signal, sys, time
from pathlib import Path
from tests import test_api

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
began = time.monotonic()
job = test_api.Job(Path(sys.argv[1]), test_api.interrupt_main_thread)
try:
    getattr(test_api, sys.argv[2])(job)
except KeyboardInterrupt:
    print(job.was_cancelled, time.monotonic() - began < 30)
"""


@pytest.mark.parametrize("runs", [run, run_in_a_notebook])
def test_an_interrupt_ends_the_job_before_it_reaches_the_caller(
    runs: Callable[[Job], RunResult], tmp_path: Path
) -> None:
    """In a process of its own, as signals go to one."""
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path / "run"), runs.__name__]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], timeout=120)
    assert done.stdout == "True True\n", done.stderr


@pytest.mark.parametrize("runs", [run, run_in_a_notebook])
def test_an_error_of_a_job_reaches_the_caller(runs: Callable[[Job], RunResult], tmp_path: Path) -> None:
    def fail() -> None:
        raise SdftError("no room")

    with pytest.raises(SdftError, match="no room"):
        runs(Job(tmp_path / "run", fail))


@pytest.mark.parametrize("runs", [run, run_in_a_notebook])
def test_an_error_of_a_group_of_tasks_reaches_the_caller_alone(
    runs: Callable[[Job], RunResult], tmp_path: Path
) -> None:
    def fail() -> None:
        raise ExceptionGroup("tasks", [ExceptionGroup("more", [ConfigError("seed", 1, "is odd", "take 2")])])

    with pytest.raises(ConfigError, match="seed=1: is odd"):
        runs(Job(tmp_path / "run", fail))


@pytest.mark.parametrize("runs", [run, run_in_a_notebook])
@pytest.mark.parametrize("in_group", [False, True])
def test_a_full_disk_is_told_in_our_words_and_another_error_of_the_system_in_its_own(
    runs: Callable[[Job], RunResult], tmp_path: Path, in_group: bool
) -> None:
    file = tmp_path / "run" / "summary.json"

    def fail(error: OSError) -> None:
        raise ExceptionGroup("tasks", [error]) if in_group else error

    full = OSError(errno.ENOSPC, "No space left on device")
    away = FileNotFoundError(errno.ENOENT, "No such file or directory", str(file))
    for error, what in ((full, file.parent), (away, file)):
        with pytest.raises(StorageError, match=rf"{what} cannot be written \({error.strerror}\).*resume=auto"):
            runs(Job(file.parent, partial(fail, error)))
    with pytest.raises(ConnectionRefusedError):
        runs(Job(file.parent, partial(fail, ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"))))


def test_a_finished_run_is_returned_with_its_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = config(runs_dir=str(tmp_path), name="one", resume="auto", num_steps=4, mode=Mode.evaluate)
    folder = tmp_path / "one"
    folder.mkdir()
    write_settings(folder, plain_settings(replace(cfg, mode=Mode.train)))
    write_summary(folder, {"num_steps": 4})
    assert sdft_ray.train(cfg) == RunResult(folder, {"num_steps": 4})
    assert capsys.readouterr().out == f"{folder} is finished; nothing to do\n"


def test_composed_settings_are_those_of_the_command_and_go_through_the_folder_unchanged() -> None:
    cfg = compose_config("+cluster=local", "+recipe=facts", "+evaluation.sets.mine={source: a.jsonl, match: EXACT}")
    assert (cfg.num_epochs, cfg.teacher.template) == (30, "single_turn_short")
    assert json.loads(json.dumps(plain_settings(cfg))) == plain_settings(cfg)
    assert checked(cfg, Mode.train) == cfg


def test_evaluation_sets_are_mappings_whose_enums_may_be_members() -> None:
    sets = {"mine": {"source": "a.jsonl", "match": Match.EXACT}}
    cfg = checked(config(evaluation=EvaluationConfig(sets=sets)), Mode.train)
    assert cfg.evaluation.named_sets()["mine"].match is Match.EXACT
    assert plain_settings(cfg)["evaluation"]["sets"]["mine"]["match"] == "EXACT"


def test_a_preset_that_is_not_there_is_refused() -> None:
    with pytest.raises(SdftError, match="recipe=factz: there is no such file in conf/recipe; facts is meant"):
        compose_config("+cluster=local", "+recipe=factz")


def change(cfg: RunConfig, section: str, name: str, value: object) -> RunConfig:
    setattr(getattr(cfg, section) if section else cfg, name, value)
    return cfg


REFUSED = [
    (lambda: RunConfig(), r"cluster=\?\?\?: names no machines; set it to a ClusterConfig"),
    (lambda: change(config(), "learner", "lr", 1e-4), r"learner\.lr=0\.0001: .*nearest is learner\.learning_rate"),
    (lambda: change(config(), "", "num_step", 4), r"num_step=4: .* the nearest is num_steps"),
    (lambda: change(config(), "learner", "zero_stage", 7), r"learner\.zero_stage=7"),
    (lambda: change(config(), "", "batch_size", "many"), "Value 'many' .*batch_size"),
    (lambda: config(seeds=[1, 2]), r"seeds=\[1, 2\]: .*once a seed"),
    (lambda: config(stages=["facts"]), r"stages=\['facts'\]: .*list of \(name, RunConfig\)"),
    (lambda: [], r"stages=\[\]: there is nothing to train"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_settings_that_python_lets_pass_are_refused_before_anything_is_read(
    make: Callable[[], RunConfig], message: str
) -> None:
    with pytest.raises(SdftError, match=message):
        sdft_ray.train(make())


def test_evaluate_and_check_teacher_set_their_mode_themselves() -> None:
    """Their jobs refuse to go on with a run, and name the mode in which they do."""
    cfg = config(resume="auto", name="one", data=DataConfig(source="builtin:facts"))
    for function in (sdft_ray.evaluate, sdft_ray.check_teacher):
        with pytest.raises(ConfigError, match=f"mode={function.__name__}"):
            function(cfg)
