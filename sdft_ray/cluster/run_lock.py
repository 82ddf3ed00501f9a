"""The lock of a run folder: one run at a time writes to it, and a dead one never has to be cleared away by hand.

The kernel (or an NFS server) releases a flock when its process ends, however that ends. Some shared file systems keep
flock within one machine; so a run also touches its lock file every `HEARTBEAT_S`. A start that gets the flock of a file
which names another machine waits for `WATCH_S` whether it is touched, by which no clocks have to agree.

The hard case is a machine that is frozen or cut off for longer, and comes back: its run no longer holds the folder. It
finds that out before its next checkpoint (`check_held`) and ends; lines of metrics may have been written twice by then.
"""

import fcntl
import os
import re
import socket
import threading
import time
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from sdft_ray.errors import CheckpointError, ConfigError

LOCK_FILE = ".lock"
HOLDER = re.compile(r"process (\d+) on (\S+) since (.*)\n(\S*)")
HEARTBEAT_S = 15.0
WATCH_S = 40.0  # long enough for two heartbeats, one of which a file system may hold back
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # another one after every start of a machine


class RunLock:
    """The held lock of a folder."""

    def __init__(self, file: FileIO, path: Path, me: str):
        """Writes who holds it, and begins to touch it.

        Args:
            file: open and locked.
            path: of the file.
            me: process and machine, on lines of their own.

        Raises:
            OSError: it cannot be written.
        """
        self._file, self._path, self._me = file, path, me
        file.truncate(0)
        file.write(me.encode())
        self._ended = threading.Event()
        threading.Thread(target=self._beat, daemon=True, name="run-lock").start()

    def check_held(self) -> None:
        """Returns where this process still holds the folder, or where the folder cannot be looked at.

        Raises:
            CheckpointError: another run has taken the folder over.
        """
        try:
            holder = self._path.read_text()
        except OSError:  # deleted or unreachable: writing to it will say so
            return
        if holder != self._me:
            raise CheckpointError(
                f"{holder.partition(chr(10))[0] or 'another process'} has taken over the run folder "
                f"{self._path.parent} while this one could not be seen; this one ends and writes no more."
            )

    def close(self) -> None:
        """Releases the folder, so that a start on another machine need not wait."""
        self._ended.set()
        try:
            if self._path.read_text() == self._me:
                self._file.truncate(0)
        except OSError:  # the folder is gone, and the lock with it
            pass
        self._file.close()

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_S):
            try:
                os.utime(self._path)
            except OSError:  # full, deleted, or away for a while: the next one tries again
                pass


@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """The run that holds a folder, as its lock file tells those who only look."""

    process_id: int
    host: str
    since: str
    is_alive: bool


def holder_of(folder: Path, now: float) -> Holder | None:
    """Who holds a run folder, or died with it; None where nobody does. Takes no lock, which a start could meet.

    A process of this machine is looked up. One of another machine or container is alive where the file was touched a
    short while before `now` [s since 1970], by the clocks of both.
    """
    path = folder / LOCK_FILE
    try:
        match, touched_at = HOLDER.match(path.read_text(errors="replace")), path.stat().st_mtime
    except FileNotFoundError:
        return None
    if match is None:
        return None
    process_id, host, since, boot_id = match.groups()
    is_here = host == socket.gethostname() and boot_id == BOOT_ID.read_text().strip()
    is_alive = Path(f"/proc/{process_id}").exists() if is_here else now - touched_at < WATCH_S
    return Holder(process_id=int(process_id), host=host, since=since, is_alive=is_alive)


def take_lock(folder: Path, runs_dir: str, *, boot_id: str = "", watch_s: float = WATCH_S) -> RunLock:
    """Locks a run folder.

    Args:
        folder: the run folder.
        runs_dir: as it was set.
        boot_id: of this machine; "" reads it.
        watch_s: how long a file that another machine has left is watched.

    Raises:
        ConfigError: a run that is alive holds it, or its file system has no locks.
    """
    boot_id = boot_id or BOOT_ID.read_text().strip()
    path = folder / LOCK_FILE
    file = FileIO(path, "a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = _lines(file)[0]
        file.close()
        raise _held(folder, holder) from error
    except OSError as error:
        file.close()
        problem = f"its file system has no locks ({error.strerror})"
        raise ConfigError("runs_dir", runs_dir, problem, "choose a folder on one that has flock") from error
    holder, machine = _lines(file)
    if machine and machine != boot_id and _is_touched(path, watch_s):
        file.close()
        raise _held(folder, holder)
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    try:
        return RunLock(file, path, f"process {os.getpid()} on {socket.gethostname()} since {since}\n{boot_id}\n")
    except OSError as error:
        file.close()
        problem = f"{path} cannot be written ({error.strerror})"
        raise ConfigError(
            "runs_dir", runs_dir, problem, "make room there, or choose a folder that can be written"
        ) from error


def _lines(file: FileIO) -> tuple[str, str]:
    """Who holds a lock file, and the boot id of its machine; "" for what it does not say."""
    file.seek(0)
    holder, _, machine = file.read().decode(errors="replace").partition("\n")
    return holder or "another process", machine.strip()


def _is_touched(path: Path, watch_s: float) -> bool:
    """True when somebody touches a file within `watch_s`."""
    first, until = _touched_at(path), time.monotonic() + watch_s
    while time.monotonic() < until:
        time.sleep(min(1.0, watch_s / 10))
        if _touched_at(path) != first:
            return True
    return False


def _touched_at(path: Path) -> int:
    with path.open() as file:  # opened anew, since NFS asks its server then
        return os.fstat(file.fileno()).st_mtime_ns


def _held(folder: Path, holder: str) -> ConfigError:
    remedy = "wait until it has ended, or choose another name"
    return ConfigError("name", folder.name, f"{holder} is writing to the run folder {folder}", remedy)
