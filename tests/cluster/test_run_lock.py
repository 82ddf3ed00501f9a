"""Who holds a run folder: on this machine the kernel knows, for others a lock file that is touched."""

import os
import threading
import time
from pathlib import Path

import pytest

from sdft_ray.cluster.run_lock import LOCK_FILE, take_lock
from sdft_ray.errors import CheckpointError, ConfigError
from tests.full_disk import no_file_beyond

LEFT = "process 7 on elsewhere since 2026-01-01 00:00:00\nanother-boot\n"


def test_a_held_folder_names_process_machine_and_since_when(tmp_path: Path) -> None:
    lock = take_lock(tmp_path, "runs")
    lock.check_held()
    since = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
    with pytest.raises(ConfigError, match=rf"process {os.getpid()} on .* since {since} is writing to the run folder"):
        take_lock(tmp_path, "runs")
    lock.close()
    take_lock(tmp_path, "runs").close()


def test_a_lock_that_another_machine_touches_is_held_also_where_flock_does_not_reach_it(tmp_path: Path) -> None:
    path, ended = tmp_path / LOCK_FILE, threading.Event()
    path.write_text(LEFT)

    def touch() -> None:
        while not ended.wait(0.02):
            os.utime(path)

    toucher = threading.Thread(target=touch)
    toucher.start()
    try:
        with pytest.raises(ConfigError, match="process 7 on elsewhere since 2026-01-01 00:00:00 is writing"):
            take_lock(tmp_path, "runs", watch_s=5.0)
    finally:
        ended.set()
        toucher.join()
    assert path.read_text() == LEFT


def test_a_lock_that_a_dead_machine_has_left_is_taken_without_anybodys_help(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).write_text(LEFT)
    started = time.monotonic()
    lock = take_lock(tmp_path, "runs", watch_s=0.2)
    assert 0.2 <= time.monotonic() - started < 5.0
    lock.check_held()
    lock.close()


def test_a_lock_that_this_machine_has_left_is_taken_at_once(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).write_text("process 7 on here since yesterday\nmine\n")
    started = time.monotonic()
    take_lock(tmp_path, "runs", boot_id="mine", watch_s=60.0).close()
    assert time.monotonic() - started < 5.0


def test_a_clean_end_lets_another_machine_begin_at_once(tmp_path: Path) -> None:
    take_lock(tmp_path, "runs", boot_id="one").close()
    started = time.monotonic()
    take_lock(tmp_path, "runs", boot_id="other", watch_s=60.0).close()
    assert time.monotonic() - started < 5.0


def test_a_run_that_was_frozen_while_another_took_over_ends(tmp_path: Path) -> None:
    lock = take_lock(tmp_path, "runs")
    (tmp_path / LOCK_FILE).write_text(LEFT)
    with pytest.raises(CheckpointError, match="process 7 on elsewhere .* has taken over the run folder"):
        lock.check_held()
    lock.close()
    assert (tmp_path / LOCK_FILE).read_text() == LEFT, "the lock is the other's"


def test_a_folder_that_is_gone_ends_no_run_by_its_lock(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    lock = take_lock(tmp_path / "run", "runs")
    (tmp_path / "run" / LOCK_FILE).unlink()
    (tmp_path / "run").rmdir()
    lock.check_held()
    lock.close()


def test_a_start_on_a_full_disk_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with no_file_beyond(0), pytest.raises(ConfigError, match=r"runs_dir=runs: .*\.lock cannot be written \(File too"):
        take_lock(tmp_path, "runs")
