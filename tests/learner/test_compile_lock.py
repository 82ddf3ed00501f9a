"""DeepSpeed's compile lock: a dead owner's is removed, a living owner's is waited for."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sdft_ray.errors import ClusterError
from sdft_ray.learner import compile_lock
from sdft_ray.learner.compile_lock import clear_compile_locks

OWNER = """
import importlib.util, runpy, sys, time
torch = importlib.util.find_spec("torch").submodule_search_locations[0]  # importing it takes seconds
baton = runpy.run_path(f"{torch}/utils/file_baton.py")["FileBaton"](sys.argv[1])
assert baton.try_acquire()
print("locked", flush=True)
time.sleep(float(sys.argv[2]))
baton.release()
"""


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setattr(compile_lock, "AGE_S", 0.0)
    monkeypatch.setattr(compile_lock, "HOST_PID_NAMESPACE", Path("/proc/self/ns/pid").stat().st_ino)
    (tmp_path / "deepspeed_shm_comm").mkdir()
    return tmp_path / "deepspeed_shm_comm" / "lock"


def hold(lock: Path, seconds: float) -> "subprocess.Popen[bytes]":
    """A process that holds the lock as torch does while it compiles."""
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(lock), str(seconds)], stdout=subprocess.PIPE)
    assert owner.stdout is not None and owner.stdout.readline() == b"locked\n"
    return owner


def test_the_lock_of_a_killed_compiler_is_named_and_removed(lock: Path, capsys: pytest.CaptureFixture[str]) -> None:
    owner = hold(lock, 100)
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    assert lock.exists()
    clear_compile_locks()
    assert not lock.exists()
    assert f"removed {lock}: the process that compiled" in capsys.readouterr().out


def test_the_lock_of_a_living_compiler_is_waited_for(lock: Path, capsys: pytest.CaptureFixture[str]) -> None:
    owner = hold(lock, 1.5)
    started = time.monotonic()
    clear_compile_locks()
    assert time.monotonic() - started > 0.5
    assert owner.wait(timeout=10) == 0, "it released its lock itself"
    assert f"waiting for {lock}, held by process {owner.pid}" in capsys.readouterr().out


def test_a_living_owner_is_not_waited_for_for_ever(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_lock, "PATIENCE_S", 0.5)
    owner = hold(lock, 100)
    try:
        with pytest.raises(ClusterError, match=f"lock: process {owner.pid} has held this lock"):
            clear_compile_locks()
    finally:
        owner.kill()
        owner.wait()


def shared_with_other_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_lock, "LOCAL", set())


def shared_with_other_containers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_lock, "HOST_PID_NAMESPACE", 0)


def shared_with_other_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: os.getuid() + 1)


@pytest.mark.parametrize("shared", [shared_with_other_machines, shared_with_other_containers, shared_with_other_users])
def test_where_the_owner_may_be_out_of_sight_only_an_old_lock_is_a_dead_owners(
    lock: Path, monkeypatch: pytest.MonkeyPatch, shared: Callable[[pytest.MonkeyPatch], None]
) -> None:
    shared(monkeypatch)
    monkeypatch.setattr(compile_lock, "PATIENCE_S", 0.5)
    lock.touch()
    with pytest.raises(ClusterError, match="not visible from here, or that is dead has held this lock"):
        clear_compile_locks()
    an_hour_ago = time.time() - 3600
    os.utime(lock, (an_hour_ago, an_hour_ago))
    clear_compile_locks()
    assert not lock.exists()
