"""Sessions of Rays that have ended go with a later start; none that may be in use does."""

import os
import socket
import time
from pathlib import Path

import pytest

from sdft_ray.cluster.old_sessions import remove_old_sessions

NOBODY = 2**22 + 1  # more than the kernel gives


def session(root: Path, day: int, process_id: int = NOBODY, *, age_s: float = 3600.0) -> Path:
    folder = root / f"session_2026-11-{day:02}_21-05-48_145712_{process_id}"
    log = folder / "logs" / "raylet.out"
    log.parent.mkdir(parents=True)
    (folder / "sockets").mkdir()
    log.write_text("it was there")
    for path in (log, log.parent, folder):
        os.utime(path, times=(time.time() - age_s,) * 2)
    return folder


def test_all_that_have_ended_go_but_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    old = [session(tmp_path, day) for day in (2, 3)]
    newest = session(tmp_path, 4)
    (tmp_path / "session_latest").symlink_to(newest)
    assert remove_old_sessions(Path()) == "removed        2 sessions of Rays that have ended, from ."
    assert newest.is_dir() and not any(folder.exists() for folder in old)
    assert remove_old_sessions(Path()) == ""


@pytest.mark.parametrize(
    "why", ["its process is there", "somebody has just written", "its raylet answers", "no session"]
)
def test_one_that_may_be_in_use_stays(tmp_path: Path, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = session(
        tmp_path,
        2,
        os.getpid() if why == "its process is there" else NOBODY,
        age_s=60.0 if why == "somebody has just written" else 3600.0,
    )
    if why == "no session":
        folder = folder.rename(tmp_path / "session_of_mine")
    session(tmp_path, 3)
    with socket.socket(socket.AF_UNIX) as raylet:
        if why == "its raylet answers":
            monkeypatch.chdir(folder / "sockets")
            raylet.bind("raylet")
            raylet.listen()
        monkeypatch.chdir(tmp_path)
        assert remove_old_sessions(Path()) == ""
    assert folder.is_dir()


def test_where_no_ray_has_been_there_is_nothing_to_remove(tmp_path: Path) -> None:
    assert remove_old_sessions(tmp_path / "r") == ""
