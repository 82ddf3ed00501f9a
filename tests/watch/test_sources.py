"""Which run mode=top and mode=stacks look at."""

import json
import os
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from sdft_ray.cluster.run_lock import LOCK_FILE, RunLock, holder_of, take_lock
from sdft_ray.errors import ConfigError
from sdft_ray.tracking.run_status import STATUS_FILE
from sdft_ray.watch.frame import State
from sdft_ray.watch.sources import FolderSource, find_run
from tests.watch.observed import make_status


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def held(folder: Path) -> RunLock:
    folder.mkdir(parents=True)
    return take_lock(folder, str(folder.parent))


def test_without_a_name_it_is_the_newest_that_is_alive(tmp_path: Path) -> None:
    locks = [held(tmp_path / name) for name in ("first", "sweep/second", "ended")]
    locks[2].close()
    for number, name in enumerate(("first", "sweep/second")):
        os.utime(tmp_path / name / LOCK_FILE, (number + 1e9, number + 1e9))
    found = find_run("", str(tmp_path))
    assert isinstance(found, FolderSource)
    assert (found.folder, found.name) == (tmp_path / "sweep" / "second", "sweep/second")
    for lock in locks[:2]:
        lock.close()


def test_a_name_or_none_that_leads_nowhere_is_refused_with_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"name=billing: there is no run folder .*; set runs_dir, or set RAY_ADDRESS"):
        find_run("billing", str(tmp_path))
    (tmp_path / "ended").mkdir()
    with pytest.raises(ConfigError, match=r"name=: no run in .* is alive; name one that has ended"):
        find_run("", str(tmp_path))


def test_a_lock_is_looked_at_without_being_taken(tmp_path: Path) -> None:
    assert holder_of(tmp_path, 0.0) is None
    lock = held(tmp_path / "run")
    holder = holder_of(tmp_path / "run", time.time())
    assert holder is not None and (holder.process_id, holder.is_alive) == (os.getpid(), True)
    lock.close()
    assert holder_of(tmp_path / "run", time.time()) is None


def test_a_holder_that_was_killed_is_not_alive_nor_one_of_another_machine_that_is_long_silent(tmp_path: Path) -> None:
    lock = held(tmp_path / "run")
    path = tmp_path / "run" / LOCK_FILE
    text = path.read_text()
    path.write_text(text.replace(f"process {os.getpid()} ", "process 999999999 "))
    killed = holder_of(tmp_path / "run", time.time())
    path.write_text(text.replace(" since", "-elsewhere since"))
    now = path.stat().st_mtime
    touched, silent = (holder_of(tmp_path / "run", now + seconds) for seconds in (5.0, 500.0))
    assert [holder and holder.is_alive for holder in (killed, touched, silent)] == [False, True, False]
    lock.close()


def test_what_another_driver_has_left_is_not_taken_for_the_status_of_the_one_that_starts(tmp_path: Path) -> None:
    lock = held(tmp_path / "run")
    (tmp_path / "run" / STATUS_FILE).write_text(json.dumps(asdict(make_status(process_id=1))))
    look = FolderSource(tmp_path / "run", "run").look()
    assert look.state is State.STARTING and look.view.status is None
    lock.close()
    assert FolderSource(tmp_path / "run", "run").look().state is State.GONE
