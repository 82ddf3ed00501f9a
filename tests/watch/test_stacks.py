"""py-spy on processes of the tests' own, known by their environment."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sdft_ray.cluster.environment import run_mark, worker_marks
from sdft_ray.errors import ClusterError
from sdft_ray.watch import nodes, stacks
from sdft_ray.watch.sources import FolderSource
from sdft_ray.watch.stacks import RunProcesses, stacks_here
from tests.watch.observed import make_look, make_status

SLEEPER = "import time\ndef waits_for_a_neighbour():\n    time.sleep(60)\nwaits_for_a_neighbour()"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SLEEPER!r}])"


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker of the run in `tmp_path`, with a process that it has started."""
    environment = os.environ | worker_marks(tmp_path, "learner", 3)
    started = subprocess.Popen([sys.executable, "-c", PARENT], env=environment, start_new_session=True)
    yield started
    os.killpg(started.pid, 9)
    started.wait()


def processes(folder: Path) -> RunProcesses:
    return RunProcesses(mark=run_mark(folder), driver_host=socket.gethostname(), driver=os.getpid())


def wait_for(num_processes: int, folder: Path) -> list[stacks.Stacks]:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found = [each for each in stacks_here(processes(folder)) if each.rank >= 0]
        if len(found) == num_processes and "waits_for_a_neighbour" in str(found):
            return found
        time.sleep(0.1)
    raise AssertionError(found)


def test_a_worker_and_what_it_has_started_are_read_and_no_other_run(
    worker: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    own, child = wait_for(2, tmp_path)
    assert {own.worker, child.worker} == {"learner worker 3"} and worker.pid in (own.process_id, child.process_id)
    frames = [frame for each in (own, child) for thread in each.threads for frame in thread.frames]
    assert any(frame.startswith("waits_for_a_neighbour (<string>:3)") for frame in frames)
    assert {each.rank for each in stacks_here(processes(tmp_path / "another"))} == {-1}, "the driver alone"


def test_the_driver_of_another_machine_is_not_looked_for_here(tmp_path: Path) -> None:
    elsewhere = RunProcesses(mark=run_mark(tmp_path), driver_host="elsewhere", driver=os.getpid())
    assert stacks_here(elsewhere) == []


def test_where_tracing_is_refused_the_error_names_the_remedies(
    worker: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for(2, tmp_path)
    refusal = "Permission Denied: Try running again with elevated permissions by going 'sudo env'"
    program = tmp_path / "py-spy"
    program.write_text(f'#!/bin/sh\necho "{refusal}" >&2\nexit 1\n')
    program.chmod(0o755)
    monkeypatch.setattr(stacks.sys, "executable", str(tmp_path / "python"))  # beside which py-spy is looked for
    monkeypatch.setattr(nodes, "processes_of", lambda run: processes(tmp_path))
    monkeypatch.setattr(FolderSource, "look", lambda self: make_look(status=None))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ClusterError, match=r"may not trace it .*as the user of the run.*ptrace_scope=0.*SYS_PTRACE"):
        nodes.stacks_of(FolderSource(tmp_path, "billing"))


def test_a_run_on_another_machine_with_a_ray_of_its_own_is_asked_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = RunProcesses(mark=run_mark(tmp_path), driver_host="elsewhere", driver=1)
    monkeypatch.setattr(nodes, "processes_of", lambda run: elsewhere)
    monkeypatch.setattr(FolderSource, "look", lambda self: make_look(status=make_status(address="127.0.0.1:6379")))
    monkeypatch.setenv("RAY_ADDRESS", "another:6379")  # of another run
    with pytest.raises(ClusterError, match="its driver runs on elsewhere: ask there"):
        nodes.stacks_of(FolderSource(tmp_path, "billing"))


def test_a_run_that_has_ended_has_no_stacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FolderSource, "look", lambda self: make_look(is_alive=False))
    with pytest.raises(ClusterError, match="name=billing: no process of it is there, it is gone .*; see mode=top"):
        nodes.stacks_of(FolderSource(tmp_path, "billing"))
